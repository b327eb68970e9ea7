"""Resolving references of recipes: a run (`runs/...`), a local folder, or a Hub model (`id@revision`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from toolkit.base.errors import RecipeError, RunError
from toolkit.config import inputs
from toolkit.config.inputs import HUB_NAME, ModelType, is_local
from toolkit.config.messages import listed
from toolkit.config.overrides import Override
from toolkit.config.registry import STAGES, Product
from toolkit.config.schema import DataSource
from toolkit.runs import layout, seal, suggestions


def find(recipe: BaseModel) -> dict[str, str]:
    """Return {key: reference} of all references of a recipe, such as {"model": "runs/tiny/sft"}."""
    return {inputs.key_text(key): reference for key, reference in inputs.references(recipe)}


def run_path(reference: str, runs_dir: Path) -> Path | None:
    """Return the directory of `runs/...` below the runs directory; None for another reference.

    Raises:
        RunError: the name leads out of the runs directory.
    """
    if not reference.startswith("runs/"):
        return None
    return below(reference.removeprefix("runs/"), runs_dir)


def below(name: str, runs_dir: Path) -> Path:
    """Return `runs_dir/name`.

    Raises:
        RunError: the name is empty, absolute, or contains `..`.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise RunError(
            f"{name!r} is not a name below the runs directory",
            where=str(runs_dir),
            fix="write it like tiny/dpo",
        )
    return Path(runs_dir) / Path(*parts)


def of_path(path: str, runs_dir: Path) -> str:
    """Return the reference by which a recipe names a path.

    That is the path itself, but `./runs/x` for `runs/x` where that is not below the runs directory.
    """
    is_root = Path(runs_dir).absolute() == Path("runs").absolute()
    return f"./{path}" if path.startswith("runs/") and not is_root else path


def of_overrides(overrides: Sequence[str], runs_dir: Path) -> list[str]:
    """Return `key=value` texts whose runs and models are paths with references instead (see `of_path`).

    A text that is not an override stays as it is: the loader reports it.
    """
    return [_of_override(text, runs_dir) for text in overrides]


def _of_override(text: str, runs_dir: Path) -> str:
    try:
        return Override.read(text).map_references(lambda path: of_path(path, runs_dir))
    except RecipeError:
        return text


def resolve(reference: str, *, runs_dir: Path) -> Path | str:
    """Return the directory of a sealed run, a local folder, or a Hub id as it is written.

    A folder that is a run directory, or lies in one, must belong to a sealed run. Nothing is hashed here:
    see `seal.require_unchanged`.

    Raises:
        RunError: an unsealed or missing run, a missing folder, or a string that is not a Hub id.
    """
    path = run_path(reference, runs_dir)
    if path is None and Path(reference).is_dir():
        path = Path(reference)
        if seal.run_of(path) is None:
            return path
    if path is not None:
        # A folder inside a run (a checkpoint), or a file of it, is valid if its run is sealed.
        inside = path.parent if path.is_file() else path
        seal.require_sealed((seal.run_of(inside) if inside.is_dir() else None) or path)
        return path
    if is_local(reference, kind="model") or not HUB_NAME.fullmatch(reference):
        raise RunError(
            "there is no such folder, and this is not the id of a model on the Hub",
            where=reference,
            fix="write runs/NAME, a path, or id@revision",
        )
    return reference


def model(reference: str, *, runs_dir: Path) -> tuple[str, str | None]:
    """Return (path or Hub id, revision) of a model: a run's model/, a model folder, or a Hub id.

    Raises:
        RunError: as `resolve`; also a run without a model.
    """
    resolved = resolve(reference, runs_dir=runs_dir)
    if isinstance(resolved, str):
        name, _, revision = resolved.partition("@")
        return name, revision or None
    if not seal.is_run(resolved):
        return str(resolved), None
    if not (resolved / layout.MODEL).is_dir():
        products = (Product.LANGUAGE_MODEL, Product.REWARD_MODEL)
        stages = [name for name, stage in STAGES.items() if stage.product in products]
        raise RunError("the run has no model", where=str(resolved), fix=f"name a run of {listed(stages)}")
    return str(resolved / layout.MODEL), None


def data_file(reference: str, *, runs_dir: Path) -> Path:
    """Return the file of a data source `runs/...`: the preferences of a run, or a file in it.

    Raises:
        RunError: an unsealed or missing run, or a run without this file.
    """
    path = below(reference.removeprefix("runs/"), runs_dir)
    folder = path if path.is_dir() or not path.suffix else path.parent
    seal.require_sealed(seal.run_of(folder) or folder)
    file = path / layout.PREFERENCES if seal.is_run(path) else path
    if not file.is_file():
        raise RunError("the run has no preferences", where=str(path), fix="name a run of preferences")
    return file


def with_data_files(recipe: ModelType, *, runs_dir: Path) -> ModelType:
    """Return a recipe whose data sources `runs/...` are the files of these runs.

    Raises:
        RunError: as `data_file`.
    """

    def resolved(source: DataSource) -> DataSource:
        if not source.name.startswith("runs/"):
            return source
        return source.model_copy(update={"name": str(data_file(source.name, runs_dir=runs_dir))})

    return inputs.with_sources(recipe, resolved)


def named_model(name: str) -> tuple[str, str | None]:
    """Return (path or Hub id, revision) of a model named on the command line.

    A run must be sealed; a checkpoint may be used while its run is still training. In a recipe `runs/...` is
    below the runs directory; on the command line it is an ordinary path.

    Raises:
        RunError: as `model`.
    """
    folder = Path(name)
    if folder.is_dir() and not seal.is_run(folder):
        if not any(folder.glob("*.json")) and (found := suggestions.there_is(folder)):
            raise RunError("is a folder of runs, not a model", where=name, fix=found)
        return name, None
    if name.startswith("runs/") and not folder.exists() and (found := suggestions.there_is(folder)):
        raise RunError("there is no such run", where=name, fix=found)
    return model(os.path.join(".", name) if folder.is_dir() else name, runs_dir=Path("runs"))  # noqa: PTH118


def corpus_folder(path: Path) -> Path | None:
    """Return the folder with train/ and tokenizer/: of a corpus run, or a plain folder that has them."""
    return next((folder for folder in (path / layout.CORPUS, path) if (folder / "train").is_dir()), None)
