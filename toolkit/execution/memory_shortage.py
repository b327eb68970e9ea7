"""The error of a run that ran out of memory: how much was available, and what would fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from toolkit.base import files, ranks
from toolkit.base.errors import ToolkitError
from toolkit.config.schema import PretrainRecipe, StageRecipe
from toolkit.models.memory import estimate, fitting_micro_batch, fitting_model, micro_batch
from toolkit.runs import layout, references
from toolkit.runs.run import Run
from toolkit.runtime.host_memory import available_memory

SAFE_FRACTION, SAFE_FRACTION_ON_GPU = 0.7, 0.9
"""Fractions of the available memory that a suggestion may need: an estimated 1.4 GiB did not fit into 1.6."""

_WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "bad_alloc",
)


def _available_on_gpu(text: str) -> int | None:
    """Return the bytes of the GPU that the process has or that are free, from PyTorch's error message."""
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    matches = [
        re.search(pattern, text)
        for pattern in (r"of which ([\d.]+) (\wiB) is free", r"this process has ([\d.]+) (\wiB)")
    ]
    return sum(int(float(match[1]) * units[match[2]]) for match in matches if match) if all(matches) else None


def is_shortage(error: BaseException) -> bool:
    """Say whether an error means that there was not enough memory, of a GPU or of the host."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(words in str(error).lower() for words in _WORDS)


def shortage(error: BaseException, recipe: StageRecipe, run: Run) -> ToolkitError:
    """Return the error to report: how much memory was available, how much is needed, and what would fit."""
    on_gpu = any(word in str(error) for word in ("CUDA", "GPU", "MPS"))
    free = _available_on_gpu(str(error)) if on_gpu else available_memory()
    message = "the GPU's memory" if on_gpu else "the memory"
    message += " is not enough" + (f": {_gib(free)} were available to this process" if free else "")
    if not isinstance(recipe, PretrainRecipe) or recipe.checkpoint:
        micro_batch_setting = f"micro_batch_{'tokens' if isinstance(recipe, PretrainRecipe) else 'examples'}"
        fix = f"set a smaller {micro_batch_setting} (the batch stays the same), and start over with --fresh"
        return ToolkitError(message, where=str(run.path), fix=fix)
    settings = {
        "vocab_size": vocabulary(run, recipe), "bf16": run.decisions.precision == "bf16",
        "on_gpu": on_gpu, "processes": ranks.world_size(),
    }  # fmt: skip
    need = estimate(recipe, **settings)
    tokens = micro_batch(recipe, processes=settings["processes"])
    message += (
        f"; by the estimate the recipe needs {_gib(need.peak)} with "
        f"{tokens:,} tokens in a forward pass ({_gib(need.activations + need.logits)} of them for these)"
    )
    return ToolkitError(
        message, where=str(run.path), fix=_fix(recipe, free or need.peak // 2, tokens, settings)
    )


def _fix(recipe: PretrainRecipe, available_bytes: int, tokens: int, settings: dict[str, Any]) -> str:
    budget = int(available_bytes * (SAFE_FRACTION_ON_GPU if settings["on_gpu"] else SAFE_FRACTION))
    fits = fitting_micro_batch(recipe, budget, **settings)
    if fits is not None and fits < tokens:
        return (
            f"by the estimate micro_batch_tokens={fits} fits: give it, with --fresh; the batch stays the same"
        )
    if fits is not None:
        return (
            "by the estimate this fits: another program uses the memory; end it, or halve micro_batch_tokens"
        )
    smaller = fitting_model(recipe, budget, **settings)
    if smaller is None:
        return "not even one row of the smallest such model fits: shorten sequence_length or free memory"
    return (
        f"not even one row of {recipe.row_tokens()} tokens fits; a smaller model would: model.n_layer="
        f"{smaller.n_layer} model.n_head={smaller.n_head} model.n_embd={smaller.n_embd}, with --fresh"
    )


def vocabulary(run: Run, recipe: PretrainRecipe) -> int:
    """Return the entries of the tokenizer with which the corpus was made, from its index."""
    folder = references.corpus_folder(Path(run.reference(recipe.tokens)))
    assert folder is not None, "a pretraining has opened its corpus before it can run out of memory"
    return files.read_json(folder / "train" / layout.TOKEN_INDEX)["vocab_size"]


def _gib(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
