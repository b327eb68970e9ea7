"""`toolkit check`: every mistake in recipes, and what cannot be checked without data and parents."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.base.errors import Problem, ProblemKind, RecipeError
from toolkit.config import inputs, registry
from toolkit.config.loader import LoadedRecipe, load, read_folder, recipe_files, run_name
from toolkit.config.messages import suggestion
from toolkit.config.yaml_source import dotted, nearest
from toolkit.execution import dag


def check_command(path: Path, overrides: Sequence[str] = (), *, json: bool = False) -> int:
    """Print a line for each recipe on stderr, or one JSON object on stdout; 2 where there are problems."""
    path = Path(path)
    loaded, problems = _read(path, overrides)
    makers = {one.name: one.recipe.stage for one in loaded}
    files = {run_name(file) for file in recipe_files(path if path.is_dir() else path.parent)}
    rows: list[dict[str, Any]] = []
    for one in loaded:
        wrong, unknown = _parents(one, makers, files | set(makers))
        problems.setdefault(one.path, []).extend(wrong)
        rows.append(
            {
                "path": str(one.path),
                "name": one.name,
                "stage": one.recipe.stage,
                "ok": not wrong,
                "not_checked": unknown + _data(one),
            }
        )
    found = list(dict.fromkeys(problem for several in problems.values() for problem in several))
    found += _circles(loaded) if not found else []
    if json:
        listed = [{"place": one.place, "key": one.key, "what": one.what, "kind": one.kind} for one in found]
        print(json_format.dumps({"ok": not found, "recipes": rows, "problems": listed}))
    else:
        _show(rows, found)
    return 2 if found else 0


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


def _show(rows: Sequence[Mapping[str, Any]], found: Sequence[Problem]) -> None:
    width = max((len(row["path"]) for row in rows), default=0)
    for row in rows:
        if row["ok"]:
            print(f"{row['path']:{width}}  ok  {row['stage']}", file=sys.stderr)
            for text in row["not_checked"]:
                print(f"{'':{width}}  not checked: {text}", file=sys.stderr)
    for problem in found:
        print(problem, file=sys.stderr)
    if found:
        print(f"{len(found)} problem{'s' * (len(found) > 1)}", file=sys.stderr)
