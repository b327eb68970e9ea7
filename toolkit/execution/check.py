"""Every mistake in recipes, and what cannot be checked without data and parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from toolkit.base.errors import Problem, ProblemKind, RecipeError
from toolkit.config import inputs, registry
from toolkit.config.loader import LoadedRecipe, load, read_folder, recipe_files, run_name
from toolkit.config.messages import suggestion
from toolkit.config.yaml_source import dotted, nearest
from toolkit.execution import dag


@dataclass(frozen=True)
class CheckedRecipe:
    """A recipe that could be read.

    Attributes:
        ok: no reference to a run of the wrong stage, or to the recipe itself.
        not_checked: what only data or parents can tell, one line each.
    """

    path: Path
    name: str
    stage: str
    ok: bool
    not_checked: list[str]


@dataclass(frozen=True)
class CheckReport:
    """What `check_recipes` gave; recipes that could not be read are only among the problems."""

    recipes: list[CheckedRecipe]
    problems: list[Problem]


def check_recipes(path: Path, overrides: Sequence[str] = ()) -> CheckReport:
    """Check a recipe, or all recipes of a folder, without running or writing anything."""
    loaded, problems = _read(path, overrides)
    makers = {recipe.name: recipe.recipe.stage for recipe in loaded}
    files = {run_name(file) for file in recipe_files(path if path.is_dir() else path.parent)}
    checked = []
    for recipe in loaded:
        wrong, unknown = _parents(recipe, makers, files | set(makers))
        problems.setdefault(recipe.path, []).extend(wrong)
        unknown += _data(recipe)
        checked.append(CheckedRecipe(recipe.path, recipe.name, recipe.recipe.stage, not wrong, unknown))
    distinct = list(dict.fromkeys(problem for several in problems.values() for problem in several))
    return CheckReport(checked, distinct or _circles(loaded))


def _read(path: Path, overrides: Sequence[str]) -> tuple[list[LoadedRecipe], dict[Path, list[Problem]]]:
    if path.is_dir():
        return read_folder(path, overrides)
    try:
        return [load(path, overrides)], {}
    except RecipeError as error:
        return [], {path: list(error.problems)}


def _circles(loaded: Sequence[LoadedRecipe]) -> list[Problem]:
    try:
        dag.order(loaded)
    except RecipeError as error:
        return error.problems
    return []


def _parents(
    one: LoadedRecipe, makers: Mapping[str, str], names: set[str]
) -> tuple[list[Problem], list[str]]:
    """References that cannot be right, and those that nothing can be said about yet."""
    wrong, unknown = [], []
    for key, reference in inputs.references(one.recipe):
        kinds = registry.makers(registry.PRODUCTS[inputs.setting_of(key)])
        if not reference.startswith("runs/"):
            if not Path(reference).exists():
                unknown.append(f"{dotted(key)}: {reference} (of the Hub)")
            continue
        place = PurePosixPath(reference.removeprefix("runs/"))
        # A reference may name a folder inside of a run, such as a checkpoint.
        name = next((str(part) for part in (place, *place.parents) if str(part) in names), str(place))
        if name in makers and makers[name] not in kinds:
            what = f"{reference} is a {makers[name]} run; a {' or '.join(kinds)} run is needed"
            wrong.append(Problem(nearest(one.positions, key), dotted(key), what, ProblemKind.VALUE))
        elif name == one.name:
            wrong.append(
                Problem(
                    nearest(one.positions, key),
                    dotted(key),
                    "refers to this recipe's own run",
                    ProblemKind.CONFLICT,
                )
            )
        elif name not in names and not Path(reference).exists():
            close = suggestion(reference, [f"runs/{known}" for known in names if known != one.name])
            unknown.append(f"{dotted(key)}: {reference} is not there, and no recipe here makes it{close}")
    return wrong, unknown


def _data(one: LoadedRecipe) -> list[str]:
    unknown = []
    for key, source in inputs.data_sources(one.recipe):
        if source.name == inputs.STORYWORLD:
            continue
        if not inputs.is_local(source.name):
            unknown.append(f"{dotted(key)}: {source.name} (a dataset of the Hub)")
        elif not any(mark in source.name for mark in "*?[") and not Path(source.name).exists():
            unknown.append(f"{dotted(key)}: there is no file {source.name} here")
    return unknown
