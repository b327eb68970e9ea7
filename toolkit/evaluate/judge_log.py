"""What a judge has said, kept line by line: nobody is asked twice, whatever interrupts the asking."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from toolkit.base.errors import DataError
from toolkit.runs.metrics import drop_incomplete_line


def key_of(*parts: Any) -> str:
    """What identifies a question: who is asked, and what."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Journal:
    """Judgements by key, in a file of JSON lines that is on the disk before the next question is asked.

    Raises:
        DataError: a line of the file is none of ours.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._known: dict[str, float | None] = {}
        drop_incomplete_line(path)  # a kill may have left half of one
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for number, line in enumerate(text.splitlines(), 1):
            try:
                row = json.loads(line)
                self._known[row["key"]] = row["verdict"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    "is not a line of judgements", where=f"{path}:{number}", fix="name another file for them"
                ) from error

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> float | None:
        return self._known[key]

    def add(self, key: str, verdict: float | None, **about: Any) -> None:
        """Keep a verdict; called from any thread."""
        line = json.dumps({"key": key, "verdict": verdict, **about}, ensure_ascii=False) + "\n"
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._known[key] = verdict
