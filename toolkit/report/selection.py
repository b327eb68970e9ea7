"""Which runs a report is about."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.base.errors import RunError
from toolkit.config import registry
from toolkit.report.summary import stage_of
from toolkit.runs import layout, seal, suggestions


@dataclass(frozen=True)
class Selection:
    """The runs of a report.

    Attributes:
        runs: finished runs.
        unfinished: names of runs in the same folders that are left out.
        output: the file of the report, where no other is named.
    """

    runs: list[Path]
    unfinished: list[str]
    output: Path


def select_runs(names: Sequence[str]) -> Selection:
    """Return the named runs, and all finished runs of the named folders.

    Raises:
        RunError: a folder without finished runs.
    """
    runs: dict[Path, Path] = {}
    unfinished: list[str] = []
    for name in names:
        finished, others = _finished_runs(Path(name))
        runs |= {run.absolute(): run for run in finished}
        unfinished += others
    selected = list(runs.values())
    return Selection(selected, unfinished, _default_output(Path(names[0]), selected))


def _finished_runs(path: Path) -> tuple[list[Path], list[str]]:
    """Return the finished runs of a folder in the order of the stages, and the names of the others."""
    if seal.is_sealed(path):
        return [path], []
    children = sorted(path.iterdir()) if path.is_dir() else []
    finished = [child for child in children if child.is_dir() and seal.is_sealed(child)]
    if not finished:
        folders = sorted({str(run.parent) for run in suggestions.runs_below(path) if seal.is_sealed(run)})
        fix = f"name a folder of runs: {', '.join(folders)}" if folders else suggestions.there_is(path)
        raise RunError(
            "no finished run is here", where=str(path), fix=fix or "run its recipe first: toolkit run RECIPE"
        )
    unfinished = [
        child.name for child in children if (child / layout.MANIFEST).exists() and child not in finished
    ]
    return sorted(finished, key=lambda child: (registry.order(stage_of(child)), child.name)), unfinished


def _default_output(first: Path, runs: Sequence[Path]) -> Path:
    """Return a file in the folder that contains all runs; without a common one, next to the first run."""
    folder = first if first not in runs else first.parent
    if any(run.absolute().parent != folder.absolute() for run in runs):
        common = Path(os.path.commonpath([run.absolute().parent for run in runs]))
        if common != Path(common.anchor):
            folder = Path(os.path.relpath(common)) if not first.is_absolute() else common
    return folder / ("report.html" if len(runs) > 1 else f"{first.name}-report.html")
