"""Load recipe files: from YAML to validated settings. All errors are reported together."""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from toolkit.base.console import tell
from toolkit.base.errors import Problem, ProblemKind, RecipeError
from toolkit.config import cross_checks, history, trl_checks
from toolkit.config.inputs import setting_of
from toolkit.config.messages import Mistake, explain, settings_of, shown, suggestion
from toolkit.config.overrides import COMMAND_LINE, Override
from toolkit.config.recipe_texts import RecipeTexts
from toolkit.config.registry import PRODUCTS, STAGES
from toolkit.config.schema import StageRecipe
from toolkit.config.shortened import shorten_warmup
from toolkit.config.yaml_source import Key, Tree, dotted, forget, merge, nearest, parse, without

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that passed every check that needs neither data nor parents."""

    path: Path
    name: str
    """Path of the run below the runs directory: `tiny/dpo`."""
    recipe: StageRecipe
    text: str
    """The text of the file, without its `base:` and the overrides."""
    positions: Mapping[Key, str]
    """The position of every key that is set: `file:line`, or `command line`."""
    overrides: tuple[str, ...] = ()
    """The overrides that were applied to it."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """The texts of the file and of its bases by path, for `recipe_texts.handed_over`."""


def load(path: Path, overrides: Sequence[str] = (), *, texts: RecipeTexts | None = None) -> LoadedRecipe:
    """Read and check one recipe.

    Args:
        texts: of files that another process has read already.

    Raises:
        RecipeError: the recipe has problems; the error lists all of them.
    """
    path = Path(path)
    tree, sources = _read(path, texts or RecipeTexts())
    return _checked(path, tree, [Override.read(text) for text in overrides], sources)


def load_folder(path: Path, overrides: Sequence[str] = ()) -> list[LoadedRecipe]:
    """Read and check the recipes that lie directly in a folder, by file name.

    A file whose name starts with `_` (a base) or `.` is not a recipe. An override applies to the recipes that
    set its key, or another key that it replaces, and `seed` to all. If some of them refer to runs of this
    folder there and others do not, it applies to the others: `model=DIR` replaces the model that the folder
    starts from; its stages still follow each other.

    Raises:
        RecipeError: recipes have problems, or no recipe sets an override's key; the error lists all problems.
    """
    loaded, problems = read_folder(path, overrides)
    if problems:
        raise RecipeError(list(dict.fromkeys(itertools.chain.from_iterable(problems.values()))))
    return loaded


def read_folder(
    path: Path, overrides: Sequence[str] = ()
) -> tuple[list[LoadedRecipe], dict[Path, list[Problem]]]:
    """Like `load_folder`, but return valid recipes and the problems of the others.

    Raises:
        RecipeError: the folder has no recipe, or an override is malformed.
    """
    path = Path(path)
    files = recipe_files(path)
    changes = [Override.read(text) for text in overrides]
    problems: dict[Path, list[Problem]] = {}
    trees: dict[Path, Tree] = {}
    sources: dict[Path, dict[str, str]] = {}
    texts = RecipeTexts()
    for file in files:
        try:
            trees[file], sources[file] = _read(file, texts)
        except RecipeError as error:
            problems[file] = error.problems
    changed = [_changed_files(change, trees) for change in changes]
    unused = [
        _unused(change, path, trees) for change, where in zip(changes, changed, strict=True) if not where
    ]
    if unused and not problems:
        problems[path] = unused
    loaded: list[LoadedRecipe] = []
    for file, tree in trees.items():
        try:
            applicable = [change for change, where in zip(changes, changed, strict=True) if file in where]
            loaded.append(_checked(file, tree, applicable, sources[file]))
        except RecipeError as error:
            problems[file] = error.problems
    duplicates = _same_run(loaded)
    if duplicates:
        problems.setdefault(path, []).extend(duplicates)
    return loaded, {file: problems[file] for file in (path, *files) if file in problems}


def recipe_files(folder: Path) -> list[Path]:
    """Return the recipes that lie directly in a folder, by name.

    Raises:
        RecipeError: the folder has no recipe, or is not a folder.
    """
    if not folder.is_dir():
        raise RecipeError([Problem(str(folder), "", "there is no such folder", ProblemKind.MISSING)])
    files = _recipes_in(folder)
    if not files:
        subfolders = [str(path) for path in sorted(folder.iterdir()) if path.is_dir() and _recipes_in(path)]
        hint = f"; subfolders with recipes: {', '.join(subfolders)}" if subfolders else ""
        raise RecipeError(
            [Problem(str(folder), "", f"no recipes (*.yaml) in this folder{hint}", ProblemKind.MISSING)]
        )
    return files


def recipes_beside(path: Path) -> list[Path]:
    """Return the recipes in the folder of a recipe, by name; a pipe has none."""
    return _recipes_in(path.parent) if path.is_file() else []


def _recipes_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in SUFFIXES and path.name[0] not in "._" and path.is_file()
    )


def run_name(path: Path) -> str:
    """Return the run's name: the path below the nearest `recipes` folder, else folder and stem."""
    parts = path.absolute().with_suffix("").parts
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] in ("recipes", "_recipes"):
            return "/".join(parts[i + 1 :])
    return "/".join(parts[-2:])


def _read(path: Path, texts: RecipeTexts) -> tuple[Tree, dict[str, str]]:
    """Return the file's tree merged over that of its `base:`, with current names, and these files' texts."""
    files = _layers(path, texts)
    layers = list(files.values())
    stages = [layer.value["stage"] for layer in layers if "stage" in layer.value]
    if stages and isinstance(stages[-1], str):
        for layer in layers:
            _warn(history.update(layer, stages[-1]))
    return functools.reduce(merge, layers), {str(file): texts[file] for file in files}


def _warn(warnings: Sequence[str]) -> None:
    _tell([f"warning: {warning}" for warning in warnings])


def _tell(notices: Sequence[str]) -> None:
    if os.environ.get("RANK", "0") == "0":
        for notice in notices:
            tell(notice)


def _layers(path: Path, texts: RecipeTexts, children: tuple[Path, ...] = ()) -> dict[Path, Tree]:
    """Return the trees of a file and of its bases, the file's own last."""
    tree = parse(texts[path], str(path))
    if tree.value is None:
        raise RecipeError([Problem(f"{path}:1", "", "the file is empty; a recipe starts with `stage:`")])
    if not isinstance(tree.value, dict):
        message = f"a recipe is a mapping (key: value), not {shown(tree.value)}"
        raise RecipeError([Problem(f"{path}:1", "", message)])
    if "base" not in tree.value:
        return {path: tree}
    base, position = tree.value.pop("base"), tree.positions.pop(("base",))
    forget(tree.positions, ("base",))
    if not isinstance(base, str) or not base:
        raise RecipeError(
            [Problem(position, "base", f"must be the path of one file, not {shown(base)}", ProblemKind.TYPE)]
        )
    file = path.parent / base
    chain = (*children, path)
    if file.resolve() in [path.resolve() for path in chain]:
        raise RecipeError(
            [
                Problem(
                    position,
                    "base",
                    f"a cycle: {' -> '.join(map(str, (*chain, file)))}",
                    ProblemKind.CONFLICT,
                )
            ]
        )
    if file not in texts:
        close = suggestion(file.name, [other.name for other in path.parent.glob("*.y*ml") if other != path])
        raise RecipeError([Problem(position, "base", f"there is no file {file}{close}", ProblemKind.MISSING)])
    return {**_layers(file, texts, chain), path: tree}


def _changed_files(change: Override, trees: Mapping[Path, Tree]) -> list[Path]:
    """Return the recipes of a folder that an override changes (see `load_folder`)."""
    if change.key == ("seed",):
        return list(trees)
    current = {file: change.with_current_key(tree) for file, tree in trees.items()}
    keys = {file: override.key for file, override in current.items()}
    files = [
        file
        for file, tree in trees.items()
        if any(key in tree.positions for key in (keys[file], *current[file].replaces()))
    ]
    if setting_of(change.key) not in PRODUCTS:
        return files
    runs = [f"runs/{tree.value.get('run') or run_name(file)}" for file, tree in trees.items()]
    from_outside = [file for file in files if trees[file].at(keys[file]) not in runs]
    return from_outside or files


def _unused(change: Override, folder: Path, trees: Mapping[Path, Tree]) -> Problem:
    name = dotted(change.key)
    set_keys = sorted({dotted(key) for tree in trees.values() for key in tree.positions if key})
    close = suggestion(name, set_keys)
    if not close and any(name in settings_of(stage.recipe) for stage in STAGES.values()):
        close = "; on a folder an override changes only keys that a recipe sets"
    return Problem(COMMAND_LINE, name, f"no recipe in {folder} sets this key{close}", ProblemKind.UNKNOWN)


def _same_run(loaded: Sequence[LoadedRecipe]) -> list[Problem]:
    seen: dict[str, Path] = {}
    problems = []
    for recipe in loaded:
        if recipe.name in seen:
            position = recipe.positions.get(("run",), f"{recipe.path}:1")
            message = f"{recipe.name!r} is already the run of {seen[recipe.name]}"
            problems.append(Problem(position, "run", message, ProblemKind.CONFLICT))
        seen.setdefault(recipe.name, recipe.path)
    return problems


def _checked(path: Path, tree: Tree, changes: Sequence[Override], sources: Mapping[str, str]) -> LoadedRecipe:
    current = [change.with_current_key(tree) for change in changes]
    problems = [problem for change in current if (problem := change.apply(tree))]
    if problems:
        raise RecipeError(problems)
    cls = _stage_class(tree)
    for old, new in zip(changes, current, strict=True):
        if old.key != new.key:
            _warn([f"{COMMAND_LINE}: {dotted(old.key)}: was renamed; write {dotted(new.key)}"])
    _warn(history.update(tree, tree.value["stage"]))  # settings of the overrides
    recipe = _validated(cls, tree, is_overridden=bool(changes))
    name = recipe.run or run_name(path)
    applied = tuple(change.text for change in changes)
    return LoadedRecipe(path, name, recipe, sources[str(path)], tree.positions, applied, sources=sources)


def _stage_class(tree: Tree) -> type[StageRecipe]:
    names = ", ".join(STAGES)
    if "stage" not in tree.value:
        for key in tree.value:
            if suggestion(key, ["stage"]):
                raise RecipeError(
                    [
                        Problem(
                            tree.positions[(key,)],
                            key,
                            "unknown key; did you mean stage?",
                            ProblemKind.UNKNOWN,
                        )
                    ]
                )
        raise RecipeError(
            [
                Problem(
                    nearest(tree.positions, ()), "stage", f"is required: one of {names}", ProblemKind.MISSING
                )
            ]
        )
    stage = tree.value["stage"]
    if not isinstance(stage, str) or stage not in STAGES:
        close = suggestion(stage, STAGES) if isinstance(stage, str) else ""
        message = f"must be one of {names}, not {shown(stage)}{close}"
        raise RecipeError([Problem(tree.positions[("stage",)], "stage", message, ProblemKind.VALUE)])
    return STAGES[stage].recipe


def _validated(cls: type[StageRecipe], tree: Tree, *, is_overridden: bool) -> StageRecipe:
    stage = tree.value["stage"]
    trainer = tree.value.get("trainer")
    is_trl = STAGES[stage].trl_config is not None
    settable = trl_checks.settable(stage) if is_trl else ()
    recipe, mistakes = _parsed(cls, tree.value, settable)
    notices = shorten_warmup(recipe, tree, command_line=COMMAND_LINE) if recipe and is_overridden else []
    if notices:
        recipe, mistakes = _parsed(cls, tree.value, settable)
        _tell(notices)
    if is_trl and isinstance(trainer, dict):
        mistakes += [
            Mistake(("trainer", *mistake.key), mistake.what, mistake.kind)
            for mistake in trl_checks.check(stage, trainer)
        ]
    if recipe is not None:
        mistakes += [
            Mistake(_as_written(mistake.key, tree.value), mistake.what, mistake.kind)
            for mistake in cross_checks.check(recipe)
        ]
    mistakes += _check_run(tree.value.get("run"))
    problems = [
        Problem(nearest(tree.positions, key), dotted(key), message, kind) for key, message, kind in mistakes
    ]
    if problems or recipe is None:
        raise RecipeError(sorted(set(problems), key=_order))
    return recipe


def _parsed(
    cls: type[StageRecipe], value: dict[str, Any], trainer_keys: Collection[str]
) -> tuple[StageRecipe | None, list[Mistake]]:
    """Return the recipe, and the mistakes that the schema finds.

    The rules between settings are applied only to settings without a mistake. So that an unknown key does not
    hide a broken rule, the recipe is validated again without its unknown keys; it is then returned, too.
    """
    try:
        return cls.model_validate(value), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
    mistakes = explain(cls, value, errors, trainer_keys=trainer_keys)
    unknown = [mistake.key for mistake in mistakes if mistake.kind is ProblemKind.UNKNOWN]
    if not unknown:
        return None, mistakes
    recipe, others = _parsed(cls, without(value, unknown), trainer_keys)
    return recipe, list(dict.fromkeys([*mistakes, *others]))


def _as_written(key: Key, value: Any) -> Key:
    """Return the key in the file: `data.0.name` for `data.name` where `data` is a list of one source."""
    written: Key = ()
    for part in key:
        if isinstance(value, list) and isinstance(part, str):
            written, value = (*written, 0), value[0]
        written = (*written, part)
        is_entry = isinstance(value, list) and isinstance(part, int)
        value = value[part] if is_entry else (value or {}).get(part)
    return written


def _check_run(run: Any) -> list[Mistake]:
    if not isinstance(run, str):
        return []
    path, message = PurePosixPath(run), ""
    if path.parts[:1] == ("runs",) and len(path.parts) > 1:
        message = f"is already below the runs directory; write {'/'.join(path.parts[1:])}"
    elif path.is_absolute() or ".." in path.parts or not path.parts or not re.fullmatch(r"[\w./-]+", run):
        message = f"must be a path below the runs directory such as tiny/dpo, not {shown(run)}"
    return [Mistake(("run",), message, ProblemKind.VALUE)] if message else []


def _order(problem: Problem) -> tuple[int, str]:
    _, _, line = problem.place.rpartition(":")
    return (int(line) if line.isdigit() else 0, problem.key)
