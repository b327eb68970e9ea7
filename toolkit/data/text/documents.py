"""Documents of plain text from any source, streamed in pieces, for the tokenizer and corpus stages.

Memory is bounded by one piece (about a megabyte) of a plain-text file that is one document; a row of a table,
and a part between two separators, are read whole. A file with suffix .json is read whole.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from toolkit.config.schema import Data, DataSource, HeldOut
from toolkit.data import files
from toolkit.data.chat import split_key
from toolkit.data.chat.report import ReadingReport, SourceReport
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
from toolkit.data.text.source_documents import Meter, SourceDocument, read, row_document

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
class Stream:
    """The pieces of one part of `data`, to be iterated once.

    Attributes:
        reports: what became of the documents of each source that has the part, by the number of the source.
            They are complete at the end of the iteration.
    """

    data: Data
    part: Part
    seed: int

    def __post_init__(self) -> None:
        self.sources = as_sources(self.data)
        self._rows = [rows_of(source, self.part) for source in self.sources]
        self._present = [index for index, (source, _) in enumerate(self._rows) if source is not None]
        self._meters = {index: self._meter(index) for index in self._present}
        self.reports = {index: self._new_report(index) for index in self._present}
        self.log_weights = _log_weights(self.sources)

    @property
    def report(self) -> ReadingReport:
        """What became of the documents so far."""
        return ReadingReport(list(self.reports.values()))

    @property
    def dropped(self) -> Counter[str]:
        """Unusable documents by reason."""
        return self.report.dropped

    @property
    def documents(self) -> Counter[int]:
        """Documents yielded so far, by source."""
        return Counter({index: report.used for index, report in self.reports.items()})

    def __iter__(self) -> Iterator[Piece]:
        readers = {index: self._read(index) for index in self._present}
        weights = [self.sources[index].weight for index in self._present]
        for position in mixture_order(weights, seed=self.seed) if readers else ():
            index, is_begun, piece = self._present[position], False, None
            for piece in readers[index]:
                self.reports[index].used += not is_begun
                is_begun = True
                yield piece
                if piece.ends:
                    break
            if piece is None:
                break
        self._count_rest(readers, ended=index if readers else None)
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

    def _new_report(self, index: int) -> SourceReport:
        source, part = self._rows[index]
        return SourceReport(
            source.name, self.part, has_other_part=part != "all", weight=self.sources[index].weight, key=None
        )

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
            return self._split_text(source, index, held_out.last_characters, meter)
        return self._sample(source, index, part, meter)

    def _count_rest(self, readers: Mapping[int, Iterator[Piece]], *, ended: int | None) -> None:
        """Count the documents after the end of the mixture, but for Hub datasets, which may be very large.

        Args:
            ended: the source that has no further document.
        """
        for index, reader in readers.items():
            report, (source, _) = self.reports[index], self._rows[index]
            if source.name == files.STORYWORLD:
                report.read = self._meters[index].total
                report.not_mixed = report.read - report.used
            elif files.is_local(source.name):
                report.not_mixed += sum(piece.ends for piece in reader)
            else:
                report.is_complete = index == ended

    def _stories(self, source: DataSource, index: int, meter: Meter) -> Iterator[Piece]:
        log_weight, seed = self.log_weights[index], story_seed(self.seed, index)
        for location, row in story_rows(source, "stories", part=self.part, seed=seed):
            meter.add(1)
            self.reports[index].read += 1
            text = row["text"] if "text" in row else row_document(row, source, location).text
            has_logprob = log_weight is not None and row.get("logprob") is not None
            yield Piece(text, index, True, row["logprob"] + log_weight if has_logprob else None)

    def _sample(self, source: DataSource, index: int, part: Part, meter: Meter) -> Iterator[Piece]:
        """Yield the documents of the part, at most the limit: a random sample, or the first of a hub dataset.

        The sample consists of the documents with the smallest keys, in the order of the data.
        """
        report, is_local = self.reports[index], files.is_local(source.name)
        report.asked = share = None if part == "all" else held_out_share(source)
        limit, largest_key = self._limit(index), None
        if limit is not None and is_local:
            documents = (document for document in read(source) if self._is_usable(document, share))
            keys = (_sampling_key(document.digest(), self.seed) for document in documents)
            largest_key = max(heapq.nsmallest(limit, keys), default=0)
        count = 0
        for document in read(source, meter, report):
            if limit is not None and count >= limit and not is_local:
                return
            report.read += 1
            if document.key is not None and report.key is None:
                report.key = split_key.of_source(source)
            if document.unusable:
                report.leave_out(document.unusable, document.location)
            elif not self._is_usable(document, share):
                report.other_part += 1
            elif (limit is not None and count >= limit) or (
                largest_key is not None and _sampling_key(document.digest(), self.seed) > largest_key
            ):
                report.not_sampled += 1
            else:
                count += 1
                if limit is not None and not is_local:
                    meter.add(1)
                for piece, ends in _with_last(document.pieces()):
                    yield Piece(piece, index, ends)
                continue
            document.skip()

    def _is_usable(self, document: SourceDocument, share: float | None) -> bool:
        """Return whether a document is of the part; `share` is held out, None if all documents are."""
        if document.unusable or share is None:
            return not document.unusable
        return is_held_out(document.digest(), share=share) == (self.part == "held_out")

    def _split_text(self, source: DataSource, index: int, share: float, meter: Meter) -> Iterator[Piece]:
        """Yield the training or held-out text; the last `share` of all documents' characters are held out.

        The document in which the held-out text begins is in both parts.
        """
        report, starts = self.reports[index], array("Q", [0])
        for document in read(source, report=report):
            report.read += 1
            if document.unusable:
                report.leave_out(document.unusable, document.location)
            else:
                starts.append(starts[-1] + sum(len(piece) for piece in document.pieces()))
        boundary = int(starts[-1] * (1 - share))
        num_documents, num_train = len(starts) - 1, bisect_left(starts, boundary, hi=len(starts) - 1)
        # the last start that is not above the boundary begins the first document with held-out text
        num_held_out = num_documents - (bisect_right(starts, boundary) - 1)
        of_part = num_train if self.part == "train" else num_held_out
        limit = self._limit(index)
        report.held_out_characters = (starts[-1] - boundary, starts[-1])
        report.other_part = num_documents - of_part
        report.not_sampled = 0 if limit is None else max(0, of_part - limit)
        pieces = self._pieces_of_part(source, index, boundary, meter)
        yield from pieces if limit is None else _first_documents(pieces, limit)

    def _pieces_of_part(self, source: DataSource, index: int, boundary: int, meter: Meter) -> Iterator[Piece]:
        """Yield the text before the boundary, or from it on."""
        characters = 0
        for document in read(source, meter):
            if document.unusable:
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


def _first_documents(pieces: Iterator[Piece], limit: int) -> Iterator[Piece]:
    remaining = limit
    for piece in pieces:
        yield piece
        remaining -= piece.ends
        if not remaining:
            return


def _before_space(text: str, limit: int) -> int:
    """Return the last index up to `limit` at which white space begins, `limit` if there is none."""
    for index in range(limit, 0, -1):
        if text[index] in " \n\t\r" and not text[index - 1].isspace():
            return index
    return limit
