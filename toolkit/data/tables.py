"""The rows of a table in a file, and the text in their columns. Mistakes raise DataError with file and line.

This module does not import `datasets`, which takes 1 to 2 s.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from toolkit.base.errors import DataError
from toolkit.config import data_formats
from toolkit.data import decoding, vote_file
from toolkit.data.decoding import Position

Row = tuple[str, dict[str, Any]]
"""A location, `file:line` or `file:row n`, and the columns of a row."""
ROWS_KEYS = ("data", "rows", "examples")
"""Keys of a JSON object that hold its rows even if the object has other keys, such as `version`."""
_BATCH_ROWS = 256
_OTHER_DELIMITERS = (";", "\t", ",", "|")
_MAX_CELL_CHARACTERS = 2**31 - 1
_MISSING = object()
_IPC_FILE = b"ARROW1\0\0"
"""The first bytes of Arrow's file format; its stream format has none."""
_SINGLE_OBJECT = "give an array of objects; the name of a file of JSON lines ends in .jsonl"


def rows(
    path: Path, position: Position | None = None, *, only: str | None = None, encoding: str | None = None
) -> Iterator[Row]:
    """Yield (location, row) of a table in any of the formats `data_formats.TABLES`.

    Args:
        only: the only column to read from a Parquet or Arrow file that has it; it may be nested (`doc.text`).
        encoding: of files of text, a codec of Python; the default is UTF-8.

    Raises:
        DataError: a row that is not an object, a row with more or fewer cells than the header, a damaged
            file, or text that cannot be decoded.
    """
    suffix = data_formats.suffix_of(path.name)
    if suffix in data_formats.BINARY:
        return _arrow_rows(path, position, only)
    if suffix in data_formats.VOTES:
        return vote_file.comparisons(path)
    if suffix == ".json":
        return _json_rows(path, position, encoding)
    if suffix in data_formats.CELLS:
        return _csv_rows(path, position, encoding)
    return _json_lines(path, position, encoding)


def columns_beside(path: Path, only: str) -> tuple[str, ...]:
    """Return the columns of a Parquet or Arrow file that `rows(path, only=only)` does not read."""
    if data_formats.suffix_of(path.name) not in data_formats.BINARY:
        return ()
    try:
        if data_formats.suffix_of(path.name) == ".parquet":
            names = pyarrow.parquet.read_schema(path).names
        else:
            with pyarrow.memory_map(str(path)) as file:
                names = _ipc_reader(file).schema.names
    except (pyarrow.ArrowException, OSError, ValueError):
        return ()  # `rows` says what is wrong
    selected = _selected(names, only)
    return () if selected is None else tuple(name for name in names if name not in selected)


def json_array(path: Path, *, of: str) -> Iterator[Row]:
    """Yield (file:line, row) of a file with one JSON array of objects, which is read into memory.

    Args:
        of: what the objects are, for messages.

    Raises:
        DataError: not an array, or an element that is not an object.
    """
    text = "".join(decoding.text_pieces(path))
    start = _skip(text, 0)
    if text[start : start + 1] != "[":
        raise DataError(
            f"expected a list of {of}", where=f"{path}:1", fix="rename a file of JSON lines to .jsonl"
        )
    return _array_rows(text, start, path)


def value_of(row: Mapping[str, Any], name: str, *, location: str, setting: str = "field") -> Any:
    """Return the value of a column; `a.b` is column `b` of the object in column `a`.

    A column whose own name has the dot comes first. The columns of a null object are null.

    Raises:
        DataError: there is no such column.
    """
    value = _find(row, name)
    if value is _MISSING:
        names = sorted({*_column_names(row)})
        close = difflib.get_close_matches(name, names, n=1)
        raise DataError(
            f"there is no column {name!r}; the columns are: {', '.join(names) or 'none'}",
            where=location,
            fix=f"set `{setting}: {close[0] if close else '<column>'}` in the data source",
        )
    return value


def column(row: Mapping[str, Any], name: str, *, location: str) -> str | None:
    """Return the text in a column (see `value_of`), None if it is null.

    The texts of a list are paragraphs, which are joined by blank lines.

    Raises:
        DataError: the column is missing, or is not text.
    """
    value = value_of(row, name, location=location)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n\n".join(value)
    raise DataError(
        f"column {name!r} holds {_kind(value)}, not text",
        where=location,
        fix="set `field` to the column with the text",
    )


# JSON


def _json_lines(path: Path, position: Position | None, encoding: str | None) -> Iterator[Row]:
    for number, line in enumerate(decoding.lines(path, position, encoding=encoding), start=1):
        text, location = line.removeprefix("\ufeff"), f"{path}:{number}"  # of a file appended to another
        if not text.strip():
            continue
        try:
            row = _DECODER.decode(text)
            _check_surrogates(row, text)
        except (ValueError, RecursionError) as error:
            fix = "each line must be a JSON object; the name of a file with an array, or with objects of "
            raise _not_json(error, location, fix=f"{fix}several lines, ends in .json") from None
        if not isinstance(row, dict):
            raise DataError(
                f"expected a JSON object, not {_kind(row)}",
                where=location,
                fix='write each line as {"text": ...}; the name of a file with an array ends in .json',
            )
        yield location, row


def _json_rows(path: Path, position: Position | None, encoding: str | None) -> Iterator[Row]:
    """Yield the rows of an array, of an object with a list of rows, or of objects one after another."""
    text = "".join(decoding.text_pieces(path, position, encoding=encoding))
    start = _skip(text, 0)
    if text[start : start + 1] == "[":
        yield from _array_rows(text, start, path)
    elif text[start : start + 1] == "{":
        yield from _object_rows(text, start, path)
    else:
        raise DataError(
            "expected an array of objects, or one object a line",
            where=f"{path}:{1 + text.count(chr(10), 0, start)}",
            fix='write the file as [{"text": ...}, ...]',
        )


def _array_rows(text: str, start: int, path: Path) -> Iterator[Row]:
    """Yield the objects of an array that begins at `start`; nothing may follow it."""
    line, seen = 1, 0
    position = _skip(text, start + 1)
    while text[position : position + 1] != "]":
        line, seen = line + text.count("\n", seen, position), position
        row, end = _object_at(text, position, path, line=line)
        yield f"{path}:{line}", row
        position = _skip(text, end)
        if text[position : position + 1] == ",":
            position = _skip(text, position + 1)
        elif text[position : position + 1] != "]":
            line += text.count("\n", seen, position)
            raise DataError(
                "not JSON: expected a comma or ]", where=f"{path}:{line}", fix="the file may be truncated"
            )
    if (end := _skip(text, position + 1)) < len(text):
        raise DataError(
            "not JSON: there is something after the array",
            where=f"{path}:{1 + text.count(chr(10), 0, end)}",
            fix="write one array, or one object a line",
        )


def _object_rows(text: str, start: int, path: Path) -> Iterator[Row]:
    """Yield the objects from `start` on; the rows in it if there is one object only."""
    line, seen, position = 1, 0, start
    while position < len(text):
        line, seen = line + text.count("\n", seen, position), position
        row, end = _object_at(text, position, path, line=line)
        is_only = position == start and _skip(text, end) == len(text)
        position = _skip(text, end)
        if is_only:
            yield from _rows_of(row, f"{path}:{line}", path)
        else:
            yield f"{path}:{line}", row


def _object_at(text: str, position: int, path: Path, *, line: int) -> tuple[dict[str, Any], int]:
    """Return the object at a position, and where it ends."""
    try:
        row, end = _DECODER.raw_decode(text, position)
        _check_surrogates(row, text[position:end])
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", line)
        raise _not_json(error, f"{path}:{line}", fix="the file may be truncated") from None
    if not isinstance(row, dict):
        raise DataError(
            f"expected an object, not {type(row).__name__}",
            where=f"{path}:{line}",
            fix='give an array of objects, [{"text": ...}, ...]',
        )
    return row, end


def _rows_of(row: dict[str, Any], location: str, path: Path) -> Iterator[Row]:
    """Yield the rows of a file with a single JSON object: those of the list in it, or the object itself."""
    lists = {key: value for key, value in row.items() if isinstance(value, list) and value}
    tables = [key for key, value in lists.items() if _are_rows(value)]
    if not tables:
        if lists and len(lists) == len(row) and not any(map(_are_messages, lists.values())):
            raise DataError(
                f"holds one object of columns ({', '.join(row)}), not of rows",
                where=location,
                fix=_SINGLE_OBJECT,
            )
        yield location, row
        return
    if len(tables) > 1 or not (len(row) == 1 or tables[0] in ROWS_KEYS):
        raise DataError(
            f"holds one object with {', '.join(row)}: it is not clear which list holds the rows",
            where=location,
            fix=_SINGLE_OBJECT,
        )
    for number, inner in enumerate(row[tables[0]], start=1):
        yield f"{path}:row {number}", inner


def _are_rows(value: list[Any]) -> bool:
    return all(isinstance(item, dict) for item in value) and not _are_messages(value)


def _are_messages(value: list[Any]) -> bool:
    return all(isinstance(item, dict) and ("role" in item or "from" in item) for item in value)


def _skip(text: str, position: int) -> int:
    """Return the next position that is not JSON's white space."""
    while text[position : position + 1] in (" ", "\t", "\r", "\n"):
        position += 1
    return position


class _TwiceError(ValueError):
    """An object has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; the last of several values of a key would replace the others."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _TwiceError(f"an object has the key {twice!r} twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _check_surrogates(row: Any, text: str) -> None:
    """Raise UnicodeEncodeError if an escape in the text is half of a surrogate pair."""
    if "\\ud" in text.lower():
        json.dumps(row, ensure_ascii=False).encode()


def _not_json(error: ValueError | RecursionError, location: str, *, fix: str) -> DataError:
    if isinstance(error, UnicodeEncodeError):
        return DataError(
            "a text has half of a surrogate pair, which is not text",
            where=location,
            fix="remove the broken \\ud... escape",
        )
    if isinstance(error, RecursionError):
        return DataError("not readable: nested too deeply", where=location, fix="give flat objects")
    if isinstance(error, _TwiceError):
        return DataError(f"not readable: {error}", where=location, fix="rename or remove one")
    if not isinstance(error, json.JSONDecodeError):
        return DataError(
            "not readable: an integer of thousands of digits", where=location, fix="write it as text"
        )
    return DataError(f"not JSON: {error.msg} at column {error.colno}", where=location, fix=fix)


# CSV


def _csv_rows(path: Path, position: Position | None, encoding: str | None) -> Iterator[Row]:
    """Yield rows of text by the names in the first line; a quoted cell may hold line ends."""
    csv.field_size_limit(_MAX_CELL_CHARACTERS)  # the default, 131,072, is less than a long document has
    delimiter = "\t" if data_formats.suffix_of(path.name) == ".tsv" else ","
    lines = decoding.lines(path, position, encoding=encoding)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        location = f"{path}:{reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"not a table: {error}",
                where=location,
                fix='close the quotes of the row that begins here; a quote in a quoted cell is written ""',
            ) from None
        if cells is None:
            return
        if not cells:  # an empty line
            continue
        if header is None:
            header = _checked_header(cells, location, delimiter)
            continue
        if len(cells) != len(header):
            raise DataError(
                f"the row has {len(cells)} cells, and the header has {len(header)}",
                where=location,
                fix=f"write a cell for each column; quote a cell that holds {delimiter!r} or a line end",
            )
        yield location, dict(zip(header, cells, strict=True))


def _checked_header(names: list[str], location: str, delimiter: str) -> list[str]:
    _require_different(names, location)
    other = next((other for other in _OTHER_DELIMITERS if len(names) == 1 and other in names[0]), delimiter)
    if other != delimiter:
        raise DataError(
            f"the first row, {names[0]!r}, has {other!r} between its cells, not {delimiter!r}",
            where=location,
            fix="write commas between the cells of a .csv file, and tabs between those of a .tsv file",
        )
    return names


def _require_different(names: Sequence[str], location: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"two columns have the name {twice[0]!r}", where=location, fix="rename or remove one of them"
        )


# Arrow and Parquet


def _arrow_rows(path: Path, position: Position | None, only: str | None) -> Iterator[Row]:
    suffix = data_formats.suffix_of(path.name)
    read = _parquet_batches if suffix == ".parquet" else _ipc_batches
    size, number, reported = path.stat().st_size, 0, 0
    try:
        for batch, share in read(path, only):
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                for row in batch.slice(start, _BATCH_ROWS).to_pylist():
                    number += 1
                    yield f"{path}:row {number}", row
            if position:
                position(int(size * share) - reported)
                reported = int(size * share)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        kind = "Parquet" if suffix == ".parquet" else "Arrow"
        raise DataError(
            f"not a readable {kind} file: {error}", where=str(path), fix="download or write the file again"
        ) from None
    if position:
        position(size - reported)


def _parquet_batches(path: Path, only: str | None) -> Iterator[tuple[pyarrow.RecordBatch, float]]:
    """Yield (batch, share of the file read so far)."""
    with pyarrow.parquet.ParquetFile(path) as file:
        total, done = max(file.metadata.num_rows, 1), 0
        _require_different(file.schema_arrow.names, str(path))
        columns = _selected(file.schema_arrow.names, only)
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            done += batch.num_rows
            yield batch, done / total


def _ipc_batches(path: Path, only: str | None) -> Iterator[tuple[pyarrow.RecordBatch, float]]:
    """Yield (batch, share of the file read so far) of Arrow's IPC file or IPC stream."""
    with pyarrow.memory_map(str(path)) as file:
        reader = _ipc_reader(file)
        if isinstance(reader, pyarrow.ipc.RecordBatchFileReader):
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
            shares = ((index + 1) / reader.num_record_batches for index in range(reader.num_record_batches))
        else:
            batches = iter(reader)
            shares = iter(lambda: file.tell() / file.size(), None)
        _require_different(reader.schema.names, str(path))
        columns = _selected(reader.schema.names, only)
        for batch in batches:
            yield batch if columns is None else batch.select(columns), next(shares)


def _ipc_reader(
    file: pyarrow.MemoryMappedFile,
) -> pyarrow.ipc.RecordBatchFileReader | pyarrow.ipc.RecordBatchStreamReader:
    is_file = file.read(len(_IPC_FILE)) == _IPC_FILE
    file.seek(0)
    return pyarrow.ipc.open_file(file) if is_file else pyarrow.ipc.open_stream(file)


def _selected(names: list[str], only: str | None) -> list[str] | None:
    """Return the column that holds the column `only`, None for all columns if there is none."""
    outer = (only or "").split(".")
    prefixes = (".".join(outer[:count]) for count in range(len(outer), 0, -1))
    return next(([name] for name in prefixes if name in names), None)


def _find(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column, which may be nested; `_MISSING` if there is none."""
    if name in row:
        return row[name]
    for index in (index for index, character in enumerate(name) if character == "."):
        outer = row.get(name[:index], _MISSING)
        if outer is None:
            return None
        value = _find(outer, name[index + 1 :]) if isinstance(outer, Mapping) else _MISSING
        if value is not _MISSING:
            return value
    return _MISSING


def _column_names(row: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the names of the columns, of nested ones as in `doc.text`."""
    for name, value in row.items():
        if isinstance(value, Mapping) and value:
            yield from _column_names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


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
