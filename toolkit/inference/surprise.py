"""How surprising each token of a text is for a model, and how far another model's predictions are from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from toolkit.base.errors import ToolkitError, UsageError
from toolkit.data.chat import answer_end, template
from toolkit.data.text import lost_text
from toolkit.inference.logprobs import start_id, token_logits
from toolkit.inference.opening import OpenModel
from toolkit.models.context_length import default_length
from toolkit.models.description import vocabulary
from toolkit.models.tokenizer_loading import tokenizer_digest
from toolkit.runtime import devices

BITS = 1 / math.log(2)
MAX_ENTRIES = 2**25
"""Log-probabilities of a comparison that are kept at once: 128 MB."""
DEFAULT_WINDOW = 2048
"""The window for models without a context length in their configuration, as in `toolkit evaluate`."""


@dataclass(frozen=True)
class Reading:
    """A text as the tokens that a model predicts.

    Attributes:
        text: that is scored.
        ids: of the context, the text and its end.
        start: index of the first token that is scored.
        ended: whether the last token is the end of the text, else the text goes on.
    """

    text: str
    ids: list[int]
    start: int
    ended: bool

    @classmethod
    def of(
        cls, opened: OpenModel, text: str, *, prompt: str | None = None, score_end: bool = True
    ) -> Reading:
        """Return a text as a document, as `toolkit evaluate` reads it, or as the answer to a prompt.

        Args:
            score_end: whether the end of the text is its last token, if the tokenizer has one.

        Raises:
            UsageError: a prompt for a model without a chat template.
            ToolkitError: there is no token to score.
        """
        tokenizer = opened.tokenizer
        if prompt is None:
            start, end = start_id(opened.model, tokenizer), tokenizer.eos_token_id
            context = [] if start is None else [start]
        elif tokenizer.chat_template:
            context = opened.chat_ids([{"role": "user", "content": prompt}])
            end = answer_end.end_id(tokenizer)
        else:
            raise UsageError(
                "the model has no chat template, so it answers no prompt", fix="leave out the prompt"
            )
        ends = [] if end is None or not score_end else [end]
        ids = [*context, *template.encode_text(tokenizer, text), *ends]
        if len(ids) < 2:
            raise ToolkitError("the text has no token to score", fix="give at least two characters")
        return cls(text, ids, max(1, len(context)), bool(ends))

    @property
    def tokens(self) -> int:
        """Tokens that are scored."""
        return len(self.ids) - self.start


@dataclass(frozen=True)
class Surprise:
    """What a model says about each scored token; arrays of (tokens,).

    Attributes:
        bits: -log2 of the token's probability.
        ranks: of the token; 1 is the most probable.
        entropies: of the whole distribution, in bits: the surprise that the model expects.
        best: the most probable token.
        best_bits: its surprise.
        divergences: KL divergence of the model's distribution from the reference's, in bits; None without a
            reference.
    """

    bits: np.ndarray
    ranks: np.ndarray
    entropies: np.ndarray
    best: np.ndarray
    best_bits: np.ndarray
    divergences: np.ndarray | None

    @classmethod
    def joined(cls, parts: Sequence[Surprise]) -> Surprise:
        """Return consecutive parts of a text as one."""
        columns: dict[str, list[Any]] = {
            field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)
        }
        joined: dict[str, Any] = {
            name: None if values[0] is None else np.concatenate(values) for name, values in columns.items()
        }
        return cls(**joined)


@torch.no_grad()
def surprise(
    opened: OpenModel,
    reading: Reading,
    *,
    start: int,
    stop: int,
    reference: np.ndarray | None = None,
    keep: bool = False,
) -> tuple[Surprise, np.ndarray | None]:
    """Score reading.ids[start:stop]; also return its log-probabilities, (tokens, vocabulary), if `keep`.

    Args:
        reference: such log-probabilities of another model, for the divergence.
    """
    window = default_length(opened.model, without_limit=DEFAULT_WINDOW)
    parts: list[Surprise] = []
    kept: list[np.ndarray] = []
    done = 0
    for targets, logits in token_logits(opened.model, reading.ids, window=window, start=start, stop=stop):
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        others = None
        if reference is not None:
            others = torch.from_numpy(reference[done : done + len(targets)]).to(logprobs.device)
        parts.append(_block(logprobs, targets, others))
        done += len(targets)
        if keep:
            kept.append(logprobs.cpu().numpy())
    return Surprise.joined(parts), np.concatenate(kept) if keep else None


def _block(logprobs: torch.Tensor, targets: torch.Tensor, reference: torch.Tensor | None) -> Surprise:
    of_targets = logprobs.gather(-1, targets[:, None])
    best = logprobs.max(dim=-1)
    shares = logprobs.exp()
    arrays = [
        -BITS * of_targets[:, 0],
        (logprobs > of_targets).sum(dim=-1) + 1,
        -BITS * torch.xlogy(shares, shares).sum(dim=-1),
        best.indices,
        -BITS * best.values,
    ]
    if reference is not None:
        dtype = devices.sum_dtype(logprobs.device)
        terms = shares.to(dtype) * (logprobs.to(dtype) - reference.to(dtype))
        # exp underflows to 0 where a log-probability is below -103
        arrays.append(BITS * torch.where(shares > 0, terms, 0.0).sum(dim=-1).clamp(min=0))
    found = [array.cpu().numpy() for array in arrays]
    return Surprise(*found, *([None] if reference is None else []))


def parts_of(reading: Reading, entries: int) -> list[tuple[int, int]]:
    """Return (start, stop) of the parts of a text whose log-probabilities fit in `MAX_ENTRIES`."""
    size = max(1, MAX_ENTRIES // entries)
    return [(at, min(at + size, len(reading.ids))) for at in range(reading.start, len(reading.ids), size)]


def require_comparable(first: OpenModel, other: OpenModel, *, names: tuple[str, str]) -> None:
    """Raise UsageError unless two models read every text as the same tokens, of equally many entries.

    The first call for a tokenizer of 150,000 entries takes a second.
    """
    if first is other:
        return
    if _digest(first.tokenizer) != _digest(other.tokenizer):
        what = "have different tokenizers: their tokens cannot be compared one by one"
    elif vocabulary(first.model) != vocabulary(other.model):
        what = "have different numbers of entries in their vocabularies"
    else:
        return
    raise UsageError(
        f"{names[0]} and {names[1]} {what}", fix="choose models of one pipeline, or one at a time"
    )


_digests: WeakKeyDictionary[PreTrainedTokenizerBase, str] = WeakKeyDictionary()


def _digest(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer not in _digests:
        _digests[tokenizer] = tokenizer_digest(tokenizer)
    return _digests[tokenizer]


@dataclass(frozen=True)
class Totals:
    """Sums over a text, as `toolkit evaluate` computes them.

    Attributes:
        bits_per_byte: of its UTF-8; None without bytes, or if the tokenizer loses so much of the text that
            the value would be wrong.
    """

    bits: float
    tokens: int
    bytes: int
    bits_per_byte: float | None
    perplexity: float


def totals(opened: OpenModel, reading: Reading, bits: np.ndarray) -> Totals:
    """Return the sums of a text's bits."""
    ids = template.encode_text(opened.tokenizer, reading.text)
    lost, size = lost_text.lost_text(opened.tokenizer, [reading.text], [ids]), len(reading.text.encode())
    total = float(bits.sum(dtype=np.float64))
    wrong = size == 0 or lost_text.changes_bits_per_byte(lost, float(size))
    return Totals(
        total, len(bits), size, None if wrong else total / size, 2.0 ** min(total / len(bits), 1023.0)
    )
