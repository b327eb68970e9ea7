"""`toolkit report`: write the page of finished runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from toolkit.base.errors import RunError
from toolkit.config import registry
from toolkit.report.page import write_report
from toolkit.report.summary import stage_of
from toolkit.runs import layout, seal


def report_command(runs: Sequence[str], *, output: str | None = None) -> int:
    """Write the report of runs, or of all finished runs below a folder; its path goes to stdout."""
    paths = {run.absolute(): run for name in runs for run in _finished_runs(Path(name))}
    file = Path(output) if output else _default_output(Path(runs[0]), list(paths.values()))
    write_report(list(paths.values()), file)
    print(file)
    return 0


def _finished_runs(path: Path) -> list[Path]:
    if seal.is_sealed(path):
        return [path]
    children = sorted(path.iterdir()) if path.is_dir() else []
    finished = [child for child in children if child.is_dir() and seal.is_sealed(child)]
    if not finished:
        raise RunError(
            "no finished run is here", where=str(path), fix="run its recipe first: toolkit run RECIPE"
        )
    skipped = [
        child.name for child in children if (child / layout.MANIFEST).exists() and child not in finished
    ]
    if skipped:
        print(f"left out, not finished: {', '.join(skipped)}", file=sys.stderr)
    return sorted(finished, key=lambda child: (registry.order(stage_of(child)), child.name))


def _default_output(first: Path, runs: Sequence[Path]) -> Path:
    """Return a file in the folder that contains all runs; without a common one, beside the first run."""
    folder = first if first not in runs else first.parent
    if any(run.absolute().parent != folder.absolute() for run in runs):
        common = Path(os.path.commonpath([run.absolute().parent for run in runs]))
        if common != Path(common.anchor):
            folder = Path(os.path.relpath(common)) if not first.is_absolute() else common
    return folder / ("report.html" if len(runs) > 1 else f"{first.name}-report.html")
