"""A recipe file (or a folder of them) to checked settings; every mistake at once, each with its place."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from toolkit.base.errors import Problem, RecipeError
from toolkit.config import cross_checks, history, trl_checks
from toolkit.config.messages import explain, settings_of, shown, suggestion
from toolkit.config.registry import STAGES
from toolkit.config.schema import StageRecipe
from toolkit.config.yaml_source import Key, Tree, dotted, forget, merge, nearest, parse, read_text

COMMAND_LINE = "command line"
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that passed every check that needs neither data nor parents."""

    path: Path
    name: str
    """Place of the run below the runs directory: `tiny/dpo`."""
    recipe: StageRecipe
    text: str
    """The file as it stands (its `base:` and the overrides not applied)."""
    positions: Mapping[Key, str]
    """The place of every key that is set: `file:line`, or `command line`."""
    overrides: tuple[str, ...] = ()
    """The overrides that were applied to it."""


def load(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read and check one recipe.

    Raises:
        RecipeError: with all the problems found; nothing has been written.
    """
    path = Path(path)
    return _checked(path, _read(path), [_Override.read(text) for text in overrides])


def load_folder(path: Path, overrides: Sequence[str] = ()) -> list[LoadedRecipe]:
    """Read and check the recipes that lie directly in a folder, by file name.

    A file whose name starts with `_` (a base) or `.` is no recipe. An override applies to the recipes that
    set its key.

    Raises:
        RecipeError: with all the problems of all the files; or no recipe sets an override's key.
    """
    loaded, problems = read_folder(path, overrides)
    if problems:
        raise RecipeError(list(dict.fromkeys(one for several in problems.values() for one in several)))
    return loaded


def read_folder(
    path: Path, overrides: Sequence[str] = ()
) -> tuple[list[LoadedRecipe], dict[Path, list[Problem]]]:
    """As `load_folder`, but the recipes that are right together with the problems of the others.

    Raises:
        RecipeError: there is no recipe in the folder, or an override is not one.
    """
    path = Path(path)
    files = recipe_files(path)
    changes = [_Override.read(text) for text in overrides]
    problems: dict[Path, list[Problem]] = {}
    trees: dict[Path, Tree] = {}
    for file in files:
        try:
            trees[file] = _read(file)
        except RecipeError as error:
            problems[file] = error.problems
    unused = [problem for change in changes if (problem := _unused(change, path, trees))]
    if unused and not problems:
        problems[path] = unused
    loaded: list[LoadedRecipe] = []
    for file, tree in trees.items():
        try:
            mine = [one for one in changes if one.today(tree).key in tree.positions]
            loaded.append(_checked(file, tree, mine))
        except RecipeError as error:
            problems[file] = error.problems
    same = _same_run(loaded)
    if same:
        problems.setdefault(path, []).extend(same)
    return loaded, {place: problems[place] for place in (path, *files) if place in problems}


def recipe_files(folder: Path) -> list[Path]:
    """The recipes that lie directly in a folder, by name.

    Raises:
        RecipeError: there are none, or it is not a folder.
    """
    if not folder.is_dir():
        raise RecipeError([Problem(str(folder), "", "there is no such folder")])
    files = _recipes_in(folder)
    if not files:
        inside = [str(one) for one in sorted(folder.iterdir()) if one.is_dir() and _recipes_in(one)]
        hint = f"; folders in it with recipes: {', '.join(inside)}" if inside else ""
        raise RecipeError([Problem(str(folder), "", f"no recipes (*.yaml) in this folder{hint}")])
    return files


def _recipes_in(folder: Path) -> list[Path]:
    return sorted(
        one
        for one in folder.iterdir()
        if one.suffix in SUFFIXES and one.name[0] not in "._" and one.is_file()
    )


def run_name(path: Path) -> str:
    """A recipe's place: below the nearest `recipes` folder, else its folder and stem."""
    parts = path.absolute().with_suffix("").parts
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] in ("recipes", "_recipes"):
            return "/".join(parts[i + 1 :])
    return "/".join(parts[-2:])


def _read(path: Path) -> Tree:
    """The file's tree, over that of its `base:`, under today's names."""
    layers = _layers(path)
    stages = [layer.value["stage"] for layer in layers if "stage" in layer.value]
    if stages and isinstance(stages[-1], str):
        for layer in layers:
            _warn(history.update(layer, stages[-1]))
    return functools.reduce(merge, layers)


def _warn(warnings: Sequence[str]) -> None:
    if os.environ.get("RANK", "0") == "0":
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)


def _layers(path: Path, children: tuple[Path, ...] = ()) -> list[Tree]:
    """The trees of a file and of its bases, the file's own last."""
    tree = parse(read_text(path), str(path))
    if tree.value is None:
        raise RecipeError([Problem(f"{path}:1", "", "the file is empty; a recipe starts with `stage:`")])
    if not isinstance(tree.value, dict):
        what = f"a recipe is a mapping (key: value), not {shown(tree.value)}"
        raise RecipeError([Problem(f"{path}:1", "", what)])
    if "base" not in tree.value:
        return [tree]
    base, place = tree.value.pop("base"), tree.positions.pop(("base",))
    forget(tree.positions, ("base",))
    if not isinstance(base, str) or not base:
        raise RecipeError([Problem(place, "base", f"must be the path of one file, not {shown(base)}")])
    file = path.parent / base
    chain = (*children, path)
    if file.resolve() in [one.resolve() for one in chain]:
        raise RecipeError([Problem(place, "base", f"a circle: {' -> '.join(map(str, (*chain, file)))}")])
    if not file.is_file():
        close = suggestion(file.name, [one.name for one in path.parent.glob("*.y*ml") if one != path])
        raise RecipeError([Problem(place, "base", f"there is no file {file}{close}")])
    return [*_layers(file, chain), tree]


@dataclass(frozen=True)
class _Override:
    """`a.b=value` of the command line."""

    text: str
    key: Key
    tree: Tree

    @classmethod
    def read(cls, text: str) -> _Override:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name):
            what = f"{text!r} is not an override; write key=value, for instance trainer.learning_rate=5e-5"
            raise RecipeError([Problem(COMMAND_LINE, "", what)])
        if not value.strip():
            raise RecipeError([Problem(COMMAND_LINE, name, f"no value; write {name}=null or {name}=\"''\"")])
        key = tuple(int(part) if part.isdigit() else part for part in name.split("."))
        # YAML's own marks are a glob or a name on a command line.
        tree = Tree(value) if value[0] in "*&!%@`" else _read_value(name, value)
        return cls(text, key, tree)

    def today(self, tree: Tree) -> _Override:
        """The override with today's name of its key, for the recipe in `tree`."""
        stage = tree.value.get("stage")
        return dataclasses.replace(self, key=history.renamed(stage, self.key)) if stage else self

    def apply(self, tree: Tree) -> Problem | None:
        """Set the key in `tree`; a problem where something on the way is no mapping or list."""
        if self.key[0] == "base":
            return Problem(COMMAND_LINE, "base", "cannot be overridden")
        here, parent = tree.value, self.key[:-1]
        for i, part in enumerate(parent):
            problem = _no_step(here, self.key, i)
            if problem:
                return problem
            if isinstance(here, dict) and here.get(part) is None:
                here[part] = {}
                tree.positions[self.key[: i + 1]] = COMMAND_LINE
            here = here[part]
        problem = _no_step(here, self.key, len(parent))
        if problem:
            return problem
        here[self.key[-1]] = self.tree.value
        forget(tree.positions, self.key)
        tree.positions[self.key] = COMMAND_LINE
        tree.positions.update({(*self.key, *below): COMMAND_LINE for below in self.tree.positions})
        return None


def _read_value(name: str, value: str) -> Tree:
    try:
        return parse(value, COMMAND_LINE)
    except RecipeError as error:
        raise RecipeError([Problem(COMMAND_LINE, name, problem.what) for problem in error.problems]) from None


def _no_step(here: Any, key: Key, depth: int) -> Problem | None:
    part, parent = key[depth], dotted(key[:depth])
    if isinstance(here, list):
        if not isinstance(part, int):
            what = f"{parent} is a list; give the place of an entry, for instance {parent}.0.{part}"
            return Problem(COMMAND_LINE, dotted(key), what)
        if part >= len(here):
            entries = f"{len(here)} entries, the last is {parent}.{len(here) - 1}"
            return Problem(COMMAND_LINE, dotted(key), f"{parent} has {entries}")
        return None
    if isinstance(here, dict) and isinstance(part, str):
        return None
    what = f"{parent} is not a list" if isinstance(part, int) else f"{parent} is {shown(here)}, not a mapping"
    return Problem(COMMAND_LINE, dotted(key), what)


def _unused(change: _Override, folder: Path, trees: Mapping[Path, Tree]) -> Problem | None:
    if any(change.today(tree).key in tree.positions for tree in trees.values()):
        return None
    name = dotted(change.key)
    known = sorted({dotted(key) for tree in trees.values() for key in tree.positions if key})
    close = suggestion(name, known)
    if not close and any(name in settings_of(cls) for _, cls in STAGES.values()):
        close = "; on a folder an override changes only keys that a recipe sets"
    return Problem(COMMAND_LINE, name, f"no recipe in {folder} sets this key{close}")


def _same_run(loaded: Sequence[LoadedRecipe]) -> list[Problem]:
    seen: dict[str, Path] = {}
    problems = []
    for one in loaded:
        if one.name in seen:
            place = one.positions.get(("run",), f"{one.path}:1")
            problems.append(Problem(place, "run", f"{one.name!r} is already the run of {seen[one.name]}"))
        seen.setdefault(one.name, one.path)
    return problems


def _checked(path: Path, tree: Tree, changes: Sequence[_Override]) -> LoadedRecipe:
    today = [change.today(tree) for change in changes]
    problems = [problem for change in today if (problem := change.apply(tree))]
    if problems:
        raise RecipeError(problems)
    cls = _stage_class(tree)
    for old, new in zip(changes, today, strict=True):
        if old.key != new.key:
            _warn([f"{COMMAND_LINE}: {dotted(old.key)}: was renamed; write {dotted(new.key)}"])
    _warn(history.update(tree, tree.value["stage"]))  # what the overrides brought
    problems, recipe = _validated(cls, tree)
    if problems:
        raise RecipeError(sorted(set(problems), key=lambda one: _order(one, tree)))
    name = recipe.run or run_name(path)
    applied = tuple(change.text for change in changes)
    return LoadedRecipe(path, name, recipe, read_text(path), tree.positions, applied)


def _stage_class(tree: Tree) -> type[StageRecipe]:
    known = ", ".join(STAGES)
    if "stage" not in tree.value:
        for key in tree.value:
            if suggestion(key, ["stage"]):
                raise RecipeError([Problem(tree.positions[(key,)], key, "unknown key; did you mean stage?")])
        raise RecipeError([Problem(nearest(tree.positions, ()), "stage", f"is required: one of {known}")])
    stage = tree.value["stage"]
    if not isinstance(stage, str) or stage not in STAGES:
        close = suggestion(stage, STAGES) if isinstance(stage, str) else ""
        what = f"must be one of {known}, not {shown(stage)}{close}"
        raise RecipeError([Problem(tree.positions[("stage",)], "stage", what)])
    return STAGES[stage][1]


def _validated(cls: type[StageRecipe], tree: Tree) -> tuple[list[Problem], StageRecipe]:
    stage, found, recipe = tree.value["stage"], [], None
    trainer = tree.value.get("trainer")
    mirrored = stage in trl_checks.CONFIGS
    keys = trl_checks.settable(stage) if mirrored else ()
    try:
        recipe = cls.model_validate(tree.value)
    except ValidationError as error:
        found = explain(cls, tree.value, error.errors(include_url=False), trainer_keys=keys)
    if mirrored and isinstance(trainer, dict):
        found += [(("trainer", *key.split(".")), what) for key, what in trl_checks.check(stage, trainer)]
    if recipe is not None:
        found += cross_checks.check(recipe)
    found += _run_place(tree.value.get("run"))
    return [Problem(nearest(tree.positions, key), dotted(key), what) for key, what in found], recipe


def _run_place(run: Any) -> list[tuple[Key, str]]:
    if not isinstance(run, str):
        return []
    place = PurePosixPath(run)
    if place.parts[:1] == ("runs",) and len(place.parts) > 1:
        return [(("run",), f"is below the runs directory already; write {'/'.join(place.parts[1:])}")]
    if place.is_absolute() or ".." in place.parts or not place.parts or not re.fullmatch(r"[\w./-]+", run):
        return [(("run",), f"must be a place below the runs directory such as tiny/dpo, not {shown(run)}")]
    return []


def _order(problem: Problem, tree: Tree) -> tuple[int, str]:
    _, _, line = problem.place.rpartition(":")
    return (int(line) if line.isdigit() else 0, problem.key)
