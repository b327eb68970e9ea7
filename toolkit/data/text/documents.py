"""Documents of plain text from any source, streamed in pieces: what the tokenizer and corpus stages read.

Memory is bounded by one piece (about a megabyte), however long a document is; only `texts` joins them.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from toolkit import storyworld
from toolkit.base.errors import DataError
from toolkit.base.rng import derive
from toolkit.config.schema import Data, DataSource, HeldOut
from toolkit.data import files
from toolkit.data.chat import formats

Part = Literal["train", "held_out", "all"]
PIECE_CHARACTERS = 1 << 18
DEFAULT_HELD_OUT = 0.1


@dataclass(frozen=True, slots=True)
class Document:
    """A whole document; `logprob` is in nats, stop included, where its world is known."""

    text: str
    source_index: int
    logprob: float | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a document; the one with `ends` is its last, and carries its logprob."""

    text: str
    source_index: int
    ends: bool = True
    logprob: float | None = None


@dataclass
class Meter:
    """How far a source has been read: bytes of files, or documents; `total` is 0 where it is not known."""

    total: int
    unit: str
    done: int = 0

    def add(self, amount: int) -> None:
        self.done += amount

    def fraction(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0


@dataclass
class Stream:
    """The pieces of one part of some data, once through; `dropped` counts what was left out, and why."""

    data: Data
    part: Part
    seed: int
    dropped: Counter[str] = field(default_factory=Counter)
    documents: Counter[int] = field(default_factory=Counter)
    """Documents given so far, by source."""

    def __post_init__(self) -> None:
        self.sources = as_sources(self.data)
        self._meters = [_meter(source, self.part) for source in self.sources]
        self.log_weights = _log_weights(self.sources)

    def __iter__(self) -> Iterator[Piece]:
        readers = [self._read(index) for index in range(len(self.sources))]
        order = turns([source.weight for source in self.sources], seed=self.seed)
        for index in order:
            piece = None
            for piece in readers[index]:
                yield piece
                if piece.ends:
                    break
            if piece is None:
                break
            self.documents[index] += 1
        self._check_mixture()

    def fraction(self) -> float:
        """Say which share of the part was read, 0 where it cannot be known."""
        return max(meter.fraction() for meter in self._meters)

    def progress(self) -> tuple[int, int, str]:
        """Return (done, total, unit) of the source that will be read through first."""
        meter = max(self._meters, key=Meter.fraction)
        return meter.done, meter.total, meter.unit

    def _read(self, index: int) -> Iterator[Piece]:
        source, meter = self.sources[index], self._meters[index]
        if source.name == files.STORYWORLD:
            return self._stories(source, index, meter)
        return self._texts(source, index, meter)

    def _stories(self, source: DataSource, index: int, meter: Meter) -> Iterator[Piece]:
        known = self.log_weights[index]
        for place, row in story_rows(source, "stories", part=self.part, seed=story_seed(self.seed, index)):
            meter.add(1)
            text = row["text"] if "text" in row else _row_text(row, source, place).text
            logprob = None if known is None or row.get("logprob") is None else row["logprob"] + known
            yield Piece(text, index, True, logprob)

    def _texts(self, source: DataSource, index: int, meter: Meter) -> Iterator[Piece]:
        held_out = source.held_out or HeldOut(documents=DEFAULT_HELD_OUT)
        limit = source.held_out_examples if self.part == "held_out" else source.examples
        if self.part != "all" and held_out.last_characters:
            return _first(self._cut(source, index, held_out.last_characters, meter), limit)
        return self._chosen(source, index, limit, meter)

    def _chosen(self, source: DataSource, index: int, limit: int | None, meter: Meter) -> Iterator[Piece]:
        """Whole documents of the part, at most `limit`: a sample by the seed, of a hub dataset the first."""
        share = (source.held_out or HeldOut(documents=DEFAULT_HELD_OUT)).documents
        highest = None
        if limit is not None and files.is_local(source.name):
            keys = (_key(text.digest(), self.seed) for text in _raw(source) if self._is_in(text, share))
            highest = max(heapq.nsmallest(limit, keys), default=0)
        given = 0
        for text in _raw(source, meter):
            if limit is not None and given >= limit:
                return
            if text.unusable:
                self.dropped[text.unusable] += 1
            elif self._is_in(text, share) and (highest is None or _key(text.digest(), self.seed) <= highest):
                given += 1
                if highest is None and not files.is_local(source.name):
                    meter.add(1)
                for piece, ends in _with_last(text.pieces()):
                    yield Piece(piece, index, ends)
                continue
            text.skip()

    def _is_in(self, text: _Raw, share: float | None) -> bool:
        if text.unusable:
            return False
        return self.part == "all" or (fraction_of(text.digest()) < (share or 0)) == (self.part == "held_out")

    def _cut(self, source: DataSource, index: int, share: float, meter: Meter) -> Iterator[Piece]:
        """The text before or after one place: `share` of the characters of all documents come after it."""
        total = sum(len(piece) for text in _raw(source) for piece in text.pieces())
        keep, seen = int(total * (1 - share)), 0
        for text in _raw(source, meter):
            for piece, ends in _with_last(text.pieces()):
                before = max(0, keep - seen)
                seen += len(piece)
                part = piece[:before] if self.part == "train" else piece[before:]
                if part:
                    yield Piece(part, index, ends or (self.part == "train" and seen >= keep))
                if self.part == "train" and seen >= keep:
                    return

    def _check_mixture(self) -> None:
        missing = [source.name for index, source in enumerate(self.sources) if not self.documents[index]]
        if missing and self.documents.total():
            raise DataError(
                "the mixture ended before a document of this source had its turn",
                where=missing[0],
                fix="weights count documents: give more documents, or weight",
            )


def texts(data: Data, *, part: Part, seed: int) -> Iterator[Document]:
    """Yield whole documents of `part`: of the same part in every stage, whatever the seed."""
    return joined(Stream(data, part=part, seed=seed))


def joined(pieces: Iterable[Piece]) -> Iterator[Document]:
    """Yield the whole documents of pieces."""
    held: list[str] = []
    for piece in pieces:
        held.append(piece.text)
        if piece.ends:
            yield Document("".join(held), piece.source_index, piece.logprob)
            held.clear()


def whole_words(pieces: Iterable[Piece], *, characters: int = PIECE_CHARACTERS) -> Iterator[Piece]:
    """Cut again, before white space, in pieces of at most `characters`.

    GPT-2's byte-level pattern never joins what comes before white space with the white space, so that the
    ids of the pieces are the ids of the whole. A run of `characters` without white space is cut as it is.
    """
    held = ""
    for piece in pieces:
        text = held + piece.text if held else piece.text
        while len(text) > characters:
            place = _before_space(text, characters)
            yield Piece(text[:place], piece.source_index, False)
            text = text[place:]
        held = text
        if piece.ends:
            yield Piece(text, piece.source_index, True, piece.logprob)
            held = ""


def turns(weights: Sequence[float], *, seed: int) -> Iterator[int]:
    """Yield which source has its turn, for ever: after n turns each had n times its share, within one turn.

    The source that is furthest behind is next (largest deficit); the seed orders those that are equal.
    """
    shares = [weight / sum(weights) for weight in weights]
    order = sorted(range(len(shares)), key=lambda index: derive(seed, "mixture", index))
    counts, turn = [0] * len(shares), 0
    while True:
        turn += 1
        best = max(order, key=lambda index: round(shares[index] * turn - counts[index], 9))
        counts[best] += 1
        yield best


def as_sources(data: Data) -> list[DataSource]:
    """Return the sources of some data, checked; a single one must not have a weight."""
    sources = list(data) if isinstance(data, (list, tuple)) else [data]
    for source in sources:
        files.check(source)
    if len(sources) == 1 and sources[0].weight != 1.0:
        raise DataError(
            "`weight` has an effect only in a mixture of several sources",
            where=sources[0].name,
            fix="leave `weight` out",
        )
    return sources


def fraction_of(digest: bytes) -> float:
    """Return a digest as a number in [0, 1): what falls below the held-out share is held out."""
    return int.from_bytes(digest[:8], "big") / 2**64


def story_seed(seed: int, index: int) -> int:
    """Return the seed of a storyworld source: the recipe's own for the first, so that stages agree."""
    return seed if index == 0 else derive(seed, "source", index)


def story_rows(source: DataSource, config: str, *, part: Part, seed: int) -> Iterator[files.Row]:
    """Yield (place, row) of a storyworld source, `config` where it names none.

    Raises:
        DataError: an unknown configuration, or a setting that has no effect on it.
    """
    config = source.config or config
    options = {
        key: getattr(source, key)
        for key in ("flawed_share", "temperature")
        if getattr(source, key) is not None
    }
    if source.held_out is not None:
        if source.held_out.documents is None:
            raise DataError(
                "storyworld holds out whole documents, not characters",
                where=files.STORYWORLD,
                fix="leave `held_out` out, or give held_out: {documents: 0.1}",
            )
        options["held_out_fraction"] = source.held_out.documents
    for split, count in story_counts(source, part).items():
        try:
            found = storyworld.rows(config, seed, split, count, **options)
        except ValueError as error:
            raise DataError(
                str(error), where=files.STORYWORLD, fix="leave the setting out, or name another `config`"
            ) from None
        for number, row in enumerate(found):
            yield f"storyworld {config} {split}:{number}", row


def story_counts(source: DataSource, part: Part) -> dict[str, int]:
    """Return how many examples storyworld makes of each split: held out, a ninth of the others by default."""
    if source.examples is None and (part != "held_out" or source.held_out_examples is None):
        raise DataError(
            "storyworld has no end: say how many",
            where=files.STORYWORLD,
            fix="give `examples`, and `held_out_examples` where it matters",
        )
    held_out = source.held_out_examples or max(1, round((source.examples or 0) / 9))
    counts = {"train": source.examples or 0, "held_out": held_out}
    return counts if part == "all" else {part: counts[part]}


@dataclass
class _Raw:
    """A document as it lies: a file of text, or the text of a row."""

    path: Path | None = None
    text: str = ""
    meter: Meter | None = None
    key: str | None = None
    """What decides on the part instead of the text: of a conversation its first request."""
    unusable: str | None = None
    """Why it is left out."""

    def pieces(self) -> Iterator[str]:
        if self.path is None:
            yield self.text
        else:
            yield from files.text_pieces(self.path, self.meter.add if self.meter else None)

    def digest(self) -> bytes:
        if self.key is not None:
            return hashlib.sha256(self.key.encode()).digest()
        total = hashlib.sha256()
        for piece in [self.text] if self.path is None else files.text_pieces(self.path):
            total.update(piece.encode())
        return total.digest()

    def skip(self) -> None:
        if self.path is not None and self.meter:
            self.meter.add(self.path.stat().st_size)


def _raw(source: DataSource, meter: Meter | None = None) -> Iterator[_Raw]:
    if (paths := files.resolve(source)) is None:
        from toolkit.data import hub  # `datasets` takes 1 s

        for place, row in hub.rows(source, streaming=True):
            yield _row_text(row, source, place)
        return
    for path in paths:
        if files.suffix_of(path) == ".txt":
            yield _Raw(path=path, meter=meter)
        else:
            for place, row in files.rows(path, meter.add if meter else None, only=source.field or "text"):
                yield _row_text(row, source, place)


def _row_text(row: Mapping[str, Any], source: DataSource, place: str) -> _Raw:
    """Return the text column; without one the conversation, kept on the side that its first request is on."""
    key = None
    try:
        found = None if source.field or "text" in row else formats.as_text(row, place=place)
    except formats.Unusable as reason:
        return _Raw(unusable=str(reason))
    if found:
        text, key = found
    else:
        text = files.column(row, source.field or "text", place=place)
    return _Raw(text=text, key=key, unusable=None if text else "empty")


def _meter(source: DataSource, part: Part) -> Meter:
    if source.name == files.STORYWORLD:
        return Meter(sum(story_counts(source, part).values()), "document")
    paths = files.resolve(source)
    if paths is None:
        return Meter((source.held_out_examples if part == "held_out" else source.examples) or 0, "document")
    return Meter(files.size_bytes(paths), "byte")


def _log_weights(sources: Sequence[DataSource]) -> list[float | None]:
    """What to add to a story's logprob so that it is the mixture's; None where the mixture is not known.

    p(text) = sum over sources of weight * p_source(text), and stories of two configurations never agree.
    """
    if any(source.name != files.STORYWORLD for source in sources):
        return [None] * len(sources)
    total = sum(source.weight for source in sources)
    by_config: Counter[str] = Counter()
    for source in sources:
        by_config[source.config or "stories"] += source.weight
    return [math.log(by_config[source.config or "stories"] / total) for source in sources]


def _key(digest: bytes, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(digest + b"%d" % seed).digest()[:8], "big")


def _with_last(pieces: Iterator[str]) -> Iterator[tuple[str, bool]]:
    held = next(pieces, None)
    for piece in pieces:
        yield held, False
        held = piece
    if held is not None:
        yield held, True


def _first(pieces: Iterator[Piece], limit: int | None) -> Iterator[Piece]:
    left = math.inf if limit is None else limit
    for piece in pieces:
        if left <= 0:
            return
        left -= piece.ends
        yield piece


def _before_space(text: str, limit: int) -> int:
    for place in range(limit, 0, -1):
        if text[place] in " \n\t\r" and not text[place - 1].isspace():
            return place
    return limit
