"""Check recipes without running them, and list the references that only a run can check."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from toolkit.base.errors import Problem, ProblemKind, RecipeError
from toolkit.config import inputs, registry
from toolkit.config.loader import LoadedRecipe, load, read_folder, recipe_files, recipes_beside, run_name
from toolkit.config.messages import suggestion
from toolkit.config.yaml_source import dotted, nearest
from toolkit.execution import dag, data_checks, machine_checks
from toolkit.runs import suggestions


@dataclass(frozen=True)
class CheckedRecipe:
    """A recipe that could be read.

    Attributes:
        ok: no reference is to a run of the wrong stage or to the recipe's own run, this machine can do what
            the settings say, and the first row of each file of data can be read.
        not_checked: parents and data that cannot be checked yet, one line each.
    """

    path: Path
    name: str
    stage: str
    ok: bool
    not_checked: list[str]


@dataclass(frozen=True)
class CheckReport:
    """The result of `check_recipes`; for a recipe that could not be read it has only problems."""

    recipes: list[CheckedRecipe]
    problems: list[Problem]


def check_recipes(path: Path, overrides: Sequence[str] = ()) -> CheckReport:
    """Check a recipe, or all recipes of a folder, without running or writing anything.

    Of data that are local files, the first row is read.
    """
    loaded, problems = _read(path, overrides)
    makers = {recipe.name: recipe.recipe.stage for recipe in loaded}
    files = {run_name(file) for file in (recipe_files(path) if path.is_dir() else recipes_beside(path))}
    checked = []
    for recipe in loaded:
        wrong, unknown = _parents(recipe, makers, files | set(makers))
        data = data_checks.check(recipe, runs_dir=Path("runs"))
        wrong += machine_checks.problems(recipe) + data.problems
        problems.setdefault(recipe.path, []).extend(wrong)
        unknown += [*_hub_data(recipe), *(_line(problem) for problem in data.missing), *data.unread]
        checked.append(CheckedRecipe(recipe.path, recipe.name, recipe.recipe.stage, not wrong, unknown))
    distinct = list(dict.fromkeys(itertools.chain.from_iterable(problems.values())))
    return CheckReport(checked, distinct or _cycles(loaded))


def _read(path: Path, overrides: Sequence[str]) -> tuple[list[LoadedRecipe], dict[Path, list[Problem]]]:
    if path.is_dir():
        suggestions.require_no_runs(path)
        return read_folder(path, overrides)
    try:
        return [load(path, overrides)], {}
    except RecipeError as error:
        return [], {path: list(error.problems)}


def _cycles(loaded: Sequence[LoadedRecipe]) -> list[Problem]:
    try:
        dag.order(loaded)
    except RecipeError as error:
        return error.problems
    return []


def _parents(
    loaded: LoadedRecipe, makers: Mapping[str, str], names: set[str]
) -> tuple[list[Problem], list[str]]:
    """Return the problems of a recipe's references, and a line for each reference that cannot be checked."""
    wrong, unknown = [], []
    for key, reference in inputs.references(loaded.recipe):
        kinds = registry.makers(registry.PRODUCTS[inputs.setting_of(key)])
        if not reference.startswith("runs/"):
            if not Path(reference).exists():
                unknown.append(f"{dotted(key)}: {reference} (of the Hub)")
            continue
        path = PurePosixPath(reference.removeprefix("runs/"))
        # A reference may name a folder inside a run, such as a checkpoint.
        name = next((str(part) for part in (path, *path.parents) if str(part) in names), str(path))
        if name in makers and makers[name] not in kinds:
            message = f"{reference} is a {makers[name]} run; a {' or '.join(kinds)} run is needed"
            wrong.append(Problem(nearest(loaded.positions, key), dotted(key), message, ProblemKind.VALUE))
        elif name == loaded.name:
            wrong.append(
                Problem(
                    nearest(loaded.positions, key),
                    dotted(key),
                    "refers to this recipe's own run",
                    ProblemKind.CONFLICT,
                )
            )
        elif name not in names and not Path(reference).exists():
            close = suggestion(reference, [f"runs/{other}" for other in names if other != loaded.name])
            unknown.append(f"{dotted(key)}: {reference} is not there, and no recipe here makes it{close}")
    return wrong, unknown


def _line(problem: Problem) -> str:
    return f"{problem.key}: {problem.what}" if problem.key else problem.what


def _hub_data(loaded: LoadedRecipe) -> list[str]:
    """Return a line for each data source of the Hub, which is not checked."""
    return [
        f"{dotted(key)}: {source.name} (a dataset of the Hub)"
        for key, source in inputs.data_sources(loaded.recipe)
        if source.name != inputs.STORYWORLD and not inputs.is_local(source.name)
    ]
