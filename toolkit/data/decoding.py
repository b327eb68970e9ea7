"""The text of files: decompressed, decoded, in pieces, lines, or parts between separators.

Damaged archives and wrong bytes raise DataError with the file, and the line if it is known.
"""

from __future__ import annotations

import codecs
import io
import lzma
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow

from toolkit.base.console import tell_once
from toolkit.base.errors import DataError
from toolkit.config import data_formats

PIECE_BYTES = 1 << 20
_XZ_READ_BYTES = 1 << 16
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is the beginning of this one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MAGIC_NUMBERS = (
    (b"\x1f\x8b", "gzip archive", "the name of a gzip archive ends in .gz"),
    (b"BZh91AY&SY", "bzip2 archive", "the name of a bzip2 archive ends in .bz2"),
    (b"\xfd7zXZ\0", "xz archive", "the name of an xz archive ends in .xz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard archive", "the name of a Zstandard archive ends in .zst"),
    (b"PK\x03\x04", "ZIP archive", "unpack it"),
    (b"PAR1\x15", "Parquet file", "the name of a Parquet file ends in .parquet"),
    (b"ARROW1\0\0", "Arrow file", "the name of an Arrow file ends in .arrow"),
    (b"version https://git-lfs.github.com/spec/", "pointer of Git LFS, not the data", "run `git lfs pull`"),
)
"""The first bytes of files that are no text: what they are, and what to do."""
_UNREADABLE = (EOFError, OSError, lzma.LZMAError, pyarrow.ArrowException)
_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""Compressions that pyarrow reads. The standard library ends silently at a damaged second stream of .bz2."""

Position = Callable[[int], None]
"""Called with the bytes of a file (as it is on disk) read since the last call, for a progress bar."""


def text_pieces(
    path: Path, position: Position | None = None, *, encoding: str | None = None
) -> Iterator[str]:
    """Yield the text of a file in pieces of about a megabyte, unchanged, without a byte order mark.

    Args:
        encoding: a codec of Python; the default is UTF-8.

    Raises:
        DataError: a byte that cannot be decoded, a byte order mark of another encoding, a NUL character, or a
            damaged archive.
    """
    codec = codecs.lookup(encoding or "utf-8").name
    decoder = codecs.getincrementaldecoder(codec)()
    line, offset, is_first = 1, 0, True
    for chunk, is_last in _chunks(path, position):
        if not offset:
            _check_magic_number(chunk, path)
            _check_mark(chunk, codec, path)
            _warn_of_utf8(chunk, codec, path)
        try:
            text = decoder.decode(chunk, is_last)
        except UnicodeError as error:
            raise _undecodable(error, decoder, chunk, codec=codec, place=(path, line, offset)) from None
        offset += len(chunk)
        if text and is_first:
            text, is_first = text.removeprefix("\ufeff"), False
        if (nul := text.find("\0")) >= 0:
            raise DataError(
                "not text: a NUL character",
                where=f"{path}:{line + text.count(chr(10), 0, nul)}",
                fix="UTF-16 has NUL bytes: if the file has this encoding, give `encoding: utf-16-le`",
            )
        line += text.count("\n")
        if text:
            yield text


def lines(path: Path, position: Position | None = None, *, encoding: str | None = None) -> Iterator[str]:
    r"""Yield the lines of a file, each with its `\n`; no other character ends a line.

    Raises:
        DataError: as `text_pieces`.
    """
    parts: list[str] = []
    for piece in text_pieces(path, position, encoding=encoding):
        for part in io.StringIO(piece, newline="\n"):
            parts.append(part)
            if part.endswith("\n"):
                yield "".join(parts)
                parts.clear()
    if parts:
        yield "".join(parts)


def split(pieces: Iterable[str], separator: str) -> Iterator[str]:
    """Yield the parts of a text before, between and after the separators, empty ones included.

    One part is in memory at a time.
    """
    kept: list[str] = []
    tail = ""  # may be the beginning of a separator that ends in the next piece
    for piece in pieces:
        *parts, last = (tail + piece).split(separator)
        for part in parts:
            yield "".join([*kept, part])
            kept.clear()
        cut = max(0, len(last) - len(separator) + 1)
        kept.append(last[:cut])
        tail = last[cut:]
    yield "".join([*kept, tail])


def _chunks(path: Path, position: Position | None) -> Iterator[tuple[bytes, bool]]:
    """Yield (decompressed bytes, whether they are the last); the last ones are empty."""
    compression = data_formats.compression_of(path.name)
    reported = 0
    try:
        with path.open("rb") as raw:
            for chunk in _decompressed(raw, compression):
                if position:
                    position(raw.tell() - reported)
                    reported = raw.tell()
                yield chunk, False
        if position:
            position(path.stat().st_size - reported)
    except _UNREADABLE as error:
        what = "the archive is corrupt or truncated" if compression else "the file cannot be read"
        fix = "download or compress the file again" if compression else "check the file and its permissions"
        raise DataError(f"{what}: {error}", where=str(path), fix=fix) from None
    yield b"", True


def _decompressed(raw: BinaryIO, compression: str) -> Iterator[bytes]:
    size = max(PIECE_BYTES, 4)  # the first chunk holds a whole byte order mark
    if compression == ".xz":
        yield from _xz_chunks(raw, size)
        return
    file = pyarrow.CompressedInputStream(raw, _CODECS[compression]) if compression else raw
    while chunk := file.read(size):
        yield chunk


def _xz_chunks(raw: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the bytes of all streams of an .xz file; `lzma.open` ends silently at a damaged second stream."""
    data = raw.read(_XZ_READ_BYTES)
    while data:
        stream = lzma.LZMADecompressor()
        while not stream.eof:
            if stream.needs_input and not data and not (data := raw.read(_XZ_READ_BYTES)):
                raise EOFError("the file ends inside a stream")
            chunk, data = stream.decompress(data, size), b""
            if chunk:
                yield chunk
        data = stream.unused_data or raw.read(_XZ_READ_BYTES)


def _check_magic_number(chunk: bytes, path: Path) -> None:
    """Raise DataError if the file begins like one of another format."""
    for magic, kind, fix in MAGIC_NUMBERS:
        if chunk.startswith(magic):
            raise DataError(f"not text: the file is a {kind}", where=str(path), fix=fix)


def _warn_of_utf8(chunk: bytes, codec: str, path: Path) -> None:
    """Warn if text of another encoding would be UTF-8, too, as text of hardly any other encoding is."""
    if codec.startswith("utf") or chunk.isascii():
        return
    with suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(chunk)
        tell_once(f"warning: {path}: the file is read as {codec.upper()}, but seems to be UTF-8")


def _check_mark(chunk: bytes, codec: str, path: Path) -> None:
    """Raise DataError if the file begins with the byte order mark of another encoding."""
    marked = next((name for mark, name in BYTE_ORDER_MARKS if chunk.startswith(mark)), codec)
    if not codec.startswith(marked):
        raise DataError(
            f"the file is {marked.upper()}, as its byte order mark says, not {codec.upper()}",
            where=str(path),
            fix=f"give `encoding: {marked}` in the data source",
        )


def _undecodable(
    error: UnicodeError, decoder: codecs.IncrementalDecoder, chunk: bytes, *, codec: str,
    place: tuple[Path, int, int],
) -> DataError:  # fmt: skip
    """Return the error for a chunk that cannot be decoded.

    Args:
        place: file, line and byte at which the chunk begins.
    """
    path, line, offset = place
    if not isinstance(error, UnicodeDecodeError):  # UTF-16 or UTF-32 without a byte order mark
        return DataError(
            str(error), where=str(path), fix=f"name the order of the bytes: `encoding: {codec}-le` or -be"
        )
    valid = len(chunk) - len(error.object) + error.start
    decoder.errors = "ignore"
    line += decoder.decode(chunk[: max(0, valid)]).count("\n")
    return DataError(
        f"not {codec.upper()} text: byte {offset + valid} cannot be decoded",
        where=f"{path}:{line}",
        fix="name the encoding of the file in the data source, such as `encoding: cp1252`, or convert it to "
        "UTF-8, for example with iconv",
    )
