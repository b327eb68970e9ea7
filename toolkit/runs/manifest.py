"""manifest.json: what went into a run, so that another input is noticed and the result can be made again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.config import history
from toolkit.config.inputs import canonical_keys, canonical_settings
from toolkit.config.schema import StageRecipe
from toolkit.runs import layout, provenance, references, seal


def settings(recipe: StageRecipe) -> dict[str, Any]:
    """Return every effective setting, defaults filled in, except those that no result depends on."""
    return {k: value for k, value in recipe.model_dump(mode="json").items() if k not in recipe.operational}


def inputs(
    recipe: StageRecipe, *, path: Path, runs_dir: Path, data: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return what decides whether a run is the same run: settings, parents' lock digests, data digests.

    Raises:
        RunError: a parent is not sealed or not there.
    """
    parents = {}
    for key, reference in references.find(recipe).items():
        found = references.resolve(reference, runs_dir=runs_dir)
        if isinstance(found, str):
            parents[key] = {"kind": "hub", "reference": reference, "digest": reference}
            continue
        # Relative to the run, so that both can be copied or moved together.
        owner = seal.run_of(found)
        place = Path(os.path.relpath((owner or found).resolve(), path.resolve())).as_posix()
        if owner is not None:
            parents[key] = {"kind": "run", "path": place, "digest": seal.digest(owner)}
        else:
            parents[key] = {"kind": "folder", "path": place, "digest": seal.folder_digest(found)}
    return {"settings": settings(recipe), "parents": parents, "data": dict(data or {})}


def read(path: Path) -> dict[str, Any]:
    """Return the manifest of the run at `path`, its settings, parents and data under today's names.

    Raises:
        RunError: it was made before manifests said what went in.
    """
    content = files.read_json(path / layout.MANIFEST)
    found = content.get("inputs")
    if not isinstance(found, dict) or not {"settings", "parents", "data"} <= found.keys():
        raise RunError(
            "the manifest does not say what went in",
            where=str(path / layout.MANIFEST),
            fix="start over with --fresh",
        )
    return _updated(content)


def _updated(content: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest as this version would have written it (see `recipe.history`)."""
    stage, found = content["stage"], content["inputs"]
    given = {
        **found,
        "settings": canonical_settings(history.recorded(stage, found["settings"])),
        "parents": history.recorded_keys(stage, found["parents"]),
        "data": {
            key: history.data_digest(digest)
            for key, digest in canonical_keys(history.recorded_keys(stage, found["data"])).items()
        },
    }
    operational = history.recorded(stage, content.get("operational", {}), complete=False)
    return {**content, "inputs": given, "operational": operational}


def flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Return {dotted key: leaf} of nested mappings and lists; an empty one is a leaf."""
    if isinstance(value, dict) and value:
        pairs = [(f"{key}.{name}" if key else str(name), item) for name, item in value.items()]
    elif isinstance(value, list) and value:
        pairs = [(f"{key}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {key: value}
    return {place: leaf for name, item in pairs for place, leaf in flatten(item, name).items()}


def settings_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the settings that differ, each `key: old -> new`."""
    return [f"{key}: {change}" for key, change in _changes(old, new)]


def recipe_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return where the settings of a recipe differ from those of a manifest that `read` returned.

    What the settings were before they existed is said, and what became of removed ones.
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
    found = []
    for key in sorted(before.keys() | after.keys()):
        first, second = before.get(key, absent), after.get(key, absent)
        if (type(first) is not type(second) and not _both_numbers(first, second)) or first != second:
            shown = ["(not set)" if value is absent else json.dumps(value) for value in (first, second)]
            found.append((key, f"{shown[0]} -> {shown[1]}"))
    return found


def _both_numbers(first: Any, second: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in (first, second))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return which settings, parents and data differ between two `inputs`, each `key: old -> new`.

    Args:
        old: of a manifest that `read` returned.
        new: of the recipe (`inputs`).
    """
    lines = recipe_differences(old["settings"], new["settings"])
    for key in sorted(old["parents"].keys() & new["parents"].keys()):
        first, second = old["parents"][key], new["parents"][key]
        if first["digest"] != second["digest"] and second["kind"] != "hub":
            # A reference that was renamed shows as a setting already; what counts here are the bytes.
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


def given_as(loaded: Any) -> dict[str, Any]:
    """Return how a recipe was given: the digest of its text, the overrides, what no result depends on."""
    content, names = loaded.recipe.model_dump(mode="json"), loaded.recipe.operational - {"run"}
    operational = {name: content[name] for name in sorted(names)}
    return {
        "recipe": files.sha256(loaded.text),
        "overrides": list(loaded.overrides),
        "operational": operational,
    }


def create(loaded: Any, *, given: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a run that starts now; `given` are its `inputs`."""
    return {
        "format": seal.FORMAT,
        "name": loaded.name,
        "stage": loaded.recipe.stage,
        **given_as(loaded),
        "settings": files.sha256(json.dumps(given["settings"], sort_keys=True)),
        "inputs": given,
        "seeds": {"root": loaded.recipe.seed},
        **provenance.collect(),
        "facts": {},
        "resumed": [],
    }


def environment_differences(manifest: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what differs from the environment that the run last went on in, each `key: old -> new`."""
    before = {key: manifest[key] for key in now}
    if manifest["resumed"]:
        before = manifest["resumed"][-1]
    return settings_differences(before, now)


def resolved(manifest: dict[str, Any]) -> str:
    """Return resolved.yaml: every effective setting, and under `found` what else the run recorded.

    A recorded value of a setting's name takes its place: `precision: auto` reads `precision: bf16`.
    """
    settings, recorded = manifest["inputs"]["settings"], manifest["facts"]
    settings = {**settings, **manifest.get("operational", {})}
    content = {key: recorded.get(key, value) for key, value in settings.items()}
    found = {key: value for key, value in recorded.items() if key not in settings}
    if found:
        content["found"] = found
    head = "# Every setting as it took effect; `found` is what else the run wrote down.\n"
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
