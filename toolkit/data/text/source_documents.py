"""The documents of one source of text, before they are divided into parts: files, parts of files, rows."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.base.console import tell_once
from toolkit.base.errors import DataError
from toolkit.config import data_formats
from toolkit.config.schema import DataSource
from toolkit.data import decoding, files, tables
from toolkit.data.chat import columns, plain_text
from toolkit.data.chat.formats import RowFormat, Unusable
from toolkit.data.chat.report import SourceReport

EMPTY = "empty or only white space"
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
class SourceDocument:
    """A document in its source: a text file, or the text of a row.

    Attributes:
        location: the file, with the number of the row or of the part between two separators.
        key: determines the part instead of the text: the request of a conversation.
        unusable: why it is left out, None if it is usable.
    """

    location: str
    path: Path | None = None
    encoding: str | None = None
    text: str = ""
    meter: Meter | None = None
    key: str | None = None
    unusable: str | None = None

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


def read(
    source: DataSource, meter: Meter | None = None, report: SourceReport | None = None
) -> Iterator[SourceDocument]:
    """Yield every document of a source that is not storyworld, unusable ones included.

    Args:
        report: receives the columns that are not read.

    Raises:
        DataError: a file or row that cannot be read, or a separator that does not occur.
    """
    reader = _RowDocuments(source, report)
    if (paths := files.resolve(source)) is None:
        from toolkit.data import hub  # `datasets` takes 1 s

        for location, row in hub.rows(source, streaming=True):
            yield reader.document(row, location)
        return
    texts = {path for path in paths if data_formats.suffix_of(path.name) == data_formats.TEXT}
    if source.separator is None:
        _warn_of_separators(source.name, frozenset(texts), source.encoding)
    position, num_parts = meter.add if meter else None, 0
    for path in paths:
        if path not in texts:
            only = plain_text.text_column(source)
            reader.not_selected = tables.columns_beside(path, only)
            for location, row in tables.rows(path, position, only=only, encoding=source.encoding):
                yield reader.document(row, location)
        elif source.separator is None:
            unusable = _unusable(decoding.text_pieces(path, encoding=source.encoding))
            yield SourceDocument(
                str(path), path=path, encoding=source.encoding, meter=meter, unusable=unusable
            )
        else:
            pieces = decoding.text_pieces(path, position, encoding=source.encoding)
            for number, text in enumerate(decoding.split(pieces, source.separator), start=1):
                num_parts += 1
                yield SourceDocument(f"{path}:part {number}", text=text, unusable=_unusable([text]))
    if source.separator is not None and num_parts == len(texts):
        raise DataError(
            f"the separator {source.separator!r} does not occur in the text",
            where=source.name,
            fix="give another `separator`, in double quotes if it has \\n, or remove it",
        )


def require_readable(source: DataSource) -> None:
    """Read the first document of a local source: its row, or the beginning of a text file.

    Raises:
        DataError: as `read`.
    """
    reader = _RowDocuments(source, None)
    for path in files.resolve(source, quiet=True) or ():
        if data_formats.suffix_of(path.name) == data_formats.TEXT:
            next(decoding.text_pieces(path, encoding=source.encoding), None)
            return
        for location, row in tables.rows(path, encoding=source.encoding):
            reader.document(row, location)
            return


def row_document(row: Mapping[str, Any], source: DataSource, location: str) -> SourceDocument:
    """Return the text column of a row, or its conversation as text with the request as key."""
    return _RowDocuments(source, None).document(row, location)


class _RowDocuments:
    """Makes documents of rows, and counts what of them is not read.

    Attributes:
        not_selected: columns of the file that are not in its rows, because only the text is read.
    """

    def __init__(self, source: DataSource, report: SourceReport | None):
        counts = report or SourceReport(source.name)
        self.source, self.not_selected = source, ()
        self._column = plain_text.text_column(source)
        self._unread, self._forms = counts.unread, counts.forms
        self._format = RowFormat(source, counts.unread, counts.notes, counts.forms)

    def document(self, row: Mapping[str, Any], location: str) -> SourceDocument:
        try:
            text, key = self._text(row, location)
        except Unusable as reason:
            return SourceDocument(location, unusable=str(reason))
        if text is None:
            return SourceDocument(location, unusable="the text is null")
        return SourceDocument(location, text=text, key=key, unusable=_unusable([text]))

    def _text(self, row: Mapping[str, Any], location: str) -> tuple[str | None, str | None]:
        conversation = plain_text.as_text(row, self.source, location=location, row_format=self._format)
        if conversation is not None:
            return conversation
        try:
            text = tables.column(row, self._column, location=location)
        except DataError as error:
            if self.source.on_bad_row != "skip":
                raise
            raise Unusable(error.what) from None
        self._forms[self._column] += 1
        own = {self._column, self._column.partition(".")[0]}
        names = (name for name, value in row.items() if value is not None)
        self._unread.update({*names, *self.not_selected} - own - columns.QUIET)
        return text, None


def _unusable(pieces: Iterable[str]) -> str | None:
    """Return why a document is left out, None if it has text."""
    return None if any(not piece.isspace() for piece in pieces if piece) else EMPTY


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
