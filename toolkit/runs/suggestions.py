"""What a name that leads nowhere may have meant: the runs that are there."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from toolkit.base.errors import UsageError
from toolkit.runs import seal

MOST = 8
"""Runs that are listed."""
_DEPTH = 2


def runs_below(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield the runs in a folder and in its folders, sorted."""
    for child in sorted(folder.iterdir()) if folder.is_dir() else ():
        if child.name.startswith(".") or not child.is_dir():
            continue
        if seal.is_run(child):
            yield child
        elif depth > 1:
            yield from runs_below(child, depth - 1)


def there_is(path: Path, *, runs_dir: Path = Path("runs")) -> str | None:
    """Return in words what may be meant instead of a path that is no run; None where no run is near."""
    if path.is_dir():
        return _one_of([str(run) for run in runs_below(path)])
    if not path.is_absolute() and seal.is_run(runs_dir / path):
        return f"did you mean {runs_dir / path}?"
    near = next((folder for folder in path.parents if folder.is_dir() and folder != Path()), runs_dir)
    there = [str(run) for run in runs_below(near)]
    close = difflib.get_close_matches(str(path), there, n=1, cutoff=0.8)
    return f"did you mean {close[0]}?" if close else _one_of(there)


def require_no_runs(folder: Path) -> None:
    """Refuse a folder of runs, or a run, where a folder of recipes is meant; a run has recipe.yaml in it.

    Raises:
        UsageError: it is one.
    """
    is_run = seal.is_run(folder)
    has_recipes = any(folder.glob("*.y*ml"))  # beside which runs may lie, with --runs-dir
    if is_run or (not has_recipes and next(runs_below(folder, 1), None) is not None):
        what = "is a run" if is_run else "holds runs"
        raise UsageError(f"{what}, not recipes", where=str(folder), fix="give the recipe, or their folder")


def _one_of(there: list[str]) -> str | None:
    if not there:
        return None
    more = f" and {len(there) - MOST} more" if len(there) > MOST else ""
    return f"name one of the runs that are there: {', '.join(there[:MOST])}{more}"
