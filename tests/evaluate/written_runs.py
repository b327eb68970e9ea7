"""Sealed runs without models, whose manifests say which data they were trained on."""

from __future__ import annotations

import json
from pathlib import Path

from toolkit.config.schema import DataSource
from toolkit.data import files
from toolkit.evaluate import trained_on
from toolkit.runs import layout, seal


def write_run(name, stage="reward", *, parents=None, data=None, **settings):
    """Write a sealed run that says that it read `data`, and return the reference of its model."""
    run = layout_folder(name)
    source = None if data is None else DataSource.model_validate(data)
    inputs = {
        "settings": {"data": data, **settings} if data is not None else settings,
        "parents": {
            key: {"kind": "run", "path": f"../{parent}", "digest": ""}
            for key, parent in (parents or {}).items()
        },
        "data": {"data": files.digest(source)}
        if source is not None and not data["name"].startswith("runs/")
        else {},
    }
    content = {"format": seal.FORMAT, "name": f"t/{name}", "stage": stage, "inputs": inputs}
    (run / "manifest.json").write_text(json.dumps(content))
    seal.seal(run)
    return str(run / layout.MODEL), None


def layout_folder(name):
    run = Path("runs") / name
    (run / layout.MODEL).mkdir(parents=True)
    return run


def select(model, name="pairs.jsonl", part=None, *, is_text=False, **settings):
    return trained_on.select(DataSource(name=name, **settings), [model], part=part, is_text=is_text)
