"""The output of stages that run side by side: one bar each on a terminal, and lines with the stage's name."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from rich.progress import Progress as Bars
from rich.progress import TaskID

from toolkit.base import console, progress


class StageOutput:
    """Shows the output of several stages on stderr.

    Args:
        labels: {run: what its lines begin with}.
    """

    def __init__(self, labels: Mapping[str, str]):
        self._labels, self._width = labels, max(map(len, labels.values()))
        self._bars: Bars | None = progress.bars() if console.on_terminal() else None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> StageOutput:
        if self._bars is not None:
            self._bars.start()
        return self

    def show(self, name: str, line: str) -> None:
        """Show a line that a stage has printed, or its progress."""
        line = line.rstrip().rpartition("\r")[2]  # a bar of a library overwrites itself
        report = progress.Report.read(line)
        if report is None:
            self._tell(name, line)
        elif report.ended:
            self.end(name)
            self._tell(name, self._words(name, report))
        elif self._bars is not None:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(self._head(name), words="")
            words = self._words(name, report)
            self._bars.update(self._tasks[name], total=report.total, completed=report.done, words=words)

    def end(self, name: str) -> None:
        """Remove the bar of a stage."""
        if self._bars is not None and name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _head(self, name: str) -> str:
        return f"{self._labels[name]:{self._width}} |"

    def _tell(self, name: str, line: str) -> None:
        if line:
            console.tell(f"{self._head(name)} {self._without_name(name, line)}")

    def _words(self, name: str, report: progress.Report) -> str:
        return self._without_name(name, f"{report.description}: {report.words}") if report.words else ""

    def _without_name(self, name: str, line: str) -> str:
        """Remove the name of the run or the stage, with which its own messages begin."""
        return line.removeprefix(f"{name}: ").removeprefix(f"{self._labels[name]}: ")
