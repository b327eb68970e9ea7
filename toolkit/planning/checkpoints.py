"""The checkpoint that a recipe starts from, found on this disk: nothing is loaded or downloaded."""

from __future__ import annotations

import json
from pathlib import Path

from toolkit.config.inputs import HUB_NAME
from toolkit.models import checkpoint_shape
from toolkit.models.checkpoint_shape import CheckpointShape
from toolkit.runs import hub, layout, references, seal


def shape_of(reference: str, *, runs_dir: Path) -> CheckpointShape | None:
    """Return the shape of a finished run, a model folder, or a hub model in the cache; None for all others.

    An adapter has the shape of its base model.

    Raises:
        ToolkitError: a file of weights is damaged or missing.
    """
    folder = _folder(reference, runs_dir)
    adapter = None if folder is None else folder / "adapter_config.json"
    if adapter is not None and adapter.is_file():
        try:
            base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
        except (ValueError, AttributeError):
            base = None
        beside = seal.parent_path(folder, str(base))
        return shape_of(str(beside if beside.is_dir() and beside != folder else base), runs_dir=runs_dir)
    return None if folder is None else checkpoint_shape.of_folder(folder)


def _folder(reference: str, runs_dir: Path) -> Path | None:
    folder = references.run_path(reference, runs_dir) or Path(reference).expanduser()
    if folder.is_dir():
        return folder / layout.MODEL if seal.is_run(folder) else folder
    if not HUB_NAME.fullmatch(reference):
        return None
    name, _, revision = reference.partition("@")
    return hub.cached_folder((name, revision or None))
