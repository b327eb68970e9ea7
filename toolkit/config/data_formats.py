"""The formats of data files, in one table; a file's suffix says which one it has (docs/DATA.md)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class RowKind(StrEnum):
    """What rows are read as, in the order in which it is tried: preferences are conversations, too."""

    PREFERENCES = "preferences"
    SFT = "sft"
    PROMPTS = "prompts"
    TEXT = "text"


TEXT = ".txt"
LINES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
"""Tables that are text, and may therefore be compressed."""
CELLS = (".csv", ".tsv")
"""Tables in which every value is text."""
BINARY = (".parquet", ".arrow")
TABLES = (*LINES, *BINARY)
SUFFIXES = (TEXT, *TABLES)
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
"""Second suffixes of compressed files of text."""


def compression_of(name: str) -> str:
    """Return the last suffix of a file name if it is that of a compression, in lower case, otherwise ""."""
    return next((suffix for suffix in COMPRESSIONS if name.lower().endswith(suffix)), "")


def suffix_of(name: str) -> str:
    """Return the suffix that says how a file is read, in lower case; "" if files of this name are not read.

    The suffix of a compression is left out: `.jsonl` for `a.jsonl.gz`.
    """
    compression = compression_of(name)
    stem = name.lower().removesuffix(compression)
    known = (TEXT, *LINES) if compression else SUFFIXES
    return next((suffix for suffix in known if stem.endswith(suffix)), "")


def listed(suffixes: Iterable[str] = SUFFIXES) -> str:
    """Return suffixes as messages list them, such as `.txt .jsonl (also .gz .bz2 .xz .zst), .parquet`."""
    lines = [suffix for suffix in suffixes if suffix not in BINARY]
    binary = [suffix for suffix in suffixes if suffix in BINARY]
    return f"{' '.join(lines)} (also {' '.join(COMPRESSIONS)}), {' '.join(binary)}"
