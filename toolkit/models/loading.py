"""Loading and saving of model folders: weights only from safetensors, never code from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from toolkit.base.errors import ToolkitError
from toolkit.base.files import atomic_folder
from toolkit.base.rng import derive
from toolkit.models.vocabulary import Reference, load_tokenizer, local_folder, not_loadable
from toolkit.runs import layout

PAD_TOKEN = "<|pad|>"


def load_causal_lm(
    reference: Reference, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a language model of any architecture that transformers itself knows, and its tokenizer.

    The model is in eval mode. A tokenizer without a padding token pads with end-of-text: masks, not
    ids, say what padding is.

    Raises:
        ToolkitError: no such folder, not a model folder, weights missing or not in safetensors, no
            tokenizer, a reward model, or a hub model that cannot be had.
    """
    model, loading = _load(AutoModelForCausalLM, reference, dtype)
    tokenizer = load_tokenizer(reference)
    foreign = [key for key in loading["unexpected_keys"] if key.startswith(("score.", "classifier."))]
    if foreign:
        raise ToolkitError(
            "is a reward model, not a language model", where=reference[0],
            fix="name the run of a pretrain, sft, dpo or ppo stage",
        )  # fmt: skip
    if loading["missing_keys"]:
        raise _incomplete(reference, loading["missing_keys"])
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _check_vocabulary(model, tokenizer, reference)
    # GPT2LMHeadModel's name does not say which loss it has: transformers takes this one, with a warning.
    model.loss_type = model.loss_type or "ForCausalLM"
    return model.to(device).eval(), tokenizer


def load_reward_model(
    reference: Reference,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    new_head_seed: int | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a reward model: a sequence classifier with one score, and its tokenizer, in eval mode.

    With `new_head_seed` a language model may be given: it gets a new score head, drawn from
    N(0, 1 / (width + 1)) (Huang et al., 2024, "The N+ implementation details of RLHF with PPO", detail 11).
    The padding token is known and differs from end-of-text, because the score is read at the last
    token that is not padding; where the tokenizer has none, one is added.

    Raises:
        ToolkitError: as `load_causal_lm`; or a language model without `new_head_seed`.
    """
    model, loading = _load(AutoModelForSequenceClassification, reference, dtype, num_labels=1)
    tokenizer = load_tokenizer(reference)
    missing = set(loading["missing_keys"])
    head_missing = {key for key in missing if key.startswith("score.")}
    if head_missing and new_head_seed is None:
        raise ToolkitError(
            "is a language model, not a reward model: it has no score head", where=reference[0],
            fix="name the run of a reward stage",
        )  # fmt: skip
    if missing - head_missing:
        raise _incomplete(reference, sorted(missing - head_missing))
    if head_missing:
        generator = torch.Generator().manual_seed(derive(new_head_seed or 0, "score head"))
        std = (model.config.get_text_config().hidden_size + 1) ** -0.5
        with torch.no_grad():
            model.score.weight.copy_(torch.randn(model.score.weight.shape, generator=generator) * std)
    _ensure_padding(model, tokenizer)
    _check_vocabulary(model, tokenizer, reference)
    return model.to(device).eval(), tokenizer


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path | str) -> None:
    """Write a `from_pretrained` folder whole or not at all: safetensors, config, tokenizer, chat template.

    An earlier folder of that name is replaced.
    """
    with atomic_folder(Path(folder)) as temporary:
        write_model(model, tokenizer, temporary)


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the files of a model folder into an existing folder; callers make it atomic."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _load(
    auto: Any, reference: Reference, dtype: torch.dtype, **config: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load with transformers' own report of missing and unexpected weights, which it only warns about."""
    name, revision = reference
    folder = local_folder(name)
    if folder:
        _check_model_folder(folder)
    try:
        with torch.random.fork_rng(devices=[]):  # missing weights are drawn from the global generator
            return auto.from_pretrained(
                name, revision=revision, dtype=dtype, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True, **config,
            )  # fmt: skip
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise not_loadable(name, revision, error) from error


def _check_model_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        inner = folder / layout.MODEL / "config.json"
        fix = f"name {folder / 'model'}" if inner.is_file() else "name a folder that save_pretrained wrote"
        raise ToolkitError("is not a model folder: it has no config.json", where=str(folder), fix=fix)
    if not any(folder.glob("*.safetensors")):
        raise ToolkitError(
            "has no weights in safetensors", where=str(folder),
            fix="a pickle can run code and is never loaded: save the model again with save_pretrained",
        )  # fmt: skip


def _incomplete(reference: Reference, missing: list[str] | set[str]) -> ToolkitError:
    names = sorted(missing)
    return ToolkitError(
        f"lacks {len(names)} of the model's weights, such as {names[0]}", where=reference[0],
        fix="the file is of another architecture or was cut off; save the model again",
    )  # fmt: skip


def _ensure_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give model and tokenizer one padding id that is not end-of-text."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            # no softmax reads these rows, and padding is never attended to: what they hold does not matter
            model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id


def _check_vocabulary(model: nn.Module, tokenizer: PreTrainedTokenizerBase, reference: Reference) -> None:
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ToolkitError(
            f"the tokenizer has {len(tokenizer)} entries and the model only {rows}", where=reference[0],
            fix="the folder mixes two models: take model and tokenizer from the same run",
        )  # fmt: skip
