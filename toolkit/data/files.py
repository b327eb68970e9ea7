"""Local text files and tables: the files that a name means, their digest, and their text and rows.

This module does not import `datasets`, which takes 1 to 2 s. Mistakes raise DataError with file and line.
"""

from __future__ import annotations

import codecs
import difflib
import glob
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet
from pydantic import BaseModel

from toolkit.base.errors import DataError
from toolkit.base.files import sha256_file
from toolkit.config import inputs
from toolkit.config.inputs import HUB_NAME, STORYWORLD_SETTINGS, is_local, key_text
from toolkit.config.schema import DataSource
from toolkit.config.schema.base import STORYWORLD
from toolkit.runs import layout, seal
from toolkit.storyworld import get_world

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
PIECE_BYTES = 1 << 20
_GLOB = re.compile(r"[*?\[]")

Row = tuple[str, dict[str, Any]]
Position = Callable[[int], None]
"""Called with the bytes of a file read since the last call, for a progress bar."""


def resolve(source: DataSource) -> list[Path] | None:
    """Return the files of a local source, sorted; None for storyworld and hub datasets.

    Raises:
        DataError: a missing or empty file, a glob without match, or an unsupported suffix.
    """
    check(source)
    name = source.name
    if not is_local(name):
        return None
    return local_files(name)


def is_in_run(source: DataSource) -> bool:
    """Return whether a source is the preferences, or the best answers, of a run."""
    path = Path(source.name)
    return path.name in (layout.PREFERENCES, layout.BEST) and seal.run_of(path.parent) is not None


def local_files(name: str, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Return the files that a path or glob names, sorted.

    Raises:
        DataError: a missing or empty file, a glob without match, or another suffix.
    """
    paths = _expand(name)
    for path in paths:
        _check_file(path, suffixes)
    return paths


def check(source: DataSource) -> None:
    """Raise DataError for a setting without effect on this kind of source, without reading the data."""
    name = source.name
    if is_local(name):
        kind, unused = "a local file", ("config", *STORYWORLD_SETTINGS)
        if source.split not in (None, "all"):
            raise DataError(
                f"local files have no split {source.split!r}, only `all`", where=name, fix="remove `split`"
            )
    elif name == STORYWORLD:
        kind, unused = "storyworld", ("split", "field")
    elif HUB_NAME.fullmatch(name):
        kind, unused = "a hub dataset", STORYWORLD_SETTINGS
    else:
        raise DataError(
            "is neither a file nor the name of a hub dataset",
            where=name,
            fix="give storyworld, a path or glob, or owner/name[@revision]",
        )
    for key in unused:
        if getattr(source, key) is not None:
            raise DataError(f"`{key}` has no effect on {kind}", where=name, fix=f"remove `{key}`")


def hub_name(source: DataSource) -> tuple[str, str | None]:
    """Return (owner/name, revision) of a hub source."""
    name, _, revision = source.name.partition("@")
    return name, revision or None


def digests(recipe: BaseModel) -> dict[str, str]:
    """Return {key: digest} of all data and files that a recipe names, such as {"win_rate.judge_data": ...}.

    Raises:
        DataError: a file is missing.
    """
    sources = {
        key_text(key): digest(source)
        for key, source in inputs.data_sources(recipe)
        if not source.name.startswith("runs/")  # a parent, whose digest is that of its seal
    }
    files = {key_text(key): f"sha256:{sha256_file(path)}" for key, path in inputs.files(recipe)}
    return sources | files


def digest(source: DataSource) -> str:
    """Return an identifier of a source's content: digest of files or of storyworld, or name and revision."""
    paths = resolve(source)
    if paths is None:
        if source.name == STORYWORLD:
            return f"{STORYWORLD}:{get_world(source.world).digest}"
        return f"hub:{source.name}"
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{total.hexdigest()}"


def suffix_of(path: Path) -> str:
    """Return the suffix, which determines how a file is read, in lower case; `.jsonl.gz` is one suffix."""
    return ".jsonl.gz" if path.name.lower().endswith(".jsonl.gz") else path.suffix.lower()


def text_pieces(path: Path, position: Position | None = None) -> Iterator[str]:
    """Yield the text of a file, unchanged, in pieces of about a megabyte.

    Raises:
        DataError: invalid UTF-8 or a NUL byte; the message gives the byte's offset.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with path.open("rb") as file:
        while chunk := file.read(PIECE_BYTES):
            nul = chunk.find(b"\0")
            if nul >= 0:
                raise DataError(
                    f"not text: a NUL byte at byte {offset + nul}",
                    where=str(path),
                    fix="convert the file to UTF-8 (UTF-16 has NUL bytes)",
                )
            text = _decode(decoder, chunk, path, offset=offset)
            offset += len(chunk)
            if position:
                position(len(chunk))
            if text:
                yield text
        _decode(decoder, b"", path, offset=offset, final=True)


def rows(path: Path, position: Position | None = None, *, only: str | None = None) -> Iterator[Row]:
    """Yield (location, row) of a table; the location is `file:line` or `file:row n`.

    Args:
        only: the only column to read from a Parquet file that has it.

    Raises:
        DataError: a line that is not a JSON object, a corrupt archive or Parquet file.
    """
    if suffix_of(path) == ".parquet":
        return _parquet_rows(path, position, only)
    return _json_rows(path, position)


def column(row: dict[str, Any], name: str, *, location: str) -> str:
    """Return a text column of a row; raises DataError if it is missing or not text."""
    if name not in row:
        names = ", ".join(sorted(row)) or "none"
        close = difflib.get_close_matches(name, row, n=1)
        raise DataError(
            f"there is no column {name!r}; the columns are: {names}",
            where=location,
            fix=f"set `field: {close[0] if close else '<column>'}` in the data source",
        )
    value = row[name]
    if not isinstance(value, str):
        raise DataError(
            f"column {name!r} holds {_kind(value)}, not text",
            where=location,
            fix="set `field` to the column with the text",
        )
    return value


def size_bytes(paths: list[Path]) -> int:
    """Return the size of all files in bytes."""
    return sum(path.stat().st_size for path in paths)


def _expand(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        raise DataError("is a folder", where=name, fix=f"give a glob such as {name.rstrip('/')}/*.txt")
    if path.exists() or not _GLOB.search(name):
        return [path]
    matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 (the pattern may be absolute)
    paths = sorted(Path(match) for match in matches if Path(match).is_file())
    if not paths:
        raise DataError(
            "no file matches this pattern", where=name, fix=_inside(Path(_GLOB.split(str(path))[0]))
        )
    return paths


def _check_file(path: Path, suffixes: Sequence[str]) -> None:
    if not path.exists():
        raise DataError("this file does not exist", where=str(path), fix=_similar(path))
    if not path.is_file():
        raise DataError("is not a file", where=str(path), fix="give a path to a file, or a glob")
    if suffix_of(path) not in suffixes:
        raise DataError(
            f"files ending in {path.suffix or 'no suffix'} are not read",
            where=str(path),
            fix=f"give one of {' '.join(suffixes)}",
        )
    if not path.stat().st_size:
        raise DataError("this file is empty", where=str(path), fix="remove it or name another file")


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either; paths are relative to the current folder"
    names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"did you mean {path.parent / close[0]}?" if close else _inside(path)


def _inside(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    names = sorted(entry.name for entry in folder.iterdir() if suffix_of(entry) in SUFFIXES)
    shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    return f"{folder} holds {shown}" if names else f"{folder} holds no {' '.join(SUFFIXES)} file"


def _decode(
    decoder: codecs.IncrementalDecoder, chunk: bytes, path: Path, *, offset: int, final: bool = False
) -> str:
    pending = len(decoder.getstate()[0])
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 text: byte {offset - pending + error.start} cannot be decoded",
            where=str(path),
            fix="convert the file to UTF-8, for example with iconv",
        ) from None


def _json_rows(path: Path, position: Position | None) -> Iterator[Row]:
    with path.open("rb") as raw:
        packed = suffix_of(path) == ".jsonl.gz"
        file: BinaryIO = gzip.open(raw) if packed else raw  # type: ignore[assignment]  # noqa: SIM115
        reported = 0
        try:
            for number, line in enumerate(file, start=1):
                if position and not number % 64:
                    # in bytes of the file on disk, which may be compressed
                    position(raw.tell() - reported)
                    reported = raw.tell()
                if line.strip():
                    yield f"{path}:{number}", _json_object(line, f"{path}:{number}")
        except (EOFError, gzip.BadGzipFile, OSError) as error:
            raise DataError(
                f"the archive is corrupt: {error}", where=str(path), fix="download the file again"
            ) from None
        if position:
            position(raw.tell() - reported)


def _json_object(line: bytes, location: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
        json.dumps(row, ensure_ascii=False).encode() if b"\\ud" in line.lower() else None
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 text: byte {error.start} of the line", where=location, fix="convert the file to UTF-8"
        ) from None
    except UnicodeEncodeError:
        raise DataError(
            "the line has half of a surrogate pair, which is not text",
            where=location,
            fix="remove the broken \\ud... escape",
        ) from None
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=location, fix="each line must be a JSON object") from None
    if not isinstance(row, dict):
        raise DataError(
            f"expected a JSON object, not {_kind(row)}",
            where=location,
            fix='write each line as {"text": ...}',
        )
    return row


def _parquet_rows(path: Path, position: Position | None, only: str | None) -> Iterator[Row]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
        number, size, total = 0, path.stat().st_size, max(file.metadata.num_rows, 1)
        columns = [only] if only in file.schema_arrow.names else None
        for batch in file.iter_batches(batch_size=256, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}:row {number}", row
            if position:
                position(size * batch.num_rows // total)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"not a readable Parquet file: {error}", where=str(path), fix="download the file again"
        ) from None


def _kind(value: Any) -> str:
    names = {
        type(None): "null",
        str: "text",
        list: "a list",
        dict: "an object",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), type(value).__name__)
