"""`--fresh` on a folder: which runs are started over, and why; the others are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from toolkit.base import console
from toolkit.config.loader import LoadedRecipe
from toolkit.data import files as data_files
from toolkit.execution import dag
from toolkit.runs import opening, references, seal


@dataclass(frozen=True)
class StartingOver:
    """The existing runs of a folder of recipes, divided by `--fresh`.

    Attributes:
        reasons: {name of a run that is started over: why, one line each}.
        kept: names of the runs that are kept: recipe, inputs and bytes are unchanged.
        finished: those of `kept` that are sealed; the others are resumed.
    """

    reasons: dict[str, list[str]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    finished: frozenset[str] = frozenset()


def examine(recipes: Sequence[LoadedRecipe], *, runs_dir: Path) -> StartingOver:
    """Decide which runs `--fresh` starts over; write nothing.

    Those are the runs whose recipe, data, parents or sealed bytes changed, and every run that was made from
    one that is not finished or is started over itself.

    Args:
        recipes: of a folder, in the order of `dag.order`.

    Raises:
        RunError: a run directory that must not be emptied, or a parent outside the folder that is not sealed.
    """
    parents = dag.parents(recipes)
    reasons: dict[str, list[str]] = {}
    kept: list[str] = []
    finished: set[str] = set()
    for loaded in recipes:
        path = references.below(loaded.name, runs_dir)
        opening.refuse_foreign(path, runs_dir, fresh=True)
        if not (seal.is_run(path) and opening.holds_work(path)):
            continue
        unfinished = sorted(parents[loaded.name] - finished)
        if unfinished:
            made_from = [str(references.below(name, runs_dir)) for name in unfinished]
            reasons[loaded.name] = [f"was made from {' and '.join(made_from)}"]
            continue
        data = data_files.digests(loaded.recipe)
        if changes := opening.changes(loaded, runs_dir=runs_dir, data=data):
            reasons[loaded.name] = changes
            continue
        kept.append(loaded.name)
        if seal.is_sealed(path):
            finished.add(loaded.name)
    return StartingOver(reasons, kept, frozenset(finished))


def tell(found: StartingOver, *, runs_dir: Path) -> None:
    """Print which runs are started over and why, and which are kept."""
    if not found.reasons:
        console.tell("--fresh: no run is started over: recipes and inputs are unchanged")
        return
    console.tell("--fresh starts over:")
    for name, lines in found.reasons.items():
        for line in lines:
            console.tell(f"  {references.below(name, runs_dir)}: {line}")
    if found.kept:
        console.tell(f"and keeps: {', '.join(str(references.below(name, runs_dir)) for name in found.kept)}")
