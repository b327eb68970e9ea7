"""Perplexity and bits per byte of any causal language model, each token scored once.

Bits per byte are comparable between tokenizers, because the denominator is the UTF-8 of the original text. By
default end-of-text is scored, too; it has no bytes, but a model has to predict where a document ends. The
first token is predicted from the token that starts a text. A model whose tokenizer loses text has no bits per
byte: they would be those of a poorer text.
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

from toolkit.base import console
from toolkit.base.errors import DataError, ToolkitError
from toolkit.config.schema import Data, DataSource
from toolkit.data.chat import answer_end, template
from toolkit.data.chat.report import ReadingReport
from toolkit.data.data_sources import Part, as_sources
from toolkit.data.text import documents, lost_text
from toolkit.data.text.shards import TokenShards
from toolkit.inference.logprobs import score_tokens, start_id
from toolkit.models.context_length import context_length, default_length
from toolkit.models.loading import load_tokenizer
from toolkit.models.tokenizer_loading import tokenizer_digest
from toolkit.runs import layout
from toolkit.runs.evaluation import LostText, TextMetrics
from toolkit.runs.records import Record
from toolkit.stats import Estimate, block_bootstrap, ratio_bootstrap
from toolkit.stats.block_bootstrap import Tiles

DEFAULT_WINDOW = 2048
"""The window for models without a context length in their configuration."""
Prefix = Literal["auto", "bos", "end", "none"]


@dataclass(frozen=True)
class HeldOutText:
    """Documents to score, as text or as the tokens of a corpus.

    Attributes:
        name: of the source.
        texts: the documents; None if they are in `shards`.
        shards: the tokens of a corpus run.
        tokenizer: of `shards`.
        floor: exact entropy in bits per byte, None if the true distribution is unknown.
        report: what became of the documents of a source.
    """

    name: str
    texts: list[str] | None = None
    shards: TokenShards | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    floor: float | None = None
    report: ReadingReport | None = None

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
        """Words, separated by white space, and characters of all documents."""
        texts = self.texts
        if texts is None:
            ids = (self.shards.document(index).tolist() for index in range(len(self)))
            texts = (answer_end.decode_answer(self.tokenizer, document) for document in ids)
        words = characters = 0
        for text in texts:
            words, characters = words + len(text.split()), characters + len(text)
        return words, characters

    def ids(self, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
        """Token ids of each document, without its end.

        Raises:
            ToolkitError: the documents are tokens of a corpus and the model has another vocabulary.
        """
        if self.texts is not None:
            return [np.asarray(template.encode_text(tokenizer, text), dtype=np.int64) for text in self.texts]
        own, other = self.tokenizer.get_vocab(), tokenizer.get_vocab()
        if any(other.get(token) != token_id for token, token_id in own.items()):
            raise ToolkitError(
                "the model's vocabulary differs from that of the corpus",
                where=self.name,
                fix="give perplexity.data instead of perplexity.tokens, which each model tokenizes itself",
            )
        return [self.shards.document(index) for index in range(len(self))]

    def lost_text(self, tokenizer: PreTrainedTokenizerBase, ids: list[np.ndarray]) -> LostText | None:
        """Return what `ids` do not keep of the documents; None if they keep everything."""
        if self.texts is None:
            return self.shards.lost_text
        return lost_text.lost_text(tokenizer, self.texts, ids)


def from_corpus(run: Path) -> HeldOutText:
    """Return the held-out part of a corpus run, with the exact entropy of its documents if it is known."""
    folder = run / layout.CORPUS
    shards = TokenShards.open(folder / "held_out")
    tokenizer = load_tokenizer((str(folder / "tokenizer"), None))
    return HeldOutText(run.name, shards=shards, tokenizer=tokenizer, floor=shards.entropy_floor())


def from_data(
    data: Data, *, part: Part, seed: int, tell_part: Callable[[DataSource, int, int, str], None] | None = None
) -> HeldOutText:
    """Return one part of a text source, which every model tokenizes itself.

    Args:
        tell_part: called with each source, its documents in the part, and all its documents.

    Raises:
        DataError: the part is empty.
    """
    name = ", ".join(source.name for source in as_sources(data))
    stream = documents.Stream(data, part=part, seed=seed)
    selected = list(documents.joined(stream))
    for index, source in enumerate(stream.sources if tell_part else ()):
        found = stream.reports.get(index)
        if found is not None:
            tell_part(source, found.used, found.usable, "documents")
    total = sum(len(document.text.encode()) for document in selected)
    if not total:
        raise DataError(
            "no text to score: the held-out part is empty" + stream.report.in_brackets(),
            where=name,
            fix="of one long text hold out the end, held_out: {last_characters: 0.1}; of few "
            "documents a larger share, held_out: {documents: 0.3}",
        )
    logprobs = [document.logprob for document in selected if document.logprob is not None]
    floor = -sum(logprobs) / math.log(2) / total if len(logprobs) == len(selected) else None
    texts = [document.text for document in selected]
    return HeldOutText(name, texts=texts, floor=floor, report=stream.report)


@dataclass(frozen=True)
class ScoringSettings:
    """How documents are presented to a model.

    Attributes:
        window: tokens per window (default: the context length of the model, 4096 at most).
        stride: tokens by which the window moves (default: half a window).
        prefix: the token before a document: `bos`, `end` (end-of-text), or `none`, with which the first token
            has no context and is not scored; `auto` as `toolkit.inference.logprobs.start_id`.
        score_end: whether end-of-text is scored as the last token of a document.
        packed: whether the documents are concatenated with end-of-text between them and scored in windows;
            otherwise each document is scored separately.
    """

    window: int | None = None
    stride: int | None = None
    prefix: Prefix = "auto"
    score_end: bool = True
    packed: bool = False


@dataclass(frozen=True, kw_only=True)
class TextScores(Record):
    """What a model assigns to each document of a text, and how the text was presented to it.

    Attributes:
        prefix_token: the token before a document, None without one.
        end_scored: whether end-of-text is scored, too.
        nats, tokens: -log p and number of scored tokens of each document, (documents,).
        unscored_tokens: tokens without a context.
        blocks: a text of few documents in tiles, which the interval resamples; None for more documents.
        lost_text: what the tokenizer does not keep of the text, None if it keeps everything.
    """

    window: int
    stride: int
    prefix: str
    prefix_token: str | None = None
    end_scored: bool
    packed: bool
    dtype: str
    tokenizer_digest: str
    nats: list[float]
    tokens: list[int]
    unscored_tokens: int
    blocks: Tiles | None = None
    lost_text: LostText | None = None


@dataclass(frozen=True)
class _Ends:
    """Ids of the tokens before and after a document; `end` is None if it is not scored."""

    prefix: int | None
    end: int | None

    def prefix_name(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Return the effective value of the setting `prefix`."""
        if self.prefix is None:
            return "none"
        return "end" if self.prefix == tokenizer.eos_token_id else "bos"


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: HeldOutText,
    *,
    settings: ScoringSettings = ScoringSettings(),
    start: Callable[[int], Callable[[int], None]] | None = None,
) -> TextScores:
    """Score every document and return the input of `summarize`.

    Args:
        start: called once with the number of tokens to score; the function that it returns is called with the
            number of tokens scored so far.

    Raises:
        ToolkitError: the tokenizer lacks the prefix or end, or the window exceeds the context.
    """
    ids = text.ids(tokenizer)
    window = settings.window or _default_window(model)
    ends = _ends(settings, model, tokenizer)
    stride = settings.stride or max(1, window // 2)
    scored_ends = int(ends.end is not None)  # per document
    scored = [np.ones(len(document) + scored_ends) for document in ids]
    if ends.prefix is None:
        for mask in scored[: 1 if settings.packed else None]:
            mask[:1] = 0
    total = int(sum(mask.sum() for mask in scored)) + (len(ids) * (1 - scored_ends) if settings.packed else 0)
    options = {"window": window, "stride": stride, "progress": start(total) if start else None}
    if settings.packed:
        nats = _score_packed(model, ids, ends, separator=tokenizer.eos_token_id, **options)
    else:
        nats = _score_separately(model, ids, ends, **options)
    blocks = None
    if len(ids) < block_bootstrap.FEW_DOCUMENTS:
        sizes = [
            np.append(block_bootstrap.token_bytes(tokenizer, document, float(size)), 0.0)[: len(losses)]
            for document, size, losses in zip(ids, text.bytes, nats, strict=True)
        ]
        blocks = block_bootstrap.tiles(*map(np.concatenate, (nats, sizes, scored)), window=window)
    return TextScores(
        window=window,
        stride=stride,
        prefix=ends.prefix_name(tokenizer),
        prefix_token=None if ends.prefix is None else tokenizer.convert_ids_to_tokens(ends.prefix),
        end_scored=ends.end is not None,
        packed=settings.packed,
        dtype=str(model.dtype).removeprefix("torch."),
        tokenizer_digest=tokenizer_digest(tokenizer),
        nats=[float(losses.sum()) for losses in nats],
        tokens=[int(mask.sum()) for mask in scored],
        unscored_tokens=int(sum((mask == 0).sum() for mask in scored)),
        blocks=blocks,
        lost_text=text.lost_text(tokenizer, ids),
        nulls=frozenset({"prefix_token", "blocks"}),
    )


def _default_window(model: PreTrainedModel) -> int:
    """Return the tokens in one window where the settings name none; a window below the context is said."""
    window, limit = default_length(model, without_limit=DEFAULT_WINDOW), context_length(model)
    if limit is not None and window < limit:
        console.tell_once(
            f"perplexity: windows of {window} tokens, although the model takes {limit}: `window` sets it"
        )
    return window


def _ends(settings: ScoringSettings, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> _Ends:
    end = tokenizer.eos_token_id
    prefixes = {"auto": start_id(model, tokenizer), "bos": tokenizer.bos_token_id, "end": end, "none": None}
    prefix = prefixes[settings.prefix]
    if prefix is None and settings.prefix in ("bos", "end"):
        raise ToolkitError(
            f"the tokenizer has no {'beginning' if settings.prefix == 'bos' else 'end'}-of-text",
            where=f"prefix: {settings.prefix}",
            fix="use none: the first token of each document is then context and is not scored",
        )
    if end is None and settings.packed:
        raise ToolkitError(
            "the tokenizer has no end-of-text to separate documents",
            where="packed",
            fix="score the documents separately",
        )
    return _Ends(prefix, end if settings.score_end else None)


def _score_separately(
    model: PreTrainedModel, ids: list[np.ndarray], ends: _Ends, **reading: object
) -> list[np.ndarray]:
    """Return -log p of each token of each document, 0 for a first token without context; float64."""
    losses = score_tokens(model, ids, prefix_id=ends.prefix, end_id=ends.end, **reading)
    if ends.prefix is None:
        losses = [
            np.append(0.0, nats) if len(document) or ends.end is not None else nats
            for document, nats in zip(ids, losses, strict=True)
        ]
    return [nats.astype(np.float64) for nats in losses]


def _score_packed(
    model: PreTrainedModel, ids: list[np.ndarray], ends: _Ends, *, separator: int, **reading: object
) -> list[np.ndarray]:
    """Return the same as `_score_separately` for the documents as one text."""
    joined = np.concatenate([np.append(document, separator) for document in ids])
    (nats,) = _score_separately(model, [joined], _Ends(ends.prefix, None), **reading)
    cuts = np.cumsum([len(document) + 1 for document in ids])[:-1]
    return [part if ends.end is not None else part[:-1] for part in np.split(nats, cuts)]


def summarize(scores: TextScores, text: HeldOutText, *, seed: int) -> TextMetrics:
    """Return metrics with intervals.

    Raises:
        ToolkitError: a score is not finite.
    """
    nats, total = np.asarray(scores.nats), float(text.bytes.sum())
    if not np.isfinite(nats).all():
        raise ToolkitError(
            f"the loss of {int((~np.isfinite(nats)).sum())} documents is not finite",
            where=text.name,
            fix="the training diverged: lower its learning rate",
        )
    words, characters = text.counts
    by_token = _bits_per("tokens", scores, text, seed)
    bits = None if loses_text(scores, text) else _bits_per("bytes", scores, text, seed)
    all_bits = nats.sum() / math.log(2)
    of_text = {
        "word_perplexity": _power(all_bits / words) if words and bits else None,
        "character_perplexity": _power(all_bits / characters) if bits else None,
        "byte_perplexity": _power(bits.estimate) if bits else None,
    }
    return TextMetrics(
        bits_per_byte=bits,
        perplexity=by_token.map(_power),
        **of_text,
        entropy_floor_bits_per_byte=text.floor,
        documents=len(text),
        tokens=sum(scores.tokens),
        bytes=int(total),
        words=words,
        characters=characters,
        window=scores.window,
        stride=scores.stride,
        prefix=scores.prefix,
        prefix_token=scores.prefix_token,
        end_scored=scores.end_scored,
        packed=scores.packed,
        unscored_tokens=scores.unscored_tokens,
        dtype=scores.dtype,
        tokenizer_digest=scores.tokenizer_digest,
        interval_over=scores.blocks.block_name if scores.blocks else "documents",
        interval_units=by_token.n,
        level=by_token.level,
        bootstrap_samples=by_token.samples,
        seed=seed,
        lost_text=scores.lost_text,
        nulls=frozenset({"word_perplexity", "entropy_floor_bits_per_byte", "prefix_token"}),
    )


def loses_text(scores: TextScores, text: HeldOutText) -> bool:
    """Return whether the tokenizer lost so much of the text that its bits per byte would be wrong."""
    return lost_text.changes_bits_per_byte(scores.lost_text, float(text.bytes.sum()))


def lost_text_note(metrics: TextMetrics) -> str:
    """Return what the tokenizer of a model lost of the text, and what follows for the model's numbers."""
    lost = lost_text.sentence(metrics.lost_text, documents=metrics.documents)
    if metrics.bits_per_byte is None:
        return f"{lost}: no bits per byte, which would be those of a poorer text; its perplexity is by token"
    return f"{lost}: too few to change the bits per byte that are shown"


def _bits_per(unit: Literal["bytes", "tokens"], scores: TextScores, text: HeldOutText, seed: int) -> Estimate:
    """Return bits per byte or per token."""
    if scores.blocks is not None:
        return block_bootstrap.bits_per(unit, scores.blocks, seed=seed)
    units = text.bytes if unit == "bytes" else scores.tokens
    return ratio_bootstrap(np.asarray(scores.nats) / math.log(2), units, seed=seed)


def _power(bits: float) -> float:
    """Return 2 ** bits without overflow."""
    return 2.0 ** min(bits, 1023.0)


def difference(scores: TextScores, other: TextScores, text: HeldOutText, *, seed: int) -> Estimate | None:
    """Return bits per byte minus those of another model, paired by document, or by block of few documents.

    None if the tokenizer of one of them loses text.
    """
    if loses_text(scores, text) or loses_text(other, text):
        return None
    if scores.blocks is not None and other.blocks is not None:
        return block_bootstrap.difference(scores.blocks, other.blocks, seed=seed)
    nats = np.asarray(scores.nats) - np.asarray(other.nats)
    return ratio_bootstrap(nats / math.log(2), text.bytes, seed=seed)
