"""The same rows in every file format."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet

Rows = Sequence[dict[str, str]]

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
}


def _lines(rows: Rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _cells(rows: Rows, delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


TEXT_TABLES: dict[str, Callable[[Rows], str]] = {
    ".json": lambda rows: "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]",
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".csv": lambda rows: _cells(rows, ","),
    ".tsv": lambda rows: _cells(rows, "\t"),
}


def _parquet(path: Path, rows: Rows) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


def _arrow(path: Path, rows: Rows) -> None:
    table = pyarrow.Table.from_pylist(list(rows))
    with pyarrow.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def _saved(path: Path, rows: Rows) -> None:
    datasets.Dataset.from_list(list(rows)).save_to_disk(path)


BINARY = {".parquet": _parquet, ".arrow": _arrow, "": _saved}
"""`""` is a folder of `save_to_disk`."""

ONE_COMPRESSION_EACH = [*zip(TEXT_TABLES, COMPRESS, strict=True), *((suffix, "") for suffix in BINARY)]
ALL = [(suffix, compression) for suffix in TEXT_TABLES for compression in COMPRESS]
ALL += [(suffix, "") for suffix in BINARY]
"""(suffix, suffix of the compression) of every table."""


def write(folder: Path, rows: Rows, *, suffix: str, compression: str = "") -> str:
    """Write rows of texts as a file of this format, and return its name."""
    path = folder / f"rows{suffix}{compression}"
    if suffix in BINARY:
        BINARY[suffix](path, rows)
    else:
        path.write_bytes(COMPRESS[compression](TEXT_TABLES[suffix](rows).encode()))
    return str(path)
