"""Perplexity and bits per byte of any causal language model, each token scored exactly once.

Bits per byte compares models with different tokenizers: the denominator is the UTF-8 of the original text,
which no tokenizer can change. End-of-text is scored (it costs bits and has no bytes): a model has to know
where a document stops. The first token of a document is predicted from the token that begins a text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.data import chat, documents
from toolkit.data.tokens import TokenShards
from toolkit.models.load import load_tokenizer
from toolkit.recipe.errors import DataError, ToolkitError
from toolkit.recipe.schema import Data
from toolkit.scoring import answer_logprobs, score_documents
from toolkit.stats import Estimate, block_ratio, ratio_bootstrap

FEW_DOCUMENTS = 10
"""Below so many the interval is over blocks of their tokens: to resample 3 documents says nothing."""
FEWEST_BLOCKS = 20
DEFAULT_WINDOW = 2048
"""Of models that do not say how many positions they have."""
BATCH_TOKENS = 8192


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
            texts = (chat.decode_answer(self.tokenizer, document) for document in ids)
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
            return [np.asarray(chat.encode_text(tokenizer, text), dtype=np.int64) for text in self.texts]
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
    folder = run / "corpus"
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


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: HeldOutText,
    *,
    window: int | None = None,
    stride: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, object]:
    """Score every document; returns what `summarize` needs: nats and tokens per document, and of blocks.

    Args:
        window: tokens the model sees at once (default its n_positions).
        stride: tokens the window moves on (default half a window).
        progress: called with the number of documents' tokens that are done.
    """
    ids = text.ids(tokenizer)
    limit = getattr(model.config, "max_position_embeddings", None)
    window = window or limit or DEFAULT_WINDOW
    stride = stride or max(1, window // 2)
    end_id = tokenizer.eos_token_id
    prefix_id = end_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    result: dict[str, object] = {"window": window, "stride": stride}
    # without a token that begins a text, the first one of a document has no context and is not scored
    result["tokens"] = [len(document) + (end_id is not None) - (prefix_id is None) for document in ids]
    settings = {"prefix_id": prefix_id, "end_id": end_id, "window": window, "stride": stride}
    if len(ids) >= FEW_DOCUMENTS:
        nats = score_documents(model, ids, batch_tokens=BATCH_TOKENS, progress=progress, **settings)
        return {**result, "nats": nats.tolist(), "blocks": None}
    per_token, sizes, done = [], [], 0
    for document, size in zip(ids, text.bytes, strict=True):
        shown = (lambda count, before=done: progress(before + count)) if progress else None
        per_token.append(token_nats(model, document, progress=shown, **settings))
        sizes.append(
            token_bytes(tokenizer, document, float(size), end=end_id is not None)[prefix_id is None :]
        )
        done += len(per_token[-1])
    result["blocks"] = _blocks(np.concatenate(per_token), np.concatenate(sizes), window)
    return {**result, "nats": [float(nats.sum()) for nats in per_token]}


def token_nats(
    model: PreTrainedModel,
    document: np.ndarray,
    *,
    prefix_id: int | None,
    end_id: int | None,
    window: int,
    stride: int,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """-log p of each token of one document, in order: the same windows as scoring.score_documents."""
    before, after = ([] if one is None else [one] for one in (prefix_id, end_id))
    sequence = np.concatenate([before, document, after]).astype(np.int64)
    contexts, targets, scored, start = [], [], 1, 0
    while scored < len(sequence):
        end = min(start + window, len(sequence) - 1)
        contexts.append(sequence[start:scored])
        targets.append(sequence[scored : end + 1])
        scored, start = end + 1, start + stride
    found: list[np.ndarray] = []
    at_once = max(1, BATCH_TOKENS // window)
    for place in range(0, len(contexts), at_once):
        chosen = slice(place, place + at_once)
        found += answer_logprobs(model, contexts[chosen], targets[chosen], batch_examples=at_once)
        if progress:
            progress(sum(len(part) for part in found))
    return -np.concatenate(found).astype(np.float64) if found else np.zeros(0)


def token_bytes(
    tokenizer: PreTrainedTokenizerBase, document: Sequence[int], total: float, *, end: bool
) -> np.ndarray:
    """How the bytes of a document lie over its tokens, in proportion to the lengths of their pieces.

    Exact for byte-level tokenizers, whose pieces have one character a byte.
    """
    unique, places = np.unique(np.asarray(document, dtype=np.int64), return_inverse=True)
    pieces = tokenizer.convert_ids_to_tokens(unique.tolist())
    sizes = np.array([len(piece) for piece in pieces], dtype=np.float64)[places]
    sizes = sizes * (total / sizes.sum()) if sizes.sum() else sizes
    return np.append(sizes, 0.0) if end else sizes


def _blocks(nats: np.ndarray, sizes: np.ndarray, window: int) -> dict[str, object]:
    """Sums over tiles of tokens, of which the bootstrap draws runs as long as a window."""
    block = max(1, min(window, len(nats) // FEWEST_BLOCKS))
    tile = max(1, block // 8)  # blocks begin at every eighth of their length
    starts = np.arange(0, len(nats), tile)
    sums = {"nats": nats, "bytes": sizes, "tokens": np.ones(len(nats))}
    tiles = {name: np.add.reduceat(values, starts).tolist() for name, values in sums.items()}
    return {**tiles, "tiles": max(1, block // tile), "block_tokens": block}


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
        "window": measured["window"],
        "stride": measured["stride"],
        "interval_over": f"blocks of {blocks['block_tokens']} tokens" if blocks else "documents",
        "interval_units": bits.n,
        "level": bits.level,
        "bootstrap_samples": bits.samples,
        "seed": seed,
    }


def _bits_per(unit: str, measured: dict[str, object], text: HeldOutText, seed: int) -> Estimate:
    """Bits per `bytes` or `tokens`."""
    blocks = measured["blocks"]
    if blocks is None:
        units = text.bytes if unit == "bytes" else measured["tokens"]
        return ratio_bootstrap(np.asarray(measured["nats"]) / math.log(2), units, seed=seed)
    bits = np.asarray(blocks["nats"]) / math.log(2)
    return block_ratio(bits, blocks[unit], block=blocks["tiles"], seed=seed)


def _power(bits: float) -> float:
    """2 ** bits, without an error where it is too large to write."""
    return 2.0 ** min(bits, 1023.0)


def difference(
    measured: dict[str, object], other: dict[str, object], text: HeldOutText, *, seed: int
) -> Estimate | None:
    """Bits per byte less those of another model, paired by document; None where there are few documents."""
    if measured["blocks"] is not None or other["blocks"] is not None:
        return None
    nats = np.asarray(measured["nats"]) - np.asarray(other["nats"])
    return ratio_bootstrap(nats / math.log(2), text.bytes, seed=seed)
