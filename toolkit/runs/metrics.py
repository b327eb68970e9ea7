"""metrics.jsonl: one line per log step; an incomplete last line is dropped when the run resumes."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from toolkit.base import files
from toolkit.base.errors import RunError


class Metrics:
    """Append rows to metrics.jsonl of a run; only the main process writes.

    Args:
        path: the file; created with the first line.
        active: whether this process writes.
        seconds_before: seconds of earlier attempts, so that `time` continues after a resume.
    """

    def __init__(
        self,
        path: Path,
        *,
        active: bool = True,
        seconds_before: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.path, self._active, self._clock = path, active, clock
        self._start = clock() - seconds_before
        self._handle: TextIO | None = None

    def log(self, step: int, **values: Any) -> None:
        """Append {"step", "time" (seconds since the start), **values}; NaN is written as the string "nan"."""
        if not self._active:
            return
        row = {"step": int(step), "time": round(self._clock() - self._start, 3)}
        row.update({key: _plain(value) for key, value in values.items()})
        if self._handle is None:
            drop_incomplete_line(self.path)
            self._handle = self.path.open("a", encoding="utf-8")
        self._handle.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        self._handle.flush()

    def truncate(self, step: int) -> None:
        """Drop the lines after `step`: a resumed run writes them again."""
        self.close()
        if self._active and self.path.exists():
            kept = [row for row in read(self.path) if row["step"] <= step]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
            files.write_atomic(self.path, text)

    def close(self) -> None:
        """Flush to the disk and close; the next `log` opens the file again."""
        if self._handle is not None:
            self._handle.flush()
            os.fsync(self._handle.fileno())
            self._handle.close()
            self._handle = None


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl in order, without an incomplete last line.

    Raises:
        RunError: names the first line that is damaged.
    """
    if not Path(path).exists():
        return []
    rows = []
    for number, line in enumerate(Path(path).read_bytes().split(b"\n")[:-1], 1):
        if not line:
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise RunError("the line is damaged", where=f"{path}:{number}",
                           fix="restore the file, or delete it, or start over with --fresh")  # fmt: skip
        rows.append(row)
    return rows


def drop_incomplete_line(path: Path) -> None:
    """Truncate a file to its last complete line, so that the next one is not appended to a part of a line."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)


def _plain(value: Any) -> Any:
    """Convert numbers of numpy and torch for JSON; NaN and infinity become strings."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
