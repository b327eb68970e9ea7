"""Refusing models that cannot be used as what they are loaded for, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.models.auto import modeling_auto

from toolkit.base.errors import ModelError, ToolkitError
from toolkit.models.description import ModelDescription, describe, forward, text_config

PROBE_TOKENS = 5
"""Tokens of the text with which a model is tried."""
MOST_UNREADABLE = 64
"""Added tokens without an embedding; a tokenizer with more belongs to another model."""
ROUNDING = {torch.float64: 5e-3, torch.float32: 5e-3, torch.float16: 0.05, torch.bfloat16: 0.1}
"""By how much equal computations in other shapes may differ, as a share of the largest logit."""
LEAKAGE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 0.02}
"""By how much earlier logits of a causal model may depend on later tokens: experts see other shapes."""

_unreadable: WeakKeyDictionary[nn.Module, Mapping[int, str]] = WeakKeyDictionary()
"""Tokens without a row in the input embedding of a model."""


def probe_ids(model: nn.Module, count: int) -> torch.Tensor:
    """Return `count` distinct ids with which a model is tried, (count,).

    They are in the middle of the vocabulary, because special tokens are at its ends.
    """
    rows = describe(model).embedded
    special = {getattr(text_config(model.config), f"{name}_token_id", None) for name in ("pad", "bos", "eos")}
    ids = [(rows // 2 + number) % rows for number in range(min(rows, count + len(special)))]
    return torch.tensor([token for token in ids if token not in special][:count], device=model.device)


def agree(
    first: torch.Tensor, second: torch.Tensor, *, model: nn.Module, within: Mapping[torch.dtype, float]
) -> bool:
    """Return whether two tensors of logits (..., vocabulary) are equal within `ROUNDING` or `LEAKAGE`."""
    dtype, device = model.dtype, model.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    first, second = first.float(), second.float()
    scale = float((first - first.mean(dim=-1, keepdim=True)).abs().max())
    return float((first - second).abs().max()) <= within.get(dtype, within[torch.bfloat16]) * scale


@torch.no_grad()
def require_causal(model: nn.Module, *, where: str | None = None) -> None:
    """Refuse a model that is not a language model: its logits at a position must not depend on later tokens.

    The last of a few tokens is changed, in eval mode. Nothing is drawn.

    Raises:
        ModelError: an encoder, an encoder-decoder, a model that reads no plain text, or logits that are not
            finite.
    """
    description = describe(model)
    _refuse_encoder_decoder(model, description, where)
    rows = _probe_rows(model)
    try:
        logits = forward(model, rows, use_cache=False).logits
    except Exception as error:  # whatever code of any architecture raises
        raise ModelError(
            f"a {description.class_name} cannot read a plain text: {type(error).__name__}: {error}",
            where=where, fix="give a causal language model for text, such as a Llama or a GPT-2",
        ) from error  # fmt: skip
    if logits.shape != (*rows.shape, description.vocabulary):
        raise ModelError(
            f"a {description.class_name} does not predict one next token at each position", where=where,
            fix="give a causal language model for text, such as a Llama or a GPT-2",
        )  # fmt: skip
    require_finite(logits, model, where=where)
    if not agree(logits[0, :-1], logits[1, :-1], model=model, within=LEAKAGE):
        raise ModelError(
            f"a {description.class_name} with this configuration is an encoder, not a language model: its "
            "predictions depend on later tokens", where=where,
            fix="give a causal language model, such as a Llama or a GPT-2",
        )  # fmt: skip


@torch.no_grad()
def require_causal_scores(model: nn.Module, *, where: str | None = None) -> None:
    """Refuse a classifier of a model that is not causal: its score is read at the last token of a text.

    As `require_causal`, on the hidden states that the score is computed from.

    Raises:
        ModelError: hidden states depend on later tokens, or are not finite.
    """
    name = type(model).__name__
    try:
        hidden = forward(model.base_model, _probe_rows(model), use_cache=False).last_hidden_state
    except Exception as error:  # whatever code of any architecture raises
        raise ModelError(
            f"a {name} cannot read a plain text: {type(error).__name__}: {error}", where=where,
            fix="give a run of the reward stage, or a classifier of a causal language model",
        ) from error  # fmt: skip
    require_finite(hidden, model, where=where, what="hidden states")
    if not agree(hidden[0, :-1], hidden[1, :-1], model=model, within=LEAKAGE):
        raise ModelError(
            f"a {name} with this configuration is an encoder: its hidden states depend on later tokens",
            where=where, fix="give a run of the reward stage, or a classifier of a causal language model",
        )  # fmt: skip


def _probe_rows(model: nn.Module) -> torch.Tensor:
    """Return two texts of token ids that differ in their last token, (2, PROBE_TOKENS)."""
    ids = probe_ids(model, PROBE_TOKENS + 1)
    return torch.stack([ids[:-1], torch.cat([ids[:-2], ids[-1:]])])


def _refuse_encoder_decoder(model: nn.Module, description: ModelDescription, where: str | None) -> None:
    pairs = modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values()
    written_as = [name for name in model.config.architectures or () if name in pairs]
    if getattr(model.config, "is_encoder_decoder", False) or (
        written_as and description.class_name not in written_as
    ):
        name = written_as[0] if written_as else description.class_name
        raise ModelError(
            f"a {name} is an encoder-decoder, not a language model: its decoder reads an encoder",
            where=where, fix="give a causal language model, such as a Llama or a GPT-2",
        )  # fmt: skip


def require_finite(
    logits: torch.Tensor, model: nn.Module, *, where: str | None = None, what: str = "logits"
) -> None:
    """Raise ModelError if a row of logits (..., vocabulary) has no finite maximum; -inf is allowed.

    Args:
        what: the name of these numbers, for the message.
    """
    if not bool(torch.isfinite(logits.amax(dim=-1)).all()):
        raise ModelError(
            f"its {what} are not finite (NaN or infinite)",
            where=where or getattr(model, "name_or_path", None) or type(model).__name__,
            fix="use an earlier checkpoint: the training diverged, or the file is damaged; a model that was "
            "trained in bf16 may overflow in fp16",
        )


def allow_unreadable_tokens(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, where: str | None = None
) -> None:
    """Accept tokens without a row in the input embedding, which no text may then produce.

    Some checkpoints ship a few, such as Gemma 3 the image token. They are refused where a model reads them.

    Raises:
        ToolkitError: tokens of the vocabulary proper have no row, or many added ones.
    """
    rows, added = describe(model).embedded, tokenizer.added_tokens_decoder
    if max(len(tokenizer), max(added, default=-1) + 1) <= rows:
        return
    beyond = {token_id: token for token, token_id in tokenizer.get_vocab().items() if token_id >= rows}
    if beyond.keys() - added.keys() or len(beyond) > MOST_UNREADABLE:
        raise ToolkitError(
            f"the tokenizer has {len(tokenizer)} entries and the model only {rows}", where=where,
            fix="take the model and the tokenizer from the same run",
        )  # fmt: skip
    _unreadable[model] = beyond
    model.get_input_embeddings().register_forward_pre_hook(partial(_refuse_unreadable, beyond))


def unreadable_tokens(model: nn.Module) -> Mapping[int, str]:
    """Return the tokens by id that had no row in the input embedding when the model was loaded."""
    return _unreadable.get(model, {})


def require_readable(model: nn.Module, largest_id: int) -> None:
    """Raise ToolkitError if the model has no embedding for a token id."""
    rows = describe(model).embedded
    if largest_id >= rows:
        raise _not_readable(unreadable_tokens(model), rows, largest_id)


def _refuse_unreadable(
    beyond: Mapping[int, str], embedding: nn.Module, arguments: tuple[torch.Tensor, ...]
) -> None:
    rows = embedding.weight.shape[0]  # more than at first after resize_token_embeddings
    largest = max((int(ids.max()) for ids in arguments[:1] if ids.numel()), default=0)
    if largest >= rows:
        raise _not_readable(beyond, rows, largest)


def _not_readable(beyond: Mapping[int, str], rows: int, token_id: int) -> ToolkitError:
    name = f"the token {beyond[token_id]!r}" if token_id in beyond else "a token"
    return ToolkitError(
        f"{name} with id {token_id} has no row in the model's embedding of {rows}",
        fix="leave this token out of the text and of the chat template, or add rows to the model with "
        "resize_token_embeddings",
    )
