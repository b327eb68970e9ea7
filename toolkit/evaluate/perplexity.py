"""Perplexity and bits per byte of any causal language model, each token scored exactly once.

Bits per byte compares models with different tokenizers: the denominator is the UTF-8 of the original text,
which no tokenizer can change. By default end-of-text is scored (it costs bits and has no bytes): a
model has to know where a document stops. The first token is predicted from the token that begins a text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.base.errors import DataError, ToolkitError
from toolkit.config.schema import Data
from toolkit.data.chat import template
from toolkit.data.text import documents
from toolkit.data.text.shards import TokenShards
from toolkit.inference.logprobs import positions, score_tokens, start_id
from toolkit.models.loading import load_tokenizer
from toolkit.models.vocabulary import tokenizer_digest
from toolkit.runs import layout
from toolkit.stats import Estimate, block_bootstrap, ratio_bootstrap

DEFAULT_WINDOW = 2048
"""Of models that do not say how many positions they have."""
Prefix = Literal["auto", "bos", "end", "none"]
TRAVELS = (
    "window", "stride", "prefix", "prefix_token", "end_scored", "packed", "unscored_tokens", "dtype",
    "tokenizer_digest",
)  # fmt: skip
"""What was measured how, beside each number."""


@dataclass(frozen=True)
class HeldOutText:
    """Documents to be scored, as text, or as a corpus's own tokens.

    Attributes:
        texts: the documents; None where `shards` holds them.
        shards: tokens of a corpus run, `tokenizer` the one that made them.
        floor: exact entropy in bits per byte where the world that wrote the documents is known.
        name: where they are from.
    """

    name: str
    texts: list[str] | None = None
    shards: TokenShards | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    floor: float | None = None

    def __len__(self) -> int:
        return self.shards.documents if self.texts is None else len(self.texts)

    @cached_property
    def bytes(self) -> np.ndarray:
        """Bytes of each document's original text in UTF-8, (documents,)."""
        if self.texts is None:
            return np.asarray(self.shards.document_bytes, dtype=np.float64)
        return np.array([len(text.encode()) for text in self.texts], dtype=np.float64)

    @cached_property
    def counts(self) -> tuple[int, int]:
        """Words (between white space) and characters of all documents."""
        texts = self.texts
        if texts is None:
            ids = (self.shards.document(index).tolist() for index in range(len(self)))
            texts = (template.decode_answer(self.tokenizer, document) for document in ids)
        words = characters = 0
        for text in texts:
            words, characters = words + len(text.split()), characters + len(text)
        return words, characters

    def ids(self, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
        """Token ids of each document, without its end.

        Raises:
            ToolkitError: the tokens of a corpus, and a model with another vocabulary.
        """
        if self.texts is not None:
            return [np.asarray(template.encode_text(tokenizer, text), dtype=np.int64) for text in self.texts]
        own, other = self.tokenizer.get_vocab(), tokenizer.get_vocab()
        if any(other.get(token) != token_id for token, token_id in own.items()):
            raise ToolkitError(
                "the model has another vocabulary than the corpus, so its tokens mean nothing to it",
                where=self.name,
                fix="give perplexity.data, not perplexity.tokens: then each model tokenizes the text itself",
            )
        return [self.shards.document(index) for index in range(len(self))]


def from_corpus(run: Path) -> HeldOutText:
    """The held-out part of a corpus run, with the entropy of exactly these documents where it is known."""
    folder = run / layout.CORPUS
    shards = TokenShards.open(folder / "held_out")
    tokenizer = load_tokenizer((str(folder / "tokenizer"), None))
    return HeldOutText(run.name, shards=shards, tokenizer=tokenizer, floor=shards.entropy_floor())


def from_data(data: Data, *, part: documents.Part, seed: int) -> HeldOutText:
    """One part of a text source; every model tokenizes it itself.

    Raises:
        DataError: the part is empty.
    """
    name = ", ".join(source.name for source in documents.as_sources(data))
    found = list(documents.texts(data, part=part, seed=seed))
    total = sum(len(document.text.encode()) for document in found)
    if not total:
        raise DataError(
            "no text to measure on: the held-out part is empty",
            where=name,
            fix="of one long text hold out the end, held_out: {last_characters: 0.1}; of few "
            "documents a larger share, held_out: {documents: 0.3}",
        )
    known = [document.logprob for document in found if document.logprob is not None]
    floor = -sum(known) / math.log(2) / total if len(known) == len(found) else None
    return HeldOutText(name, texts=[document.text for document in found], floor=floor)


@dataclass(frozen=True)
class ScoringSettings:
    """How documents are put before a model.

    Attributes:
        window: tokens the model sees at once (default its n_positions).
        stride: tokens the window moves on (default half a window).
        prefix: what stands before the first token of a document: `bos`, `end` (end-of-text), or `none`,
            whose first tokens have no context and are not scored; `auto` as `scoring.start_id`.
        score_end: end-of-text is scored as the last token of a document.
        packed: the documents are one text, with end-of-text between them, which a model reads in windows;
            else each stands alone.
    """

    window: int | None = None
    stride: int | None = None
    prefix: Prefix = "auto"
    score_end: bool = True
    packed: bool = False


@dataclass(frozen=True)
class _Ends:
    """Ids of the tokens before and after a document; `end` is None where it is not scored."""

    prefix: int | None
    end: int | None


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: HeldOutText,
    *,
    settings: ScoringSettings = ScoringSettings(),
    start: Callable[[int], Callable[[int], None]] | None = None,
) -> dict[str, object]:
    """Score every document; returns what `summarize` needs: nats and tokens per document, and of blocks.

    Args:
        start: called once with the number of tokens to score; what it returns, with how many are done.

    Raises:
        ToolkitError: a prefix or an end that the tokenizer does not have, a window that does not fit.
    """
    ids = text.ids(tokenizer)
    window = settings.window or positions(model) or DEFAULT_WINDOW
    ends = _ends(settings, model, tokenizer)
    reading = {"window": window, "stride": settings.stride or max(1, window // 2)}
    # what stands after each document: its end, which is scored or not
    after = int(ends.end is not None)
    scored = [np.ones(len(document) + after) for document in ids]
    if ends.prefix is None:
        for one in scored[: 1 if settings.packed else None]:
            one[:1] = 0
    total = int(sum(one.sum() for one in scored)) + (len(ids) * (1 - after) if settings.packed else 0)
    reading_on = {**reading, "progress": start(total) if start else None}
    if settings.packed:
        nats = _score_packed(model, ids, ends, separator=tokenizer.eos_token_id, **reading_on)
    else:
        nats = _score_apart(model, ids, ends, **reading_on)
    blocks = None
    if len(ids) < block_bootstrap.FEW_DOCUMENTS:
        sizes = [
            np.append(block_bootstrap.token_bytes(tokenizer, document, float(size)), 0.0)[: len(one)]
            for document, size, one in zip(ids, text.bytes, nats, strict=True)
        ]
        blocks = block_bootstrap.tiles(*map(np.concatenate, (nats, sizes, scored)), window=window)
    return {
        **reading,
        **_as_json(ends, tokenizer),
        "packed": settings.packed,
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokenizer_digest": tokenizer_digest(tokenizer),
        "nats": [float(one.sum()) for one in nats],
        "tokens": [int(one.sum()) for one in scored],
        "unscored_tokens": int(sum((one == 0).sum() for one in scored)),
        "blocks": blocks,
    }


def _ends(settings: ScoringSettings, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> _Ends:
    end = tokenizer.eos_token_id
    known = {"auto": start_id(model, tokenizer), "bos": tokenizer.bos_token_id, "end": end, "none": None}
    prefix = known[settings.prefix]
    if prefix is None and settings.prefix in ("bos", "end"):
        raise ToolkitError(
            f"the tokenizer has no {'beginning' if settings.prefix == 'bos' else 'end'}-of-text",
            where=f"prefix: {settings.prefix}",
            fix="take none: then the first token of each document is context and is not scored",
        )
    if end is None and settings.packed:
        raise ToolkitError(
            "the tokenizer has no end-of-text to stand between documents",
            where="packed",
            fix="score the documents one by one",
        )
    return _Ends(prefix, end if settings.score_end else None)


def _as_json(ends: _Ends, tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    """The policy as it took effect: which token stands before a document, and whether its end is scored."""
    scored = {"end_scored": ends.end is not None}
    if ends.prefix is None:
        return {"prefix": "none", "prefix_token": None, **scored}
    name = "end" if ends.prefix == tokenizer.eos_token_id else "bos"
    return {"prefix": name, "prefix_token": tokenizer.convert_ids_to_tokens(ends.prefix), **scored}


def _score_apart(
    model: PreTrainedModel, ids: list[np.ndarray], ends: _Ends, **reading: object
) -> list[np.ndarray]:
    """-log p of each token of each document, 0 for a first one without context; float64."""
    found = score_tokens(model, ids, prefix_id=ends.prefix, end_id=ends.end, **reading)
    if ends.prefix is None:
        found = [
            np.append(0.0, nats) if len(document) or ends.end is not None else nats
            for document, nats in zip(ids, found, strict=True)
        ]
    return [nats.astype(np.float64) for nats in found]


def _score_packed(
    model: PreTrainedModel, ids: list[np.ndarray], ends: _Ends, *, separator: int, **reading: object
) -> list[np.ndarray]:
    """As `_score_apart`, of all documents as one text."""
    joined = np.concatenate([np.append(document, separator) for document in ids])
    (nats,) = _score_apart(model, [joined], _Ends(ends.prefix, None), **reading)
    cuts = np.cumsum([len(document) + 1 for document in ids])[:-1]
    return [part if ends.end is not None else part[:-1] for part in np.split(nats, cuts)]


def summarize(measured: dict[str, object], text: HeldOutText, *, seed: int) -> dict[str, object]:
    """Turn scores into numbers with intervals.

    Raises:
        ToolkitError: a score is not finite.
    """
    nats, total = np.asarray(measured["nats"]), float(text.bytes.sum())
    if not np.isfinite(nats).all():
        raise ToolkitError(
            f"the loss of {int((~np.isfinite(nats)).sum())} documents is not a number",
            where=text.name,
            fix="the training has diverged: lower its learning rate",
        )
    (words, characters), blocks = text.counts, measured["blocks"]
    bits = _bits_per("bytes", measured, text, seed)
    tokens = sum(measured["tokens"])
    perplexity = _bits_per("tokens", measured, text, seed).map(_power)
    return {
        **bits.as_json("bits_per_byte"),
        **perplexity.as_json("perplexity"),
        "word_perplexity": _power(nats.sum() / math.log(2) / words) if words else None,
        "character_perplexity": _power(nats.sum() / math.log(2) / characters),
        "byte_perplexity": _power(bits.estimate),
        "entropy_floor_bits_per_byte": text.floor,
        "documents": len(text),
        "tokens": tokens,
        "bytes": int(total),
        "words": words,
        "characters": characters,
        **{key: measured[key] for key in TRAVELS},
        "interval_over": block_bootstrap.over(blocks) if blocks else "documents",
        "interval_units": bits.n,
        "level": bits.level,
        "bootstrap_samples": bits.samples,
        "seed": seed,
    }


def _bits_per(unit: str, measured: dict[str, object], text: HeldOutText, seed: int) -> Estimate:
    """Bits per `bytes` or `tokens`."""
    if measured["blocks"] is not None:
        return block_bootstrap.bits_per(unit, measured["blocks"], seed=seed)
    units = text.bytes if unit == "bytes" else measured["tokens"]
    return ratio_bootstrap(np.asarray(measured["nats"]) / math.log(2), units, seed=seed)


def _power(bits: float) -> float:
    """2 ** bits, without an error where it is too large to write."""
    return 2.0 ** min(bits, 1023.0)


def difference(
    measured: dict[str, object], other: dict[str, object], text: HeldOutText, *, seed: int
) -> Estimate:
    """Bits per byte less those of another model, paired by document; of few documents by the same bytes."""
    if measured["blocks"] is not None:
        return block_bootstrap.difference(measured["blocks"], other["blocks"], seed=seed)
    nats = np.asarray(measured["nats"]) - np.asarray(other["nats"])
    return ratio_bootstrap(nats / math.log(2), text.bytes, seed=seed)
