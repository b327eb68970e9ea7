"""The storyworld that a model was trained on, as the manifests of its run and of its parents say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.config.schema.base import STORYWORLD
from toolkit.runs import layout, seal

if TYPE_CHECKING:
    from toolkit.storyworld import World


def world_of(reference: str) -> World | None:
    """Return the world that a run, or the nearest run that it was made from, read.

    None if there is none, or `reference` is not the folder of a run.
    """
    run = seal.run_of(Path(reference)) if Path(reference).is_dir() else None
    waiting, seen = [run] if run else [], set[Path]()
    while waiting:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen.add(path)
        try:
            settings = files.read_json(path / layout.MANIFEST)["inputs"]["settings"]
            waiting += [parent for _, parent, _, is_run in seal.parents(path) if is_run]
        except (RunError, KeyError, TypeError, AttributeError):
            continue
        found = _world_in(settings)
        if found is not None:
            return found
    return None


def _world_in(value: Any) -> World | None:
    """Return the world that settings of any depth read."""
    from toolkit.storyworld import WORLDS, get_world  # takes 0.4 s, which a model need not wait for

    if isinstance(value, Mapping):
        if value.get("name") == STORYWORLD:
            name = value.get("world")
            return get_world(name) if name is None or name in WORLDS else None
        value = list(value.values())
    items = value if isinstance(value, list) else []
    return next((found for item in items if (found := _world_in(item)) is not None), None)
