"""Adapters of PEFT, such as LoRA, merged into the weights of their base model, which is plain then."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from toolkit.base.errors import ToolkitError
from toolkit.models import checkpoint_folder, safetensors_files
from toolkit.models.tokenizer_loading import load_tokenizer

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NAME = "default"


def is_classifier(folder: Path) -> bool:
    """Return whether an adapter makes a sequence classifier, as reward models are, of its base model."""
    return (
        checkpoint_folder.read_json(folder / checkpoint_folder.ADAPTER_CONFIG).get("task_type") == "SEQ_CLS"
    )


def merged(
    folder: Path, model: PreTrainedModel, report: dict[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the base model with the adapter in its weights, and the report of loading both.

    Args:
        model: the base model; it is changed.
        report: transformers' report of its weights. What the adapter brings, such as a score head, is not
            missing any more.

    Raises:
        ToolkitError: the adapter's weights are missing or do not fit the model, or it is of a kind that does
            not change weights (prompt tuning).
    """
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict  # 1 s that most models do not need

    weights = _weights(folder)
    if is_classifier(folder) and not hasattr(model, "num_labels"):
        raise ToolkitError(
            "is an adapter of a reward model, not a language model", where=str(folder),
            fix="give one that was trained on a language model",
        )  # fmt: skip
    try:
        config = PeftConfig.from_pretrained(folder)
        if config.is_prompt_learning:
            raise ToolkitError(
                f"is an adapter of the kind {config.peft_type.value}, which cannot be merged into weights",
                where=str(folder), fix="give a LoRA adapter, or a whole model",
            )  # fmt: skip
        _make_room(folder, model, weights)
        config.inference_mode, config.base_model_name_or_path = True, model.name_or_path
        with warnings.catch_warnings():  # PEFT asks transformers by a deprecated name
            warnings.simplefilter("ignore", FutureWarning)
            wrapped = get_peft_model(model, config)
        loaded = set_peft_model_state_dict(wrapped, weights)
        missing = [key for key in loaded.missing_keys if f".{_NAME}" in key]
        if missing or loaded.unexpected_keys:
            key = (missing or loaded.unexpected_keys)[0]
            raise _unfit(folder, f"{'it lacks' if missing else 'the model has no place for'} {key}")
        plain = wrapped.merge_and_unload().requires_grad_(True)  # PEFT froze the base model
    except ToolkitError:
        raise
    except Exception as error:  # a file of other people may be wrong in any way
        raise _unfit(folder, repr(error).splitlines()[0]) from error
    brought = {key.removeprefix(_PREFIX) for key in weights}
    missing_keys = [key for key in report["missing_keys"] if key not in brought]
    return plain, {**report, "missing_keys": missing_keys}


def _weights(folder: Path) -> dict[str, Any]:
    path = folder / WEIGHTS
    if not path.is_file():
        pickle = folder / "adapter_model.bin"
        command = (
            "import torch; from safetensors.torch import save_file; "
            f"save_file(torch.load({str(pickle)!r}, weights_only=True), {str(path)!r})"
        )
        fix = f'convert it once: python -c "{command}"' if pickle.is_file() else f"copy {WEIGHTS}, too"
        raise ToolkitError("is an adapter without weights in safetensors", where=str(folder), fix=fix)
    safetensors_files.header(path)
    return load_file(path)


def _make_room(folder: Path, model: PreTrainedModel, weights: dict[str, Any]) -> None:
    """Add rows to the embeddings for the tokens that were added when the adapter was trained.

    What the adapter does not train of them is the mean of the other rows: random rows would differ from one
    load to the next.
    """
    table = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is table)
    saved = weights.get(f"{_PREFIX}{name}.weight")
    own = len(load_tokenizer((str(folder), None))) if checkpoint_folder.has_tokenizer(folder) else 0
    rows = own if saved is None else saved.shape[0]
    before = table.num_embeddings
    if rows > before:
        model.resize_token_embeddings(rows, mean_resizing=False)
        for resized in (model.get_input_embeddings(), model.get_output_embeddings()):
            if resized is not None:
                with torch.no_grad():
                    resized.weight[before:] = resized.weight[:before].mean(dim=0)


def _unfit(folder: Path, reason: str) -> ToolkitError:
    return ToolkitError(
        f"is an adapter that does not fit its base model: {reason}", where=str(folder),
        fix=f"give the model that it was trained on as base_model_name_or_path in "
        f"{folder / checkpoint_folder.ADAPTER_CONFIG}",
    )  # fmt: skip
