"""A finished run as a model repository with a card, on disk or on the Hub."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from toolkit.base.errors import RunError, ToolkitError, UsageError
from toolkit.base.files import atomic_folder
from toolkit.models import checkpoint_folder
from toolkit.publish.model_card import model_card
from toolkit.runs import layout, seal
from toolkit.runs.hub import Reference
from toolkit.runtime.network import NETWORK_ERRORS

REPO_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]{0,95}")
LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
PROVENANCE = "provenance"


def write_repository(run: Path, repo_id: str, folder: Path, *, license: str | None = None) -> None:
    """Write the repository of a sealed run into a new folder.

    Args:
        license: the identifier of a licence on the Hub, such as `apache-2.0`; the card has none without it.

    Raises:
        UsageError: a repo id that the Hub would refuse, what is no identifier of a licence, or a folder that
            is not empty.
        RunError: a run that is not finished, was changed since, or has no model.
    """
    if not REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id:
        raise UsageError("is not a name of a repository", where=repo_id, fix="write it as user/name")
    if license is not None and not LICENSE.fullmatch(license):
        raise UsageError(
            "is not an identifier of a licence", where=f"--license {license}",
            fix="write one of hf.co/docs/hub/repositories-licenses, such as apache-2.0, or other",
        )  # fmt: skip
    _check_run(run)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("the output folder is not empty", where=str(folder), fix="name a new --output DIR")
    if folder.exists():
        folder.rmdir()
    with atomic_folder(folder) as staging:
        build(run, repo_id, staging, license=license)


def publish(run: Path, repo_id: str, *, private: bool = False, license: str | None = None) -> str:
    """Upload the repository of a sealed run to the Hub; returns its URL.

    Raises:
        ToolkitError: as `write_repository`; also a Hub that cannot be reached or refuses.
    """
    folder = default_folder(run)
    write_repository(run, repo_id, folder, license=license)
    try:
        _upload(folder, repo_id, private=private)
    finally:
        shutil.rmtree(folder)
    return f"https://huggingface.co/{repo_id}"


def default_folder(run: Path) -> Path:
    """Return the folder next to the run in which its repository is written."""
    return run.parent / f"{run.name}-publish"


def _check_run(path: Path) -> None:
    if not seal.is_sealed(path):
        raise RunError("this run is not finished", where=str(path), fix="run its recipe to the end first")
    problems = seal.verify(path)
    if problems:
        raise RunError(
            f"the run changed since it was sealed: {problems[0]}",
            where=str(path),
            fix="run the recipe again with --fresh",
        )
    if not (path / layout.MODEL).is_dir():
        raise RunError("this run holds no model", where=str(path), fix="publish a run that trains one")


def build(run: Path, repo_id: str, folder: Path, *, license: str | None = None) -> None:
    """Fill `folder` with the model, its card, its evaluation and its provenance; an adapter is merged."""
    if checkpoint_folder.is_adapter(run / layout.MODEL):
        _write_merged((str(run / layout.MODEL), None), folder)
    else:
        shutil.copytree(run / layout.MODEL, folder, dirs_exist_ok=True)
    (folder / PROVENANCE).mkdir()  # separate, because a folder with a manifest would be taken for a run
    for name in (layout.EVALUATION, layout.MANIFEST, layout.LOCK, layout.RECIPE, layout.RESOLVED):
        if (run / name).exists():
            shutil.copyfile(run / name, folder / PROVENANCE / name)
    card = model_card(run, repo_id, model=folder, license=license)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_merged(adapter: Reference, folder: Path) -> None:
    """Write the model that an adapter loads as, in the dtype of its base."""
    # 5 s that other models do not need
    from toolkit.models.loading import is_classifier, load_causal_lm, load_reward_model, write_model
    from toolkit.models.stored_dtypes import StoredDtypes

    model, tokenizer = (load_reward_model if is_classifier(adapter) else load_causal_lm)(adapter)
    StoredDtypes.of(adapter).cast(model)
    write_model(model, tokenizer, folder)


def _upload(folder: Path, repo_id: str, *, private: bool) -> None:
    """Send the folder to the Hub in one commit.

    Raises:
        ToolkitError: no network, no token, or a refusal, in the Hub's own words.
    """
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=str(folder), commit_message="Publish a sealed run")
    except LocalTokenNotFoundError:
        raise ToolkitError("you are not logged in to the Hub", where=repo_id, fix="hf auth login") from None
    except HfHubHTTPError as error:
        raise ToolkitError(
            f"the Hub refused: {error}", where=repo_id, fix="check the name and your token: hf auth whoami"
        ) from None
    except (OfflineModeIsEnabled, OSError, *NETWORK_ERRORS) as error:
        raise ToolkitError(
            f"the Hub cannot be reached: {error}",
            where=repo_id,
            fix="check the network, or use --dry-run --output DIR",
        ) from None
