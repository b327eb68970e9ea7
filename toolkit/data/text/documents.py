"""Documents of plain text from any source, streamed in pieces, for the tokenizer and corpus stages.

Memory is bounded by one piece (about a megabyte) of a plain-text file that is one document; a row of a table,
and a part between two separators, are read whole. A file with suffix .json is read whole.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.base.console import tell_once
from toolkit.base.errors import DataError
from toolkit.config import data_formats
from toolkit.config.schema import Data, DataSource, HeldOut
from toolkit.data import decoding, files, tables
from toolkit.data.chat import formats, plain_text
from toolkit.data.data_sources import (
    Part,
    as_sources,
    check_mixture,
    example_limit,
    held_out_share,
    is_held_out,
    mixture_order,
    rows_of,
    story_counts,
    story_rows,
    story_seed,
)

PIECE_CHARACTERS = 1 << 18
END_TOKENS = ("<|endoftext|>", "<|im_end|>", "</s>")
MIN_END_TOKENS = 3
MIN_BLANK_LINES = 20
"""How often an end token occurs in the text of a source, or three line ends in a file, before a warning."""
SEPARATORS = {
    **{token: (re.compile(re.escape(token)), len(token)) for token in END_TOKENS},
    "\n\n\n": (re.compile(r"[^\n]\n\n\n"), 4),
    "\r\n\r\n\r\n": (re.compile(r"[^\n]\r\n\r\n\r\n"), 7),
}
"""What may separate the documents of a text: its pattern, and the number of characters that match it."""


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
    other_documents: Counter[int] = field(default_factory=Counter)
    """Usable documents that were read and not yielded, by source: of the other part, or above the limit."""

    def __post_init__(self) -> None:
        self.sources = as_sources(self.data)
        self._rows = [rows_of(source, self.part) for source in self.sources]
        self._present = [index for index, (source, _) in enumerate(self._rows) if source is not None]
        self._meters = {index: self._meter(index) for index in self._present}
        self.log_weights = _log_weights(self.sources)

    def __iter__(self) -> Iterator[Piece]:
        readers = {index: self._read(index) for index in self._present}
        weights = [self.sources[index].weight for index in self._present]
        for position in mixture_order(weights, seed=self.seed) if readers else ():
            index, piece = self._present[position], None
            for piece in readers[index]:
                yield piece
                if piece.ends:
                    break
            if piece is None:
                break
            self.documents[index] += 1
        if self.dropped:
            reasons = "; ".join(f"{reason} ({count:,})" for reason, count in sorted(self.dropped.items()))
            names = ", ".join(source.name for source in self.sources)
            tell_once(f"{names}: documents left out: {reasons}")
        if self.documents.total():
            counts = [self.documents[index] for index in self._present]
            check_mixture([self.sources[index] for index in self._present], counts)

    def fraction(self) -> float:
        """Return the share of the part that was read, 0 if unknown."""
        return max((meter.fraction() for meter in self._meters.values()), default=0.0)

    def progress(self) -> tuple[int, int, str]:
        """Return (done, total, unit) of the source that will be exhausted first."""
        meter = max(self._meters.values(), key=Meter.fraction, default=Meter(0, "document"))
        return meter.done, meter.total, meter.unit

    def _meter(self, index: int) -> Meter:
        source, _ = self._rows[index]
        if source.name == files.STORYWORLD:
            return Meter(sum(story_counts(source, self.part).values()), "document")
        paths = files.resolve(source)
        if paths is None:
            return Meter(self._limit(index) or 0, "document")
        return Meter(files.size_bytes(paths), "byte")

    def _limit(self, index: int) -> int | None:
        return example_limit(self.sources[index], self.part)

    def _read(self, index: int) -> Iterator[Piece]:
        source, part = self._rows[index]
        meter = self._meters[index]
        if source.name == files.STORYWORLD:
            return self._stories(source, index, meter)
        held_out = source.held_out
        if part != "all" and isinstance(held_out, HeldOut) and held_out.last_characters:
            pieces = self._split_text(source, index, held_out.last_characters, meter)
            return _first_documents(pieces, self._limit(index))
        return self._sample(source, index, part, meter)

    def _stories(self, source: DataSource, index: int, meter: Meter) -> Iterator[Piece]:
        log_weight, seed = self.log_weights[index], story_seed(self.seed, index)
        for location, row in story_rows(source, "stories", part=self.part, seed=seed):
            meter.add(1)
            text = row["text"] if "text" in row else _row_document(row, source, location).text
            has_logprob = log_weight is not None and row.get("logprob") is not None
            yield Piece(text, index, True, row["logprob"] + log_weight if has_logprob else None)

    def _sample(self, source: DataSource, index: int, part: Part, meter: Meter) -> Iterator[Piece]:
        """Yield the documents of the part, at most the limit: a random sample, or the first of a hub dataset.

        The sample consists of the documents with the smallest keys, in the order of the data.
        """
        share = None if part == "all" else held_out_share(source)
        limit, largest_key = self._limit(index), None
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
            else:
                self.other_documents[index] += 1
            document.skip()

    def _is_usable(self, document: _SourceDocument, share: float | None) -> bool:
        """Return whether a document is of the part; `share` is held out, None if all documents are."""
        if document.unusable or share is None:
            return not document.unusable
        return is_held_out(document.digest(), share=share) == (self.part == "held_out")

    def _split_text(self, source: DataSource, index: int, share: float, meter: Meter) -> Iterator[Piece]:
        """Yield the training or held-out text; the last `share` of all documents' characters are held out."""
        usable = (document for document in _read(source) if not document.unusable)
        total = sum(len(piece) for document in usable for piece in document.pieces())
        boundary, characters = int(total * (1 - share)), 0
        for document in _read(source, meter):
            if document.unusable:
                self.dropped[document.unusable] += 1
                document.skip()
                continue
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
    encoding: str | None = None
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
            position = self.meter.add if self.meter else None
            yield from decoding.text_pieces(self.path, position, encoding=self.encoding)

    def digest(self) -> bytes:
        if self.key is not None:
            return hashlib.sha256(self.key.encode()).digest()
        digest = hashlib.sha256()
        for piece in replace(self, meter=None).pieces():
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
    texts = {path for path in paths if data_formats.suffix_of(path.name) == data_formats.TEXT}
    if source.separator is None:
        _warn_of_separators(source.name, frozenset(texts), source.encoding)
    position, num_parts = meter.add if meter else None, 0
    for path in paths:
        if path not in texts:
            only = plain_text.text_column(source)
            for location, row in tables.rows(path, position, only=only, encoding=source.encoding):
                yield _row_document(row, source, location)
        elif source.separator is None:
            unusable = _unusable(decoding.text_pieces(path, encoding=source.encoding))
            yield _SourceDocument(path=path, encoding=source.encoding, meter=meter, unusable=unusable)
        else:
            pieces = decoding.text_pieces(path, position, encoding=source.encoding)
            for text in decoding.split(pieces, source.separator):
                num_parts += 1
                yield _SourceDocument(text=text, unusable=_unusable([text]))
    if source.separator is not None and num_parts == len(texts):
        raise DataError(
            f"the separator {source.separator!r} does not occur in the text",
            where=source.name,
            fix="give another `separator`, in double quotes if it has \\n, or remove it",
        )


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
        text = tables.column(row, plain_text.text_column(source), location=location)
    if text is None:
        return _SourceDocument(unusable="the text is null")
    return _SourceDocument(text=text, key=key, unusable=_unusable([text]))


def _unusable(pieces: Iterable[str]) -> str | None:
    """Return why a document is left out, None if it has text."""
    return None if any(not piece.isspace() for piece in pieces if piece) else "empty or only white space"


@cache
def _warn_of_separators(name: str, paths: frozenset[Path], encoding: str | None) -> None:
    """Warn if plain text seems to hold many documents in one file."""
    total: Counter[str] = Counter()
    largest: Counter[str] = Counter()
    for path in paths:
        found = _separators(decoding.text_pieces(path, encoding=encoding))
        total += found
        largest |= found
    for separator in SEPARATORS:
        minimum, count = (MIN_END_TOKENS, total) if separator in END_TOKENS else (MIN_BLANK_LINES, largest)
        if count[separator] >= minimum:
            tell_once(
                f"{name}: {json.dumps(separator)} is in the text {total[separator]:,} times, and each file "
                f"is one document; to split it there, set separator: {json.dumps(separator)}"
            )
            return


def _separators(pieces: Iterable[str]) -> Counter[str]:
    """Count the possible separators in a text; a run of line ends counts once."""
    counts: Counter[str] = Counter()
    tails = dict.fromkeys(SEPARATORS, "")
    for piece in pieces:
        for separator, (pattern, length) in SEPARATORS.items():
            text = tails[separator] + piece
            if separator in text:
                counts[separator] += len(pattern.findall(text))
            tails[separator] = text[len(text) - length + 1 :] if len(text) >= length else text
    return counts


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
