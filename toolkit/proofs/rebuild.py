"""A run made again in another place: its settings, its parents and what it decided, all from its manifest.

Nothing is written into the run itself, nor into its parents.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from toolkit.base.errors import RunError
from toolkit.config import history
from toolkit.config.loader import LoadedRecipe
from toolkit.config.registry import STAGES
from toolkit.config.schema import StageRecipe
from toolkit.runs import layout, manifest, provenance, references, seal
from toolkit.runs.run import Run

DECIDED = ("threads", "precision", "compile")
"""Settings that a machine may decide, and whose recorded value the same bits need."""
_DIGEST = re.compile(r'"([0-9a-f]{12})[0-9a-f]{20,}"')


def content(path: Path) -> dict[str, Any]:
    """Return a run's manifest.

    Raises:
        RunError: it is no run, or was made before manifests said what went in.
    """
    if not path.exists():
        raise RunError("there is no such run", where=str(path), fix="name a run directory, such as runs/tiny")
    if not seal.is_run(path):
        raise RunError("is not a run directory", where=str(path), fix="name a run that this toolkit made")
    return manifest.read(path)


def require_parents(path: Path) -> None:
    """Refuse parents that are gone or that were made again since; their bytes are `lock.chain`'s matter.

    Raises:
        RunError: names the parent.
    """
    for key, place, recorded, is_run in seal.parents(path):
        if not place.is_dir():
            raise RunError(
                f"{key}: what the run was made from is missing, {place}",
                where=str(path), fix="put it back where it was, seen from the run",
            )  # fmt: skip
        now = seal.digest(place) if is_run else seal.folder_digest(place)
        if now != recorded:
            raise RunError(
                f"{key}: {place} is not what the run was made from: its digest is {now[:12]} and was "
                f"{str(recorded)[:12]}",
                where=str(path), fix="put the old one back, or make the run again with --fresh",
            )  # fmt: skip


def recipe(path: Path, *, runs_dir: Path | None = None) -> StageRecipe:
    """Return the settings of a run as they took effect, without reading its recipe file or that one's base.

    Args:
        runs_dir: make the references lead to the parents for a run below this folder, with links.

    Raises:
        RunError: settings that this version does not know, or does not have any more.
    """
    made = content(path)
    settings = {**made["inputs"]["settings"], **made.get("operational", {})}
    removed = history.refused(made["stage"], settings)
    if removed:
        raise RunError(
            "was made with settings that this version cannot keep:\n    " + "\n    ".join(removed),
            where=str(path), fix=f"use the toolkit's version that made the run{_version(made)}",
        )  # fmt: skip
    cls = STAGES[made["stage"]][1]
    parsed = _parse(cls, settings, path)
    if runs_dir is not None:
        for key, reference in references.find(parsed).items():
            parent = made["inputs"]["parents"].get(key, {})
            if "path" in parent:
                place = Path(os.path.normpath(path.resolve() / parent["path"]))
                _replace(settings, key, _lead_to(place, reference, runs_dir))
        parsed = _parse(cls, settings, path)
    return _decided(parsed, made["facts"])


def _version(made: dict[str, Any]) -> str:
    commit = made.get("code", {}).get("commit")
    return f" (commit {commit[:12]})" if commit else ""


def _parse(cls: type[StageRecipe], settings: dict[str, Any], path: Path) -> StageRecipe:
    try:
        return cls.model_validate(_given(cls, settings))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RunError(
            f"setting {'.'.join(map(str, first['loc']))} is not one of this version: {first['msg']}",
            where=str(path / layout.MANIFEST), fix="use the toolkit's version that made the run",
        ) from None  # fmt: skip


def _given(cls: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is the default: some settings may only be given together with others."""
    kept = {}
    for name, value in values.items():
        default = cls.model_fields[name].default if name in cls.model_fields else PydanticUndefined
        if isinstance(default, BaseModel) and isinstance(value, dict):
            value = _given(type(default), value)
            if value:
                kept[name] = value
        elif default is PydanticUndefined or value != default:
            kept[name] = value
    return kept


def _decided(recipe: StageRecipe, recorded: dict[str, Any]) -> StageRecipe:
    """Put what the run decided in the place of `auto`."""
    open_ones = [name for name in DECIDED if getattr(recipe, name, 0) in ("auto", None)]
    update = {name: recorded[name] for name in open_ones if name in recorded}
    if recipe.device == "auto" and recorded.get("device") == "cpu":
        update["device"] = "cpu"
    return recipe.model_copy(update=update)


def _replace(settings: dict[str, Any], key: str, value: str) -> None:
    """Set `win_rate.baseline` or `models[0]`."""
    *parents, last = [int(part) if part.isdigit() else part for part in re.findall(r"\w+", key)]
    place: Any = settings
    for part in parents:
        place = place[part]
    place[last] = value


def _lead_to(place: Path, reference: str, runs_dir: Path) -> str:
    """Return a reference that leads to a parent from another runs directory; `runs/...` stays, with a link.

    A reference may name a folder inside of a run, such as a checkpoint.
    """
    parts = PurePosixPath(reference).parts
    ends = [i for i in range(len(parts), 0, -1) if parts[i - 1] == place.name]
    end = next((i for i in ends if place.joinpath(*parts[i:]).exists()), len(parts))
    if not reference.startswith("runs/"):
        return str(place.joinpath(*parts[end:]))
    link = references.below("/".join(parts[1:end]), runs_dir)
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(place, target_is_directory=True)
    return reference


def stand_in(path: Path, recipe: StageRecipe, *, runs_dir: Path) -> Run:
    """Return a run below another folder that goes on as the run at `path` began: a stage may write to it."""
    made = content(path)
    loaded = LoadedRecipe(path / layout.RECIPE, made["name"], recipe, "", {})
    references.below(made["name"], runs_dir).mkdir(parents=True, exist_ok=True)
    return Run(loaded, runs_dir=runs_dir, content=made)


def environment_differences(path: Path, *, accelerators: list[str] | None = None) -> list[str]:
    """Return what differs here from where the run was made, each `key: old -> new`; empty where nothing does.

    How many cores there are does not matter: threads are taken as the run had them.

    Args:
        accelerators: the GPUs that are here, where torch is loaded anyway.
    """
    made = content(path)
    lines = manifest.environment_differences(made, provenance.collect())
    if accelerators is not None and "accelerators" in made["facts"]:
        before = {"accelerators": made["facts"]["accelerators"]}
        lines += manifest.settings_differences(before, {"accelerators": accelerators})
    lines = [line for line in lines if not line.startswith("hardware.processor.cores:")]
    return [_DIGEST.sub(r'"\1..."', line) for line in lines]


def tier(differences: list[str], *, exact: bool = False) -> str:
    """Return what is promised of a run that is made again here (docs/ARCHITECTURE.md): A, B or C.

    Args:
        exact: the number of processes does not matter.
    """
    others = [line for line in differences if not line.startswith("world_size:")]
    return "A" if others or (differences and not exact) else "C" if differences else "B"


def promise(tier: str, differences: list[str]) -> str:
    """Say in words what a tier means, and why it is no higher."""
    shown = "".join(f"\n    {line}" for line in differences)
    return {
        "A": "not as it was made, so only the same tokens are promised (tier A); the same bits need the same "
        f"hardware,\n  versions, code, threads and processes (tier B):{shown}",
        "B": "versions, code, processor, threads and processes are the same, and so are the bits (tier B)",
        "C": f"exact: the same bits are promised for any number of processes (tier C):{shown}",
    }[tier]
