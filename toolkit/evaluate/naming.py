"""Names for reports: a model or run is known by its reference, shortened to the shortest unique suffix."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base import files
from toolkit.base.errors import UsageError
from toolkit.runs import layout, seal

if TYPE_CHECKING:
    from toolkit.runs.hub import Reference

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def display_names(references: Sequence[str]) -> dict[str, str]:
    """Return `{reference: name}` with the shortest suffix of whole path components that is unique.

    `runs/tiny/sft` and `runs/tiny/ppo` become `sft` and `ppo`; `runs/a/ppo` and `runs/b/ppo` become `a/ppo`
    and `b/ppo`. The name of a hub id contains its revision only if it would not be unique otherwise.

    Raises:
        UsageError: two references are the same.
    """
    suffixes = {reference: _suffixes(reference) for reference in references}
    owners: dict[str, list[str]] = {}
    for reference in references:
        for suffix in suffixes[reference]:
            owners.setdefault(suffix, []).append(reference)
    names: dict[str, str] = {}
    by_whole: dict[str, str] = {}
    for reference in references:
        whole = suffixes[reference][-1]
        if whole in by_whole:
            raise _same(by_whole[whole], reference)
        by_whole[whole] = reference
        names[reference] = next((text for text in suffixes[reference] if len(owners[text]) == 1), whole)
    return names


def models_by_name(models: Sequence[str]) -> dict[str, str]:
    """Return `{name: model}` in the order of the models (see `display_names`).

    Raises:
        UsageError: a model is named twice.
    """
    return {name: model for model, name in display_names(models).items()}


def _same(first: str, second: str) -> UsageError:
    return UsageError(f"{first} and {second} are the same", where="models", fix="name each model once")


def _suffixes(reference: str) -> list[str]:
    """Return the possible names of a reference, shortest first, those with its revision at the end."""
    path, revision = _split_revision(reference)
    normal = os.path.normpath(path)
    if normal.endswith("."):  # `.` and `..` name no folder
        normal = os.path.abspath(path)
    parts = normal.split("/")
    suffixes = ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]
    return suffixes + [f"{suffix}@{revision}" for suffix in suffixes if revision]


def _split_revision(reference: str) -> tuple[str, str]:
    """Return (`org/gpt2`, `main`) of `org/gpt2@main`; an `@` in the path of a folder does not count."""
    path, _, revision = reference.partition("@")
    is_path = reference.startswith(("/", ".", "~")) or ("/" in revision and not _HUB_ID.fullmatch(path))
    return (reference, "") if is_path else (path, revision)


def require_distinct(references: Mapping[str, Reference]) -> None:
    """Refuse two names for one model.

    Args:
        references: the (path or hub id, revision) of each model by name.

    Raises:
        UsageError: two names lead to the same folder, also by a symbolic link, or to the same revision of a
            hub id.
    """
    names: dict[Reference, str] = {}
    for name, (path, revision) in references.items():
        location = (os.path.realpath(path) if Path(path).is_dir() else path, revision)
        if location in names:
            raise _same(names[location], name)
        names[location] = name


def run_identity(run: Path) -> str:
    """Return the absolute path of a run directory without symbolic links."""
    return str(run.resolve())


def evaluated_models(evaluation: Path) -> dict[str, str]:
    """Return `{name in evaluation.json: identity}` of the models that an evaluate run measured.

    The identity of a run is `run_identity`, that of a model of the Hub its id. Rows that are not models of
    the recipe, such as `best of 4`, get a path beside the evaluate run, and so do all rows of an evaluation
    that does not record its settings.
    """
    numbers = files.read_json(evaluation / layout.EVALUATION)
    rows = numbers.get("models", {})
    models = (numbers.get("settings") or {}).get("models", [])
    parents = {key: path for key, path, _, _ in seal.parents(evaluation)}
    identities = {
        name: _identity(model, parents.get(f"models[{models.index(model)}]"))
        for name, model in models_by_name(models).items()
    }
    return {name: identities.get(name, str(evaluation.resolve().parent / name)) for name in rows}


def name_in_evaluation(run: Path, evaluation: Path) -> str | None:
    """Return the name under which an evaluate run measured a run, None if it did not."""
    identity = run_identity(run)
    return next((name for name, model in evaluated_models(evaluation).items() if model == identity), None)


def _identity(model: str, parent: Path | None) -> str:
    """Return the path of a model that is `parent` or lies in it; a hub id, which has no path, as it is."""
    if parent is None:
        return model
    parts = Path(model).parts
    ends = [end for end in range(len(parts), 0, -1) if parts[end - 1] == parent.name]
    return str(parent.joinpath(*parts[ends[0] :])) if ends else model
