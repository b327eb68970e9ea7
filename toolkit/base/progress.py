"""Progress on stderr: a bar with the time left on a terminal, else a line every ten seconds.

A process whose output another one shows (`report_to_parent`) writes reports instead, from which that process
draws the bar.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from toolkit.base import console, ranks

_LINE_SECONDS = 10.0
_REPORT_SECONDS = 0.25
_SLOW_SECONDS = 5.0
"""A pass that ends sooner shows no progress."""
_REPORT = "\x1e"
"""First character of a line that is a report, ASCII's record separator."""
REPORTS = "TOOLKIT_REPORTS"
"""Environment variable: set for a process whose parent draws its bars."""
# The time left is estimated from the last updates only, because the first step may be slow (compiling).
_WINDOW = 50


@dataclass(frozen=True)
class Report:
    """The progress of a loop in another process.

    Attributes:
        description: of the loop.
        done, total: numbers of units.
        words: what the bar says.
        ended: the loop has ended.
    """

    description: str
    done: int
    total: int
    words: str
    ended: bool = False

    def line(self) -> str:
        """Return the line that `read` reads."""
        return _REPORT + json.dumps(asdict(self))

    @classmethod
    def read(cls, line: str) -> Report | None:
        """Return the report of a line; None for a line that is none."""
        return cls(**json.loads(line[1:])) if line.startswith(_REPORT) else None


class _Reporting:
    """Whether this process writes reports."""

    active = False


def report_to_parent() -> None:
    """Write reports from now on if the parent asked for them; do not ask the same of child processes."""
    _Reporting.active = os.environ.pop(REPORTS, None) is not None


def bars() -> Bar:
    """Return a display of bars on the terminal; each task has `words`."""
    # Redirecting stdout would put a program's JSON on the terminal's stderr.
    return Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        console=Console(stderr=True),
        redirect_stdout=False,
        refresh_per_second=4,
    )


class Progress:
    """Show the progress of a loop; only the main process prints.

    Args:
        description: of the loop, such as the run's name.
        total: number of `unit`s until the end.
        unit: what is counted, in the singular.
        after_seconds: show nothing before, and nothing at all of a loop that ends sooner.
    """

    def __init__(self, description: str, total: int, unit: str = "step", *, after_seconds: float = 0.0):
        self._shown_from = time.monotonic() + after_seconds
        self._description, self._total, self._unit = description, max(int(total), 1), unit
        self._active = ranks.rank() == 0
        self._seen: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._last_line = -_LINE_SECONDS
        self._last, self._done = "", 0

    def __enter__(self) -> Progress:
        if time.monotonic() >= self._shown_from:
            self._start_bar()
        return self

    def _start_bar(self) -> None:
        if self._bar is None and self._active and console.on_terminal():
            self._bar = bars()
            self._bar.start()
            self._task = self._bar.add_task(self._description, total=self._total, words="")

    def update(self, done: int, **values: Any) -> None:
        """Show that `done` units of the total are done, with values such as loss=2.31."""
        if not self._active:
            return
        now = time.monotonic()
        self._seen.append((now, int(done)))
        if now < self._shown_from:
            return
        self._start_bar()
        words = [f"{done}/{self._total} {self._unit}s"]
        words += [f"{name} {_short(value)}" for name, value in values.items()]
        left = self.seconds_left()
        if left is not None and done < self._total:
            words.append(f"{duration(left)} left")
        self._last, self._done = ", ".join(words), int(done)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, words=self._last)
        elif _Reporting.active:
            if now - self._last_line >= _REPORT_SECONDS:
                self._report(now)
        elif now - self._last_line >= _LINE_SECONDS or done >= self._total:
            self._line(now)

    def seconds_left(self) -> float | None:
        """Estimate the seconds until the end from the last updates; None before the second update."""
        if len(self._seen) < 2:
            return None
        (first_time, first), (last_time, last) = self._seen[0], self._seen[-1]
        if last <= first:
            return None
        return (self._total - last) * (last_time - first_time) / (last - first)

    def _line(self, now: float) -> None:
        if self._last:
            console.tell(f"{self._description}: {self._last}")
            self._last, self._last_line = "", now

    def _report(self, now: float, *, ended: bool = False) -> None:
        report = Report(self._description, self._done, self._total, self._last, ended)
        console.tell(report.line())
        self._last_line = now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif time.monotonic() < self._shown_from:
            return
        elif self._active and _Reporting.active:
            self._report(time.monotonic(), ended=True)
        elif self._active:
            self._line(time.monotonic())


@contextmanager
def slow_pass(description: str | None, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that is called with the number of units done; a pass of a few seconds shows nothing.

    Args:
        description: what is done; None shows nothing, such as inside a loop with a bar of its own.
    """
    if description is None:
        yield lambda done: None
        return
    with Progress(description, total, unit, after_seconds=_SLOW_SECONDS) as progress:
        yield progress.update


Row = TypeVar("Row")


def slowly(rows: Iterable[Row], description: str, *, total: int, unit: str) -> Iterator[Row]:
    """Iterate over rows, and show the progress of a pass that takes more than a few seconds."""
    with slow_pass(description, total, unit) as update:
        for done, row in enumerate(rows, 1):
            yield row
            update(done)


def duration(seconds: float) -> str:
    """Format seconds as 8s, 2m05s or 3h20m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _short(value: Any) -> str:
    if hasattr(value, "item"):
        value = value.item()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
