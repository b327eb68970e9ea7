"""manifest.json: what went into a run, to notice changed inputs and to reproduce the result."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import yaml

from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.config import history
from toolkit.config.inputs import canonical_keys, canonical_settings
from toolkit.config.loader import LoadedRecipe
from toolkit.config.registry import STAGES
from toolkit.config.schema import StageRecipe
from toolkit.runs import layout, provenance, references, seal


class Parent(TypedDict):
    """A run, a folder or a model of the Hub that a run was made from."""

    kind: str
    """`run`, `folder` or `hub`."""
    digest: str
    """SHA-256 of the run's lock.json or of the folder; for a Hub model its reference."""
    path: NotRequired[str]
    """Path of the run or folder, relative to the run that was made from it."""
    reference: NotRequired[str]
    """Hub id of the parent."""


class Inputs(TypedDict):
    """The settings, parents and data that identify a run."""

    settings: dict[str, Any]
    parents: dict[str, Parent]
    """Parents by the key of the setting, such as `models[0]`."""
    data: dict[str, str]
    """Digests of data and files, by the key of the setting."""


class Manifest(TypedDict):
    """The content of manifest.json."""

    format: str
    name: str
    stage: str
    recipe: str
    """SHA-256 of the recipe's text."""
    overrides: list[str]
    operational: dict[str, Any]
    """Settings that no result depends on."""
    settings: str
    """SHA-256 of the settings."""
    inputs: Inputs
    seeds: dict[str, int]
    versions: dict[str, str | None]
    python: str
    code: dict[str, Any]
    hardware: dict[str, Any]
    world_size: int
    facts: dict[str, Any]
    """See `runs.decisions.Decisions`."""
    resumed: list[dict[str, Any]]
    """The environment of each attempt that differs from the one before."""


def settings(recipe: StageRecipe) -> dict[str, Any]:
    """Return every effective setting, defaults filled in, except those that no result depends on."""
    return {k: value for k, value in recipe.model_dump(mode="json").items() if k not in recipe.operational}


def inputs(
    recipe: StageRecipe, *, path: Path, runs_dir: Path, data: Mapping[str, str] | None = None
) -> Inputs:
    """Return what decides whether a run is the same run: settings, parents' lock digests, data digests.

    Raises:
        RunError: a parent is missing or not sealed.
    """
    parents: dict[str, Parent] = {}
    for key, reference in references.find(recipe).items():
        parent = references.resolve(reference, runs_dir=runs_dir)
        if isinstance(parent, str):
            parents[key] = {"kind": "hub", "reference": reference, "digest": reference}
            continue
        # Relative to the run, so that both can be copied or moved together.
        owner = seal.run_of(parent)
        relative = Path(os.path.relpath((owner or parent).resolve(), path.resolve())).as_posix()
        if owner is not None:
            parents[key] = {"kind": "run", "path": relative, "digest": seal.digest(owner)}
        else:
            parents[key] = {"kind": "folder", "path": relative, "digest": seal.folder_digest(parent)}
    return {"settings": settings(recipe), "parents": parents, "data": dict(data or {})}


def read(path: Path) -> Manifest:
    """Return the manifest of the run at `path` with the current names of settings, parents and data.

    Raises:
        RunError: it was made before manifests recorded the inputs.
    """
    content = files.read_json(path / layout.MANIFEST)
    recorded = content.get("inputs")
    if not isinstance(recorded, dict) or not Inputs.__required_keys__ <= recorded.keys():
        raise RunError(
            "the manifest does not record the inputs",
            where=str(path / layout.MANIFEST),
            fix="start over with --fresh",
        )
    return _updated(content)


def _updated(content: Manifest) -> Manifest:
    """Return a manifest as this version would have written it (see `config.history`)."""
    stage, recorded = content["stage"], content["inputs"]
    settings = history.recorded(stage, recorded["settings"])
    # A setting may have become operational since.
    moved = {key: settings.pop(key) for key in STAGES[stage].recipe.operational & settings.keys()}
    current: Inputs = {
        **recorded,
        "settings": canonical_settings(settings),
        "parents": history.recorded_keys(stage, recorded["parents"]),
        "data": {
            key: history.data_digest(digest)
            for key, digest in canonical_keys(history.recorded_keys(stage, recorded["data"])).items()
        },
    }
    operational = history.recorded(stage, content.get("operational", {}), complete=False)
    return {**content, "inputs": current, "operational": {**moved, **operational}}


def as_named(recorded: Inputs, name: str, *, new_name: str) -> Inputs:
    """Return the inputs of the run `name` as they are once it and its parents have moved to `new_name`.

    `runs/a/sft` is `runs/b/sft` for a run that moved from `a/dpo` to `b/dpo`.
    """
    old, new = (posixpath.dirname(text) or "." for text in (name, new_name))

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(item) for key, item in value.items()}
        if isinstance(value, list):
            return [moved(item) for item in value]
        if isinstance(value, str) and value.startswith("runs/"):
            relative = posixpath.relpath(value.removeprefix("runs/"), old)
            return posixpath.join("runs", posixpath.normpath(posixpath.join(new, relative)))
        return value

    return {**recorded, "settings": moved(recorded["settings"])}


def flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Return {dotted key: leaf} of nested mappings and lists; an empty one is a leaf."""
    if isinstance(value, dict) and value:
        pairs = [(f"{key}.{name}" if key else str(name), item) for name, item in value.items()]
    elif isinstance(value, list) and value:
        pairs = [(f"{key}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {key: value}
    return {leaf_key: leaf for name, item in pairs for leaf_key, leaf in flatten(item, name).items()}


def settings_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the settings that differ, each `key: old -> new`."""
    return [f"{key}: {change}" for key, change in _changes(old, new)]


def recipe_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return where the settings of a recipe differ from those of a manifest that `read` returned.

    A note explains settings that were added or removed since.
    """
    stage, before = new["stage"], flatten(old)
    return [
        f"{key}: {change}{history.note(stage, key)}"
        for key, change in _changes(old, new)
        if key in before or history.has_effect(stage, key)
    ]


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str]]:
    before, after = flatten(old), flatten(json.loads(json.dumps(new)))
    absent = object()
    changes = []
    for key in sorted(before.keys() | after.keys()):
        first, second = before.get(key, absent), after.get(key, absent)
        if (type(first) is not type(second) and not _both_numbers(first, second)) or first != second:
            shown = ["(not set)" if value is absent else json.dumps(value) for value in (first, second)]
            changes.append((key, f"{shown[0]} -> {shown[1]}"))
    return changes


def _both_numbers(first: Any, second: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in (first, second))


def differences(old: Inputs, new: Inputs) -> list[str]:
    """Return which settings, parents and data differ between two `inputs`, each `key: old -> new`.

    Args:
        old: of a manifest that `read` returned.
        new: of the recipe (`inputs`).
    """
    lines = recipe_differences(old["settings"], new["settings"])
    for key in sorted(old["parents"].keys() & new["parents"].keys()):
        first, second = old["parents"][key], new["parents"][key]
        if first["digest"] != second["digest"] and second["kind"] != "hub":
            # A changed reference is reported as a setting already; this is about changed bytes.
            lines.append(
                f"{key}: another parent ({second['kind']} {second['path']}): "
                f"{first['digest'][:12]} -> {second['digest'][:12]}"
            )
    for key in sorted(old["data"].keys() & new["data"].keys()):
        if old["data"][key] != new["data"][key]:
            lines.append(f"{key}: other data: {_short(old['data'][key])} -> {_short(new['data'][key])}")
    return lines


def _short(digest: str) -> str:
    return digest if len(digest) <= 24 else f"{digest[:12]}..."


def recipe_record(loaded: LoadedRecipe) -> dict[str, Any]:
    """Return how a recipe was given: the digest of its text, the overrides, what no result depends on."""
    content, names = loaded.recipe.model_dump(mode="json"), loaded.recipe.operational - {"run"}
    operational = {name: content[name] for name in sorted(names)}
    return {
        "recipe": files.sha256(loaded.text),
        "overrides": list(loaded.overrides),
        "operational": operational,
    }


def create(loaded: LoadedRecipe, *, given: Inputs) -> Manifest:
    """Return the manifest of a run that starts now; `given` are its inputs."""
    content: Any = {
        "format": seal.FORMAT,
        "name": loaded.name,
        "stage": loaded.recipe.stage,
        **recipe_record(loaded),
        "settings": files.sha256(json.dumps(given["settings"], sort_keys=True)),
        "inputs": given,
        "seeds": {"root": loaded.recipe.seed},
        **provenance.collect(),
        "facts": {},
        "resumed": [],
    }
    return content


def environment_differences(manifest: Manifest, now: dict[str, Any]) -> list[str]:
    """Return what differs from the environment of the run's last attempt, each `key: old -> new`."""
    recorded: Mapping[str, Any] = manifest
    before = {key: recorded[key] for key in now}
    if manifest["resumed"]:
        before = manifest["resumed"][-1]
    return settings_differences(before, now)


def resolved(manifest: Manifest) -> str:
    """Return resolved.yaml: every effective setting, and under `found` what else the run decided.

    A decision of a setting's name replaces it: `precision: auto` reads `precision: bf16`.
    """
    settings, facts = manifest["inputs"]["settings"], manifest["facts"]
    settings = {**settings, **manifest.get("operational", {})}
    content = {key: facts.get(key, value) for key, value in settings.items()}
    others = {key: value for key, value in facts.items() if key not in settings}
    if others:
        content["found"] = others
    head = "# Every setting as it took effect; `found` is what else the run wrote down.\n"
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
