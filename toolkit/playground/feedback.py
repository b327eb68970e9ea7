"""Writing people's votes: rows are only ever added, and one that was acknowledged survives a kill."""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from toolkit.base.errors import ToolkitError
from toolkit.data.vote_file import SCHEMA, UNDO

_APPEND_ONLY = """CREATE TRIGGER IF NOT EXISTS votes_{verb} BEFORE {verb} ON votes
BEGIN SELECT RAISE(ABORT, 'votes are only ever added'); END"""
BUSY_SECONDS = 30


@dataclass(frozen=True)
class NewVote:
    """A vote to be recorded; the columns of `toolkit.data.vote_file.SCHEMA`."""

    prompt: Sequence[dict[str, str]]
    answer_a: str
    answer_b: str
    vote: str
    voter: str
    models: tuple[str, str]
    shown: str
    kind: str = "normal"


class VoteLog:
    """The SQLite file of the votes. Thread-safe; several processes may write and read it at once."""

    def __init__(self, path: Path):
        """Open the file, or create it.

        Raises:
            ToolkitError: it cannot be written, or is no SQLite file.
        """
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
            self._base.row_factory = sqlite3.Row
            self._base.execute("PRAGMA journal_mode = WAL")
            # With NORMAL the last votes are lost when the machine loses power.
            self._base.execute("PRAGMA synchronous = FULL")
            with self._base:
                self._base.execute(SCHEMA)
                for verb in ("UPDATE", "DELETE"):
                    self._base.execute(_APPEND_ONLY.format(verb=verb))
        except (sqlite3.Error, OSError) as error:
            raise ToolkitError(
                f"votes cannot be written: {error}", where=str(path), fix="give another --feedback FILE"
            ) from error

    def add(self, vote: NewVote) -> str:
        """Record a vote and return its id; it is on the disk when this returns."""
        return self._insert({
            "prompt": json.dumps(list(vote.prompt), ensure_ascii=False), "answer_a": vote.answer_a,
            "answer_b": vote.answer_b, "vote": vote.vote, "voter": vote.voter,
            "models": json.dumps(vote.models, ensure_ascii=False), "shown": vote.shown, "kind": vote.kind,
        })  # fmt: skip

    def undo(self, vote_id: str) -> str:
        """Record that a vote is taken back, and return the id of the undo.

        Raises:
            ToolkitError: there is no such vote, or it is taken back already.
        """
        with self._lock:
            found = self._base.execute("SELECT * FROM votes WHERE id = ?", (vote_id,)).fetchone()
        if found is None or found["vote"] == UNDO:
            raise ToolkitError("there is no such vote", where=str(self.path))
        kept = ("prompt", "answer_a", "answer_b", "voter", "models", "shown", "kind")
        try:
            return self._insert({name: found[name] for name in kept} | {"vote": UNDO, "undoes": vote_id})
        except sqlite3.IntegrityError:
            raise ToolkitError("this vote is taken back already", where=str(self.path)) from None

    def last(self, voter: str) -> dict[str, Any] | None:
        """Return the last vote of a voter that is not taken back, None if there is none."""
        with self._lock:
            found = self._base.execute(
                "SELECT * FROM votes v WHERE voter = ? AND vote != ? AND undone_by IS NULL AND NOT EXISTS "
                "(SELECT 1 FROM votes u WHERE u.undoes = v.id) ORDER BY rowid DESC LIMIT 1",
                (voter, UNDO),
            ).fetchone()
        return None if found is None else dict(found)

    def count(self) -> int:
        """Return the number of rows, undos included."""
        with self._lock:
            return self._base.execute("SELECT COUNT(*) FROM votes").fetchone()[0]

    def close(self) -> None:
        """Close the file, which writes the journal back into it."""
        with self._lock:
            self._base.close()

    def _insert(self, row: dict[str, Any]) -> str:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = {"id": uuid.uuid4().hex, "time": time, **row}
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        with self._lock, self._base:  # a transaction
            self._base.execute(f"INSERT INTO votes ({names}) VALUES ({marks})", list(row.values()))
        return row["id"]
