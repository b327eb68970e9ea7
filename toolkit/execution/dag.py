"""The order of a folder's recipes, from their references to each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from toolkit.base.errors import Problem, ProblemKind, RecipeError
from toolkit.config.loader import LoadedRecipe
from toolkit.runs import references


def order(recipes: Sequence[LoadedRecipe]) -> list[LoadedRecipe]:
    """Sort recipes so that each comes after those it refers to, and that long chains begin early.

    A recipe from which a longer chain of recipes follows comes first; equal ones keep the given order. With
    `ppo` after `reward`, `reward` comes before `dpo`.

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
    refers_to = {name: _parents(loaded, by_name) for name, loaded in by_name.items()}
    ordered: list[str] = []
    while len(ordered) < len(by_name):
        ready = next(
            (
                name
                for name in by_name
                if name not in ordered and all(parent in ordered for parent in refers_to[name])
            ),
            None,
        )
        if ready is None:
            remaining = {name: keys for name, keys in refers_to.items() if name not in ordered}
            raise RecipeError(_cycle(remaining, by_name))
        ordered.append(ready)
    # Number of recipes of the longest chain that begins with a recipe.
    chain: dict[str, int] = {}
    for name in reversed(ordered):
        chain[name] = 1 + max((chain[child] for child in chain if name in refers_to[child]), default=0)
    # A parent's chain is longer than its child's, so this order is topological, too.
    return [by_name[name] for name in sorted(ordered, key=lambda name: -chain[name])]


def parents(recipes: Sequence[LoadedRecipe]) -> dict[str, set[str]]:
    """Return {run: the other runs that it refers to} of recipes without duplicate runs."""
    by_name = {_normal(loaded.name): loaded for loaded in recipes}
    return {loaded.name: {by_name[name].name for name in _parents(loaded, by_name)} for loaded in recipes}


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
