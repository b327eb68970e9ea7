"""The order of a folder's recipes, from what they refer to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from toolkit.base.errors import Problem, RecipeError
from toolkit.runs import references


def order(recipes: Sequence[Any]) -> list[Any]:
    """Return recipes so that each comes after those it refers to; else in the order given.

    Raises:
        RecipeError: two recipes with the same run, or recipes that refer to each other in a circle.
    """
    by_name: dict[str, Any] = {}
    problems = []
    for loaded in recipes:
        name = _normal(loaded.name)
        if name in by_name:
            what = f"has the same run, {name!r}, as {by_name[name].path}; give one of them another `run:`"
            problems.append(Problem(str(loaded.path), "run", what))
        by_name.setdefault(name, loaded)
    if problems:
        raise RecipeError(problems)
    wanted = {name: _parents(loaded, by_name) for name, loaded in by_name.items()}
    ordered: list[str] = []
    while len(ordered) < len(by_name):
        ready = next(
            (
                name
                for name in by_name
                if name not in ordered and all(parent in ordered for parent in wanted[name])
            ),
            None,
        )
        if ready is None:
            left = {name: parents for name, parents in wanted.items() if name not in ordered}
            raise RecipeError(_circle(left, by_name))
        ordered.append(ready)
    return [by_name[name] for name in ordered]


def _normal(name: str) -> str:
    return str(PurePosixPath(name))


def _parents(loaded: Any, by_name: dict[str, Any]) -> dict[str, str]:
    """Return {run name: key} of the references to runs of the same folder."""
    found = {}
    for key, reference in references.find(loaded.recipe).items():
        if reference.startswith("runs/"):
            place = PurePosixPath(reference.removeprefix("runs/"))
            # A reference may name a folder inside a run, such as a checkpoint.
            found |= {str(name): key for name in (place, *place.parents) if str(name) in by_name}
    return found


def _circle(wanted: dict[str, dict[str, str]], by_name: dict[str, Any]) -> list[Problem]:
    """Return a Problem for each recipe of one circle; every one of `wanted` has a parent in `wanted`."""
    path = [next(iter(wanted))]
    while True:
        parent = next(name for name in wanted[path[-1]] if name in wanted)
        if parent in path:
            path = path[path.index(parent) :]
            break
        path.append(parent)
    problems = []
    for name, parent in zip(path, path[1:] + path[:1], strict=True):
        loaded, key = by_name[name], wanted[name][parent]
        place = loaded.positions.get((key,), str(loaded.path))
        what = f"refers to runs/{parent}, which needs runs/{name} first (a circle)"
        problems.append(Problem(place, key, what))
    return problems
