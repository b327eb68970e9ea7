"""What a recipe refers to: a run (`runs/...`), a local folder, or a model of the Hub (`id@revision`)."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel

from toolkit.base.errors import RunError
from toolkit.config import inputs
from toolkit.config.inputs import HUB_NAME, is_local
from toolkit.runs import layout, seal


def find(recipe: BaseModel) -> dict[str, str]:
    """Return {key: reference} of all references of a recipe, such as {"model": "runs/tiny/sft"}."""
    return {inputs.key_text(key): reference for key, reference in inputs.references(recipe)}


def run_path(reference: str, runs_dir: Path) -> Path | None:
    """Return the directory of `runs/...` below the runs directory; None where it is no such reference.

    Raises:
        RunError: the name leads out of the runs directory.
    """
    if not reference.startswith("runs/"):
        return None
    return below(reference.removeprefix("runs/"), runs_dir)


def below(name: str, runs_dir: Path) -> Path:
    """Return `runs_dir/name`; refuses an empty name, an absolute one, and one with `..`."""
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise RunError(
            f"{name!r} is not a name below the runs directory",
            where=str(runs_dir),
            fix="write it like tiny/dpo",
        )
    return Path(runs_dir) / Path(*parts)


def resolve(reference: str, *, runs_dir: Path) -> Path | str:
    """Return the directory of a sealed run, a local folder, or a hub id as it is written.

    A folder that is a run directory, or lies in one, must belong to a sealed run. Nothing is hashed here:
    see lock.require_unchanged.

    Raises:
        RunError: an unsealed or missing run, a missing folder, or a text that is no hub id.
    """
    path = run_path(reference, runs_dir)
    if path is None and Path(reference).is_dir():
        path = Path(reference)
        if seal.run_of(path) is None:
            return path
    if path is not None:
        # A folder inside a run (a checkpoint) is as good as its run; a missing one is said to be missing.
        seal.require_sealed((seal.run_of(path) if path.is_dir() else None) or path)
        return path
    if is_local(reference, kind="model") or not HUB_NAME.fullmatch(reference):
        raise RunError(
            "there is no such folder, and it is not the id of a model on the Hub",
            where=reference,
            fix="write runs/NAME, a path, or id@revision",
        )
    return reference


def model(reference: str, *, runs_dir: Path) -> tuple[str, str | None]:
    """Return (path or hub id, revision) of a model: a run's model/, a model folder, or a hub id.

    Raises:
        RunError: as `resolve`; also a run that has no model.
    """
    found = resolve(reference, runs_dir=runs_dir)
    if isinstance(found, str):
        name, _, revision = found.partition("@")
        return name, revision or None
    if not seal.is_run(found):
        return str(found), None
    if not (found / layout.MODEL).is_dir():
        raise RunError(
            "the run has no model", where=str(found), fix="name a pretrain, sft, reward, dpo or ppo run"
        )
    return str(found / layout.MODEL), None


def named_model(name: str) -> tuple[str, str | None]:
    """Return (path or hub id, revision) of a model named on the command line.

    A run must be finished; a checkpoint may be looked at while its run goes on. `runs/...` means below the
    runs directory in a recipe, and on the command line just what it says.

    Raises:
        RunError: as `model`.
    """
    folder = Path(name)
    if folder.is_dir() and not seal.is_run(folder):
        return name, None
    return model(os.path.join(".", name) if folder.is_dir() else name, runs_dir=Path("runs"))  # noqa: PTH118


def corpus_folder(place: Path) -> Path | None:
    """Return the folder with train/ and tokenizer/ of a corpus run, or a plain folder that has them."""
    return next((one for one in (place / "corpus", place) if (one / "train").is_dir()), None)
