"""Documents of plain text from any source, streamed in pieces, for the tokenizer and corpus stages.

Memory is bounded by one piece (about a megabyte), however long a document is; only `texts` joins the pieces.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.config.schema import Data, DataSource
from toolkit.data import files
from toolkit.data.chat import formats, plain_text
from toolkit.data.data_sources import (
    Part,
    as_sources,
    check_mixture,
    example_limit,
    held_out_share,
    is_held_out,
    mixture_order,
    story_counts,
    story_rows,
    story_seed,
)

PIECE_CHARACTERS = 1 << 18


@dataclass(frozen=True, slots=True)
class Document:
    """A whole document; `logprob` is in nats, its end included, None if the true distribution is unknown."""

    text: str
    source_index: int
    logprob: float | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a document; the last one has `ends`, and the document's logprob."""

    text: str
    source_index: int
    ends: bool = True
    logprob: float | None = None


@dataclass
class Meter:
    """How much of a source has been read, in bytes of files or in documents; `total` is 0 if unknown."""

    total: int
    unit: str
    done: int = 0

    def add(self, amount: int) -> None:
        self.done += amount

    def fraction(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0


@dataclass
class Stream:
    """The pieces of one part of `data`, to be iterated once; `dropped` counts unusable rows by reason."""

    data: Data
    part: Part
    seed: int
    dropped: Counter[str] = field(default_factory=Counter)
    documents: Counter[int] = field(default_factory=Counter)
    """Documents yielded so far, by source."""

    def __post_init__(self) -> None:
        self.sources = as_sources(self.data)
        self._meters = [_meter(source, self.part) for source in self.sources]
        self.log_weights = _log_weights(self.sources)

    def __iter__(self) -> Iterator[Piece]:
        readers = [self._read(index) for index in range(len(self.sources))]
        for index in mixture_order([source.weight for source in self.sources], seed=self.seed):
            piece = None
            for piece in readers[index]:
                yield piece
                if piece.ends:
                    break
            if piece is None:
                break
            self.documents[index] += 1
        if self.documents.total():
            check_mixture(self.sources, [self.documents[index] for index in range(len(self.sources))])

    def fraction(self) -> float:
        """Return the share of the part that was read, 0 if unknown."""
        return max(meter.fraction() for meter in self._meters)

    def progress(self) -> tuple[int, int, str]:
        """Return (done, total, unit) of the source that will be exhausted first."""
        meter = max(self._meters, key=Meter.fraction)
        return meter.done, meter.total, meter.unit

    def _read(self, index: int) -> Iterator[Piece]:
        source, meter = self.sources[index], self._meters[index]
        if source.name == files.STORYWORLD:
            return self._stories(source, index, meter)
        return self._texts(source, index, meter)

    def _stories(self, source: DataSource, index: int, meter: Meter) -> Iterator[Piece]:
        log_weight, seed = self.log_weights[index], story_seed(self.seed, index)
        for location, row in story_rows(source, "stories", part=self.part, seed=seed):
            meter.add(1)
            text = row["text"] if "text" in row else _row_document(row, source, location).text
            has_logprob = log_weight is not None and row.get("logprob") is not None
            yield Piece(text, index, True, row["logprob"] + log_weight if has_logprob else None)

    def _texts(self, source: DataSource, index: int, meter: Meter) -> Iterator[Piece]:
        if self.part != "all" and source.held_out and source.held_out.last_characters:
            pieces = self._split_text(source, index, source.held_out.last_characters, meter)
            return _first_documents(pieces, example_limit(source, self.part))
        return self._sample(source, index, meter)

    def _sample(self, source: DataSource, index: int, meter: Meter) -> Iterator[Piece]:
        """Yield the documents of the part, at most the limit: a random sample, or the first of a hub dataset.

        The sample consists of the documents with the smallest keys, in the order of the data.
        """
        share = 0.0 if self.part == "all" else held_out_share(source)
        limit, largest_key = example_limit(source, self.part), None
        if limit is not None and files.is_local(source.name):
            documents = (document for document in _read(source) if self._is_usable(document, share))
            keys = (_sampling_key(document.digest(), self.seed) for document in documents)
            largest_key = max(heapq.nsmallest(limit, keys), default=0)
        count = 0
        for document in _read(source, meter):
            if limit is not None and count >= limit:
                return
            if document.unusable:
                self.dropped[document.unusable] += 1
            elif self._is_usable(document, share) and (
                largest_key is None or _sampling_key(document.digest(), self.seed) <= largest_key
            ):
                count += 1
                if largest_key is None and not files.is_local(source.name):
                    meter.add(1)
                for piece, ends in _with_last(document.pieces()):
                    yield Piece(piece, index, ends)
                continue
            document.skip()

    def _is_usable(self, document: _SourceDocument, share: float) -> bool:
        if document.unusable or self.part == "all":
            return not document.unusable
        return is_held_out(document.digest(), share=share) == (self.part == "held_out")

    def _split_text(self, source: DataSource, index: int, share: float, meter: Meter) -> Iterator[Piece]:
        """Yield the training or held-out text; the last `share` of all documents' characters are held out."""
        total = sum(len(piece) for document in _read(source) for piece in document.pieces())
        boundary, characters = int(total * (1 - share)), 0
        for document in _read(source, meter):
            for piece, ends in _with_last(document.pieces()):
                cut = max(0, boundary - characters)
                characters += len(piece)
                text = piece[:cut] if self.part == "train" else piece[cut:]
                if text:
                    yield Piece(text, index, ends or (self.part == "train" and characters >= boundary))
                if self.part == "train" and characters >= boundary:
                    return


def texts(data: Data, *, part: Part, seed: int) -> Iterator[Document]:
    """Yield the whole documents of a part; the seed affects samples and mixtures, not the part."""
    return joined(Stream(data, part=part, seed=seed))


def joined(pieces: Iterable[Piece]) -> Iterator[Document]:
    """Join pieces to whole documents."""
    parts: list[str] = []
    for piece in pieces:
        parts.append(piece.text)
        if piece.ends:
            yield Document("".join(parts), piece.source_index, piece.logprob)
            parts.clear()


def whole_words(pieces: Iterable[Piece], *, characters: int = PIECE_CHARACTERS) -> Iterator[Piece]:
    """Split again, before white space, into pieces of at most `characters`.

    GPT-2's byte-level pattern never merges white space with the text before it, so the ids of the pieces are
    those of the whole document. A run of `characters` without white space is split anyway.
    """
    rest = ""
    for piece in pieces:
        text = rest + piece.text if rest else piece.text
        while len(text) > characters:
            cut = _before_space(text, characters)
            yield Piece(text[:cut], piece.source_index, False)
            text = text[cut:]
        rest = text
        if piece.ends:
            yield Piece(text, piece.source_index, True, piece.logprob)
            rest = ""


@dataclass
class _SourceDocument:
    """A document in its source: a text file, or the text of a row."""

    path: Path | None = None
    text: str = ""
    meter: Meter | None = None
    key: str | None = None
    """Determines the part instead of the text: the first request of a conversation."""
    unusable: str | None = None
    """Why it is dropped, None if it is usable."""

    def pieces(self) -> Iterator[str]:
        if self.path is None:
            yield self.text
        else:
            yield from files.text_pieces(self.path, self.meter.add if self.meter else None)

    def digest(self) -> bytes:
        if self.key is not None:
            return hashlib.sha256(self.key.encode()).digest()
        digest = hashlib.sha256()
        for piece in [self.text] if self.path is None else files.text_pieces(self.path):
            digest.update(piece.encode())
        return digest.digest()

    def skip(self) -> None:
        if self.path is not None and self.meter:
            self.meter.add(self.path.stat().st_size)


def _read(source: DataSource, meter: Meter | None = None) -> Iterator[_SourceDocument]:
    if (paths := files.resolve(source)) is None:
        from toolkit.data import hub  # `datasets` takes 1 s

        for location, row in hub.rows(source, streaming=True):
            yield _row_document(row, source, location)
        return
    for path in paths:
        if files.suffix_of(path) == ".txt":
            yield _SourceDocument(path=path, meter=meter)
        else:
            for location, row in files.rows(
                path, meter.add if meter else None, only=plain_text.text_column(source)
            ):
                yield _row_document(row, source, location)


def _row_document(row: Mapping[str, Any], source: DataSource, location: str) -> _SourceDocument:
    """Return the text column of a row, or its conversation as text with the first request as key."""
    key = None
    try:
        conversation = plain_text.as_text(row, source, location=location)
    except formats.Unusable as reason:
        return _SourceDocument(unusable=str(reason))
    if conversation:
        text, key = conversation
    else:
        text = files.column(row, plain_text.text_column(source), location=location)
    return _SourceDocument(text=text, key=key, unusable=None if text else "empty")


def _meter(source: DataSource, part: Part) -> Meter:
    if source.name == files.STORYWORLD:
        return Meter(sum(story_counts(source, part).values()), "document")
    paths = files.resolve(source)
    if paths is None:
        return Meter(example_limit(source, part) or 0, "document")
    return Meter(files.size_bytes(paths), "byte")


def _log_weights(sources: Sequence[DataSource]) -> list[float | None]:
    """Return the log weights that turn a story's logprob into that of the mixture; None if it is unknown.

    p(text) = sum over sources of weight * p_source(text); stories of two configurations are never equal.
    """
    if any(source.name != files.STORYWORLD for source in sources):
        return [None] * len(sources)
    total = sum(source.weight for source in sources)
    by_config: Counter[str] = Counter()
    for source in sources:
        by_config[source.config or "stories"] += source.weight
    return [math.log(by_config[source.config or "stories"] / total) for source in sources]


def _sampling_key(digest: bytes, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(digest + b"%d" % seed).digest()[:8], "big")


def _with_last(pieces: Iterator[str]) -> Iterator[tuple[str, bool]]:
    """Yield (piece, whether it is the last)."""
    previous = next(pieces, None)
    for piece in pieces:
        yield previous, False
        previous = piece
    if previous is not None:
        yield previous, True


def _first_documents(pieces: Iterator[Piece], limit: int | None) -> Iterator[Piece]:
    remaining = math.inf if limit is None else limit
    for piece in pieces:
        if remaining <= 0:
            return
        remaining -= piece.ends
        yield piece


def _before_space(text: str, limit: int) -> int:
    """Return the last index up to `limit` at which white space begins, `limit` if there is none."""
    for index in range(limit, 0, -1):
        if text[index] in " \n\t\r" and not text[index - 1].isspace():
            return index
    return limit
