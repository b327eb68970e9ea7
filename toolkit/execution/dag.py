"""The order of a folder's recipes, from their references to each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from toolkit.base.errors import Problem, ProblemKind, RecipeError
from toolkit.config.loader import LoadedRecipe
from toolkit.runs import references


def order(recipes: Sequence[LoadedRecipe]) -> list[LoadedRecipe]:
    """Sort recipes topologically: each comes after those it refers to, otherwise in the given order.

    Raises:
        RecipeError: two recipes have the same run, or recipes refer to each other in a cycle.
    """
    by_name: dict[str, LoadedRecipe] = {}
    problems = []
    for loaded in recipes:
        name = _normal(loaded.name)
        if name in by_name:
            message = f"has the same run, {name!r}, as {by_name[name].path}; give one of them another `run:`"
            problems.append(Problem(str(loaded.path), "run", message, ProblemKind.CONFLICT))
        by_name.setdefault(name, loaded)
    if problems:
        raise RecipeError(problems)
    parents = {name: _parents(loaded, by_name) for name, loaded in by_name.items()}
    ordered: list[str] = []
    while len(ordered) < len(by_name):
        ready = next(
            (
                name
                for name in by_name
                if name not in ordered and all(parent in ordered for parent in parents[name])
            ),
            None,
        )
        if ready is None:
            remaining = {name: keys for name, keys in parents.items() if name not in ordered}
            raise RecipeError(_cycle(remaining, by_name))
        ordered.append(ready)
    return [by_name[name] for name in ordered]


def _normal(name: str) -> str:
    return str(PurePosixPath(name))


def _parents(loaded: LoadedRecipe, by_name: dict[str, LoadedRecipe]) -> dict[str, str]:
    """Return {run name: key} of a recipe's references to runs of the same folder."""
    parents = {}
    for key, reference in references.find(loaded.recipe).items():
        if reference.startswith("runs/"):
            path = PurePosixPath(reference.removeprefix("runs/"))
            # A reference may name a folder inside a run, such as a checkpoint.
            parents |= {str(name): key for name in (path, *path.parents) if str(name) in by_name}
    return parents


def _cycle(parents: dict[str, dict[str, str]], by_name: dict[str, LoadedRecipe]) -> list[Problem]:
    """Return a Problem for each recipe of a cycle; each run in `parents` has a parent in `parents`."""
    path = [next(iter(parents))]
    while True:
        parent = next(name for name in parents[path[-1]] if name in parents)
        if parent in path:
            path = path[path.index(parent) :]
            break
        path.append(parent)
    problems = []
    for name, parent in zip(path, path[1:] + path[:1], strict=True):
        loaded, key = by_name[name], parents[name][parent]
        position = loaded.positions.get((key,), str(loaded.path))
        message = f"refers to runs/{parent}, which needs runs/{name} first (a cycle)"
        problems.append(Problem(position, key, message, ProblemKind.CONFLICT))
    return problems
