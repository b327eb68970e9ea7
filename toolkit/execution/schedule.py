"""Which stages of a folder run side by side: those whose parents are finished, as many as fit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class StageTask:
    """A stage of a folder.

    Attributes:
        name: of its run.
        parents: names of the runs of the same folder that it reads.
        cores: number of cores that it computes on.
    """

    name: str
    parents: frozenset[str]
    cores: int


class Schedule:
    """The stages of a folder that wait, run, or are finished.

    Args:
        tasks: the stages, parents before children; if several can start, the first one does.
        jobs: the largest number of stages that run at the same time; None is as many as fit.
        cores: number of cores of the machine; running stages never need more.
    """

    def __init__(self, tasks: Sequence[StageTask], *, jobs: int | None, cores: int):
        self.cores, self.jobs = cores, min(jobs or cores, cores)
        self._tasks = {task.name: replace(task, cores=min(task.cores, cores)) for task in tasks}
        self._waiting = list(self._tasks)
        self._finished: set[str] = set()
        self.running: list[str] = []

    @property
    def waiting(self) -> list[str]:
        """The stages that have not started, in order."""
        return list(self._waiting)

    @property
    def idle_cores(self) -> int:
        """Number of cores on which no stage runs."""
        return self.cores - sum(self._tasks[name].cores for name in self.running)

    def next(self) -> str | None:
        """Return the stage to start now; None if no stage is ready, or none that fits."""
        return next((name for name in self._waiting if self._is_ready(name) and self._fits(name)), None)

    def start(self, name: str) -> None:
        """Record that a stage runs."""
        self._waiting.remove(name)
        self.running.append(name)

    def finish(self, name: str) -> None:
        """Record that a stage is finished; it may have been finished before."""
        (self.running if name in self.running else self._waiting).remove(name)
        self._finished.add(name)

    def runs_side_by_side(self) -> bool:
        """Return whether two of the stages could run at the same time."""
        return self.jobs > 1 and any(
            first.cores + second.cores <= self.cores
            for first, second in itertools.combinations(self._tasks.values(), 2)
            if first.name not in self._ancestors(second)
        )

    def _is_ready(self, name: str) -> bool:
        return self._tasks[name].parents <= self._finished

    def _fits(self, name: str) -> bool:
        return len(self.running) < self.jobs and self._tasks[name].cores <= self.idle_cores

    def _ancestors(self, task: StageTask) -> set[str]:
        found = set(task.parents)
        for name in task.parents:
            found |= self._ancestors(self._tasks[name])
        return found
