"""The formats of data files, in one table; a file's suffix says which one it has (docs/DATA.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path


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
VOTES = (".sqlite", ".sqlite3", ".db")
"""SQLite with a table of people's votes (`toolkit.data.vote_file`)."""
TABLES = (*LINES, *BINARY, *VOTES)
NOT_TEXT = (*BINARY, *VOTES)
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
    stem = pinned(Path(name))[0].name.lower().removesuffix(compression)
    known = (TEXT, *LINES) if compression else SUFFIXES
    return next((suffix for suffix in known if stem.endswith(suffix)), "")


def is_votes(name: str) -> bool:
    """Return whether a file of this name is a table of votes; `feedback.sqlite@412` is its first 412 rows."""
    return pinned(Path(name))[0].name.lower().endswith(VOTES)


def pinned(path: Path) -> tuple[Path, int | None]:
    """Return the file and the number of rows that `feedback.sqlite@412` names; None for all rows."""
    found = _PINNED.fullmatch(path.name)
    return (path.with_name(found[1]), int(found[2])) if found else (path, None)


_PINNED = re.compile(rf"(.+(?:{'|'.join(map(re.escape, VOTES))}))@(\d+)", re.IGNORECASE)


def listed(suffixes: Iterable[str] = SUFFIXES) -> str:
    """Return suffixes as messages list them, such as `.txt .jsonl (also .gz .bz2 .xz .zst), .parquet`."""
    lines = [suffix for suffix in suffixes if suffix not in NOT_TEXT]
    binary = [suffix for suffix in suffixes if suffix in NOT_TEXT]
    return f"{' '.join(lines)} (also {' '.join(COMPRESSIONS)}), {' '.join(binary)}"
