"""Rebuild the settings, parents and decisions of a run from its manifest, to repeat it in another folder.

Nothing is written into the run itself or its parents.
"""

from __future__ import annotations

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
from toolkit.runs.decisions import Decisions
from toolkit.runs.run import Run

_DIGEST = re.compile(r'"([0-9a-f]{12})[0-9a-f]{20,}"')


def content(path: Path) -> dict[str, Any]:
    """Return a run's manifest.

    Raises:
        RunError: the path is not a run, or its manifest records no inputs.
    """
    if not path.exists():
        raise RunError(
            "there is no such run", where=str(path), fix="name a run directory, such as runs/tiny/dpo"
        )
    if not seal.is_run(path):
        raise RunError("is not a run directory", where=str(path), fix="name a run of this toolkit")
    return manifest.read(path)


def require_parents(path: Path) -> None:
    """Refuse parents that are missing or have another seal; `seal.chain` checks their bytes.

    Raises:
        RunError: names the parent.
    """
    for key, parent, recorded, is_run in seal.parents(path):
        if not parent.is_dir():
            raise RunError(
                f"{key}: what the run was made from is missing, {parent}",
                where=str(path), fix="restore it at the same path relative to the run",
            )  # fmt: skip
        digest = seal.digest(parent) if is_run else seal.folder_digest(parent)
        if digest != recorded:
            raise RunError(
                f"{key}: {parent} is not what the run was made from: its digest is {digest[:12]} and was "
                f"{str(recorded)[:12]}",
                where=str(path), fix="restore the old one, or start the run over with --fresh",
            )  # fmt: skip


def recipe(path: Path, *, runs_dir: Path | None = None) -> StageRecipe:
    """Return the effective settings of a run, without reading its recipe file or its base.

    Args:
        runs_dir: adapt references to the parents for a run below this folder, by creating symbolic links.

    Raises:
        RunError: the run has settings that this version does not support.
    """
    run_manifest = content(path)
    settings = {**run_manifest["inputs"]["settings"], **run_manifest.get("operational", {})}
    settings = history.as_made(run_manifest["stage"], settings)
    removed = history.refused(run_manifest["stage"], settings)
    if removed:
        raise RunError(
            "was made with settings that this version does not support:\n    " + "\n    ".join(removed),
            where=str(path), fix=f"use the version of the toolkit that made the run{_commit(run_manifest)}",
        )  # fmt: skip
    cls = STAGES[run_manifest["stage"]].recipe
    parsed = _parse(cls, settings, path)
    decided = Decisions.of(run_manifest["facts"])
    if runs_dir is not None:
        for key, reference in references.find(parsed).items():
            commit = (decided.hub_commits or {}).get(reference)
            # The results of an evaluation contain its settings.
            if commit is not None and run_manifest["stage"] != "evaluate":
                _set_nested(settings, key, f"{reference.partition('@')[0]}@{commit}")
            parent = run_manifest["inputs"]["parents"].get(key, {})
            if "path" in parent:
                folder = seal.parent_path(path, parent["path"])
                _set_nested(settings, key, _link_parent(folder, reference, runs_dir))
        parsed = _parse(cls, settings, path)
    return decided.applied_to(parsed)


def _commit(run_manifest: dict[str, Any]) -> str:
    commit = run_manifest.get("code", {}).get("commit")
    return f" (commit {commit[:12]})" if commit else ""


def _parse(cls: type[StageRecipe], settings: dict[str, Any], path: Path) -> StageRecipe:
    try:
        return cls.model_validate(_without_defaults(cls, settings))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RunError(
            f"setting {'.'.join(map(str, first['loc']))} is not one of this version: {first['msg']}",
            where=str(path / layout.MANIFEST), fix="use the version of the toolkit that made the run",
        ) from None  # fmt: skip


def _without_defaults(cls: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """Leave out values that are the default: some settings are only allowed together with others."""
    kept = {}
    for name, value in values.items():
        default = cls.model_fields[name].default if name in cls.model_fields else PydanticUndefined
        if isinstance(default, BaseModel) and isinstance(value, dict):
            value = _without_defaults(type(default), value)
            if value:
                kept[name] = value
        elif default is PydanticUndefined or value != default:
            kept[name] = value
    return kept


def _set_nested(settings: dict[str, Any], key: str, value: str) -> None:
    """Set a nested setting such as `win_rate.baseline` or `models[0]`; of a data source its name."""
    *parents, last = [int(part) if part.isdigit() else part for part in re.findall(r"\w+", key)]
    container: Any = settings
    for part in parents:
        container = container[part]
    if isinstance(container[last], dict):
        container[last] = {**container[last], "name": value}
    else:
        container[last] = value


def _link_parent(parent: Path, reference: str, runs_dir: Path) -> str:
    """Return a reference to a parent from another runs directory; `runs/...` stays, with a symbolic link.

    A reference may name a folder inside a run, such as a checkpoint.
    """
    parts = PurePosixPath(reference).parts
    ends = [i for i in range(len(parts), 0, -1) if parts[i - 1] == parent.name]
    end = next((i for i in ends if parent.joinpath(*parts[i:]).exists()), len(parts))
    if not reference.startswith("runs/"):
        return str(parent.joinpath(*parts[end:]))
    link = references.below("/".join(parts[1:end]), runs_dir)
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(parent, target_is_directory=True)
    return reference


def temporary_run(path: Path, recipe: StageRecipe, *, runs_dir: Path) -> Run:
    """Return a run below another folder with the manifest of the run at `path`; a stage may write to it."""
    run_manifest = content(path)
    name = run_manifest["name"]
    loaded = LoadedRecipe(path / layout.RECIPE, name, recipe, "", {})
    references.below(name, runs_dir).mkdir(parents=True, exist_ok=True)
    return Run(loaded, runs_dir=runs_dir, content=run_manifest)


def environment_differences(path: Path, *, accelerators: list[str] | None = None) -> list[str]:
    """Return the differences between the environment of a run and this one, each `key: old -> new`.

    The number of cores does not count, since the recorded number of threads is used.

    Args:
        accelerators: the GPUs of this machine; None leaves them out, as listing them imports torch.
    """
    run_manifest = content(path)
    lines = manifest.environment_differences(run_manifest, provenance.collect())
    if accelerators is not None and "accelerators" in run_manifest["facts"]:
        before = {"accelerators": run_manifest["facts"]["accelerators"]}
        lines += manifest.settings_differences(before, {"accelerators": accelerators})
    lines = [line for line in lines if not line.startswith("hardware.processor.cores:")]
    return [_DIGEST.sub(r'"\1..."', line) for line in lines]


def tier(differences: list[str], *, exact: bool = False) -> str:
    """Return the tier of reproducibility that is promised here (docs/ARCHITECTURE.md): A, B or C.

    Args:
        exact: the recipe's `exact`, with which the number of processes does not matter.
    """
    others = [line for line in differences if not line.startswith("world_size:")]
    return "A" if others or (differences and not exact) else "C" if differences else "B"


def promise(tier: str, differences: list[str]) -> str:
    """Describe a tier, and the differences because of which it is not higher."""
    shown = "".join(f"\n    {line}" for line in differences)
    return {
        "A": "the environment differs, so only the same tokens are promised (tier A); the same bits need the "
        f"same hardware,\n  versions, code, threads and processes (tier B):{shown}",
        "B": "versions, code, processor, threads and processes are the same, and so are the bits (tier B)",
        "C": f"exact: the same bits are promised for any number of processes (tier C):{shown}",
    }[tier]
