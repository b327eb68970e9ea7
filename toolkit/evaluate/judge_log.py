"""A log of judgements as JSON lines, so that a question is never asked twice."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from toolkit.base.errors import DataError
from toolkit.runs.metrics import drop_incomplete_line


def question_key(*parts: Any) -> str:
    """Return the hash that identifies a question to a judge."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class JudgementLog:
    """Verdicts by question key in a file of JSON lines; `add` returns once its line is on the disk.

    Raises:
        DataError: a line of the file is not a judgement.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._verdicts: dict[str, float | None] = {}
        drop_incomplete_line(path)  # of a killed process
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for number, line in enumerate(text.splitlines(), 1):
            try:
                row = json.loads(line)
                self._verdicts[row["key"]] = row["verdict"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    "is not a line of judgements", where=f"{path}:{number}", fix="name another file for them"
                ) from error

    def __contains__(self, key: str) -> bool:
        return key in self._verdicts

    def __getitem__(self, key: str) -> float | None:
        return self._verdicts[key]

    def add(self, key: str, verdict: float | None, **details: Any) -> None:
        """Append a verdict to the file; any thread may call this."""
        line = json.dumps({"key": key, "verdict": verdict, **details}, ensure_ascii=False) + "\n"
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._verdicts[key] = verdict
