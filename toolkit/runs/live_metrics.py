"""metrics.jsonl of a run that may still be written: read as it grows, and thinned for a screen."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

HEAD_BYTES = 256
"""Bytes at the beginning of the file by which a file that was started over is noticed."""


class Follower:
    """The numbers of a metrics.jsonl; `update` reads only what was appended since the last call.

    A last line without a line break is not read yet. A file that became shorter, or was replaced, as when a
    run resumes from a checkpoint, is read again from its beginning. Not thread-safe.

    Attributes:
        path: the file; it may not exist yet.
        position: bytes that were read.
        version: changes with every `update` that found something new.
        rows: lines that were read.
        last: `step` and `time` (seconds since the start) of the last row.
        samples: the last `samples` of a row, and their step.
        damaged: number of lines that are no row; `first_damaged` is the number of the first, from 1.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.version = 0
        self._start_over()

    def _start_over(self) -> None:
        self.position, self.rows, self.lines = 0, 0, 0
        self.last: dict[str, float] = {}
        self.samples: tuple[int, list[Any]] | None = None
        self.damaged, self.first_damaged = 0, 0
        self._head, self._file = b"", 0
        self._base: dict[str, array[float]] = {name: array("d") for name in ("step", "time", "tokens")}
        self._places: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self._values: dict[str, array[float]] = defaultdict(lambda: array("d"))
        self._not_finite: dict[str, int] = defaultdict(int)

    def update(self) -> bool:
        """Read what is new; return whether there was anything."""
        try:
            with self.path.open("rb") as handle:
                return self._read(handle)
        except FileNotFoundError:
            return self._forget()

    def _forget(self) -> bool:
        had = self.position > 0
        if had:
            self._start_over()
            self.version += 1
        return had

    def _read(self, handle: Any) -> bool:
        state = os.fstat(handle.fileno())
        head = handle.read(HEAD_BYTES)
        changed = False
        if state.st_ino != self._file or state.st_size < self.position or not head.startswith(self._head):
            changed = self._forget()
        self._file = state.st_ino
        handle.seek(self.position)
        content = handle.read()
        whole = content[: content.rfind(b"\n") + 1]
        if not whole:
            return changed
        self._head = (head if self.position == 0 else self._head)[: self.position + len(whole)]
        self.position += len(whole)
        for line in whole.split(b"\n")[:-1]:
            self._add(line)
        self.version += 1
        return True

    def _add(self, line: bytes) -> None:
        self.lines += 1
        if not line:
            return
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not is_number(row.get("step")):
            self.damaged += 1
            self.first_damaged = self.first_damaged or self.lines
            return
        for name, column in self._base.items():
            column.append(float(row[name]) if is_number(row.get(name)) else math.nan)
        for name, value in row.items():
            if name in ("step", "time"):
                continue
            if is_number(value):
                self._places[name].append(self.rows)
                self._values[name].append(float(value))
            elif value in ("nan", "inf", "-inf"):
                self._not_finite[name] += 1
        if isinstance(row.get("samples"), list):
            self.samples = row["step"], row["samples"]
        self.last = {name: row[name] for name in ("step", "time") if is_number(row.get(name))}
        self.rows += 1

    @property
    def names(self) -> list[str]:
        """The metrics that have numbers, in order of appearance."""
        return list(self._values)

    def not_finite(self, name: str) -> int:
        """Return how often a metric was NaN or infinite; such points are in no series."""
        return self._not_finite.get(name, 0)

    def series(self, name: str, over: str = "step") -> tuple[np.ndarray, np.ndarray]:
        """Return (x, y) of a metric over `step`, `time` or `tokens`, float64; empty without numbers."""
        places = np.array(self._places.get(name, ()), dtype=np.int64)
        x, y = np.array(self._base[over])[places], np.array(self._values.get(name, ()), dtype=np.float64)
        has_x = np.isfinite(x)
        return x[has_x], y[has_x]

    def seconds_per_step(self) -> float | None:
        """Return the seconds of a step between the first and the last row, None if no step was made."""
        steps, times = self._base["step"], self._base["time"]
        if len(steps) < 2 or not steps[-1] > steps[0] or not times[-1] > times[0]:
            return None
        return (times[-1] - times[0]) / (steps[-1] - steps[0])


def is_number(value: object) -> bool:
    """Return whether a value of JSON is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def thinned(y: np.ndarray, points: int) -> np.ndarray:
    """Return the indices of at most `points` points that look like all of them, ascending, int64.

    Consecutive points form buckets, of which the smallest and the largest stay, so no peak is lost; so do the
    first and the last point. With at most `points` points, all stay.

    Args:
        points: at least 4.
    """
    count = len(y)
    if count <= points:
        return np.arange(count)
    edges = np.linspace(0, count, (points - 2) // 2 + 1).astype(np.int64)
    kept = {0, count - 1}
    for start, stop in pairwise(edges):
        part = y[start:stop]
        kept.update((int(start + part.argmin()), int(start + part.argmax())))
    return np.array(sorted(kept), dtype=np.int64)
