"""Votes of people on pairs of answers, in a file.

A vote is a line of JSON, or a row of a table `votes` in SQLite (`SCHEMA`):

    {"prompt": "Tell me ...", "answer_a": "Once ...", "answer_b": "There ...", "vote": "a", "voter": "kim"}

prompt: a text or a list of messages (as JSON in SQLite). vote: a, b, tie, or bad (neither answer is
acceptable). voter: who voted; may be missing. Optional: id, time, models (of answers a and b), shown (`ab`
or `ba`: which answer was shown first), and kind (normal; repeat: the same pair again; attention: a check of
the voter).

Votes are only ever added. One that is taken back stays, and a later row has the vote `undo` and its id in
`undoes`; `toolkit playground` writes this. Files of other programs may instead name in `undone_by` the vote
that replaced a vote. Only normal votes that are not undone count. Several votes on a pair count as their
mean; bad counts as a tie in win rates and is left out of preferences.

`feedback.sqlite@412` names the first 412 rows of a file in SQLite that has grown since.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from toolkit.base.errors import DataError
from toolkit.config import data_formats

SCHEMA = """CREATE TABLE IF NOT EXISTS votes (
    id TEXT PRIMARY KEY, time TEXT, prompt TEXT NOT NULL, answer_a TEXT NOT NULL, answer_b TEXT NOT NULL,
    vote TEXT NOT NULL CHECK (vote IN ('a', 'b', 'tie', 'bad', 'undo')), voter TEXT, models TEXT,
    shown TEXT CHECK (shown IN ('ab', 'ba')),
    kind TEXT NOT NULL DEFAULT 'normal' CHECK (kind IN ('normal', 'repeat', 'attention')),
    undone_by TEXT REFERENCES votes (id), undoes TEXT UNIQUE REFERENCES votes (id),
    CHECK ((vote = 'undo') = (undoes IS NOT NULL))
)"""
"""The table of votes in SQLite; a line of JSON has the same names. An undo repeats prompt and answers."""
COLUMNS = ("prompt", "answer_a", "answer_b", "vote")
VALUES = {"a": 1.0, "tie": 0.5, "b": 0.0, "bad": None}
UNDO = "undo"
KINDS = ("normal", "repeat", "attention")
TIE = 0.5

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Vote:
    """A vote that counts.

    Attributes:
        prompt: the messages as JSON, the same for a prompt as text and as messages.
        answer_a, answer_b: the answers.
        value: 1 for a, 0 for b, 0.5 for a tie, None for bad.
        voter: who voted, if known.
    """

    prompt: str
    answer_a: str
    answer_b: str
    value: float | None
    voter: str | None = None


def read_rows(path: Path) -> list[tuple[str, Row]]:
    """Return (location, row) of all votes that are not undone, of every kind; undos are applied.

    Raises:
        DataError: the file does not exist, or a row is not a vote.
    """
    return [(position, row) for position, row, is_undone in _with_undone(path) if not is_undone]


def read_votes(path: Path) -> tuple[list[Vote], dict[str, int]]:
    """Return the votes of a file that count, and {reason: number} of the others.

    A vote counts if its kind is normal and it is not undone.

    Raises:
        DataError: the file does not exist or has no votes that count, or a row is not a vote.
    """
    votes: list[Vote] = []
    left_out: Counter[str] = Counter()
    for position, row, is_undone in _with_undone(path):
        kind = row.get("kind") or "normal"
        if is_undone:
            left_out["undone"] += 1
        elif kind != "normal":
            left_out[kind] += 1
        else:
            votes.append(_vote(row, position))
    if not votes:
        count = left_out.total()
        raise DataError(
            f"has {count} votes, of which none counts" if count else "holds no votes",
            where=str(path),
            fix="write one object a line: see docs/EVALUATION.md",
        )
    return votes, dict(left_out)


def by_pair(path: Path) -> tuple[dict[tuple[str, str, str], list[float]], dict[str, int]]:
    """Return {(prompt, answer, other answer): values of the votes on the pair}, and what was left out.

    The answers of a pair are in the order of its first vote; a value is 1 where the first answer is
    preferred. Bad votes are left out, as well as those that do not count.

    Raises:
        DataError: as `read_votes`.
    """
    votes, left_out = read_votes(path)
    values: dict[tuple[str, str, str], list[float]] = {}
    for vote in votes:
        if vote.value is None:
            left_out["bad"] = left_out.get("bad", 0) + 1
            continue
        key, turned = (vote.prompt, vote.answer_a, vote.answer_b), (vote.prompt, vote.answer_b, vote.answer_a)
        if turned in values:
            values[turned].append(1 - vote.value)
        else:
            values.setdefault(key, []).append(vote.value)
    return values, left_out


def comparisons(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (location, row) of each pair with the majority of its votes, in columns that preferences have.

    `winner` is a, b, or tie (as many votes for each); `votes` is their number.

    Raises:
        DataError: as `read_votes`.
    """
    values, _ = by_pair(path)
    for number, ((prompt, first, second), given) in enumerate(values.items(), 1):
        mean = fmean(given)
        yield (
            f"{path}:pair {number}",
            {
                "prompt": json.loads(prompt),
                "answer_a": first,
                "answer_b": second,
                "winner": "tie" if mean == TIE else "a" if mean > TIE else "b",
                "votes": len(given),
            },
        )


def digest(path: Path) -> bytes:
    """Return the SHA-256 of all rows of a table of votes.

    The bytes of the file itself change when SQLite moves rows from its journal, and with them a file's hash.

    Raises:
        DataError: it cannot be read.
    """
    total = hashlib.sha256()
    for _, row in _table_rows(path):
        kept = {name: value for name, value in row.items() if value is not None}
        total.update(json.dumps(kept, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return total.digest()


def count_rows(path: Path) -> int:
    """Return the number of rows of a table of votes, undos included.

    Raises:
        DataError: it cannot be read.
    """
    return sum(1 for _ in _table_rows(path))


def prompt_key(prompt: Any) -> str:
    """Return the messages of a prompt as JSON, the same for text, messages, and messages in JSON (SQLite)."""
    if isinstance(prompt, str):
        try:
            parsed = json.loads(prompt)
        except ValueError:
            parsed = None
        prompt = parsed if isinstance(parsed, list) else [{"role": "user", "content": prompt}]
    turns = [
        {"role": turn.get("role"), "content": turn.get("content")}
        for turn in prompt
        if isinstance(turn, Mapping)
    ]
    return json.dumps(turns, ensure_ascii=False)


def _with_undone(path: Path) -> list[tuple[str, Row, bool]]:
    """Return (location, row, whether it is undone) of every vote of a file."""
    rows: list[tuple[str, Row]] = []
    named: set[Any] = set()
    for position, row in _rows(path):
        if str(row.get("vote")).strip().lower() == UNDO:
            if not row.get("undoes"):
                raise DataError("undoes no vote", where=position, fix="name the id of the vote in `undoes`")
            named.add(row["undoes"])
            continue
        _vote(row, position)  # every row must be a vote, whether it counts or not
        if (row.get("kind") or "normal") not in KINDS:
            raise DataError(
                f"kind is {row['kind']!r}", where=position, fix=f"write {', '.join(KINDS)}, or leave it out"
            )
        rows.append((position, row))
    missing = named - {row.get("id") for _, row in rows}
    if missing:
        raise DataError(
            f"an undo names a vote that is not there: {sorted(map(str, missing))[0]}",
            where=str(path),
            fix="give the whole file",
        )
    return [(place, row, bool(row.get("undone_by")) or row.get("id") in named) for place, row in rows]


def _vote(row: Row, position: str) -> Vote:
    missing = [name for name in COLUMNS if not row.get(name) and row.get(name) != ""]
    if missing:
        raise DataError(
            f"has no {', '.join(missing)}", where=position, fix=f"a vote has {', '.join(COLUMNS)}"
        )
    if not isinstance(row["answer_a"], str) or not isinstance(row["answer_b"], str):
        raise DataError("an answer is no text", where=position, fix="write both answers as texts")
    name = str(row["vote"]).strip().lower()
    if name not in VALUES:
        raise DataError(f"vote is {row['vote']!r}", where=position, fix="write a, b, tie or bad")
    return Vote(prompt_key(row["prompt"]), row["answer_a"], row["answer_b"], VALUES[name], row.get("voter"))


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    if path.suffix != ".jsonl":
        yield from _table_rows(path)
        return
    _require_file(path)
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", _object(line, f"{path}:{number}")


def _table_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a table in the order in which they were added, from one snapshot."""
    file, limit = data_formats.pinned(path)
    _require_file(file)
    try:
        with closing(_opened(file)) as base:
            base.row_factory = sqlite3.Row
            rows = base.execute(
                "SELECT * FROM votes ORDER BY rowid LIMIT ?", (-1 if limit is None else limit,)
            )
            number = 0
            for number, row in enumerate(rows, 1):
                yield f"{file}, row {number} of votes", dict(row)
    except sqlite3.Error as error:
        raise DataError(f"cannot be read: {error}", where=str(path), fix="give a table `votes`") from error
    if limit is not None and number < limit:
        raise DataError(
            f"has {number} rows, not {limit}", where=str(file), fix="give the file that the votes are in"
        )


def _opened(path: Path) -> sqlite3.Connection:
    """Open a table to read it. SQLite reads a journal (-wal) only if it may write a file beside it (-shm)."""
    address = f"{path.resolve().as_uri()}?mode=ro"
    base = sqlite3.connect(address, uri=True)
    try:
        base.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.Error as error:
        base.close()
        if not isinstance(error, sqlite3.OperationalError) or Path(f"{path}-wal").exists():
            raise
        return sqlite3.connect(f"{address}&immutable=1", uri=True)  # a folder that may only be read
    return base


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise DataError("there is no such file of votes", where=str(path), fix="check the path")


def _object(line: str, position: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"is not JSON: {error}", where=position, fix="write one object a line") from error
    if not isinstance(row, dict):
        raise DataError("is not an object", where=position, fix="write one object a line")
    return row
