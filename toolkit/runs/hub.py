"""Models of the Hub: one attempt to reach it, then the cache, and the commit that a name stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from toolkit.base.console import tell_once
from toolkit.base.errors import ToolkitError
from toolkit.config.inputs import is_local
from toolkit.runs import suggestions

Reference = tuple[str, str | None]
"""A folder or a hub id, and the hub revision or None."""

TIMEOUT_SECONDS = 10.0
"""For the one request that finds out whether the Hub can be reached."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def local_folder(name: str) -> Path | None:
    """Return the folder that `name` means, or None for a hub id.

    Raises:
        ToolkitError: a path that does not exist, or a file.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise ToolkitError(
            "is a file, not a model folder", where=name, fix="give the folder that contains it"
        )
    if is_local(name, kind="model"):
        fix = suggestions.there_is(path) or "check the path, or run its stage first"
        raise ToolkitError("no such folder", where=name, fix=fix)
    return None


@dataclass(frozen=True)
class HubModel:
    """A model of the Hub at one commit.

    Attributes:
        files: the names of its files.
        folder: its folder in the cache, if the Hub cannot be reached; else None.
    """

    commit: str
    files: tuple[str, ...]
    folder: Path | None = None


def find(reference: Reference) -> HubModel:
    """Return what a hub id stands for, after one attempt to reach the Hub.

    A library would ask again for each file, and repeat each request with pauses.

    Raises:
        ToolkitError: the Hub has no such model, or it cannot be reached and the model is not cached.
    """
    return _find(*reference)


def download(reference: Reference, patterns: list[str]) -> Path:
    """Download the files of a hub model that match the patterns, and return their folder.

    Raises:
        ToolkitError: as `find`, or the connection was lost.
    """
    from huggingface_hub import snapshot_download

    name, revision = reference
    commit = find((name, revision)).commit
    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=patterns))
    except Exception as error:  # of the HTTP library
        raise ToolkitError(
            f"cannot be downloaded: {str(error).strip().splitlines()[0]}", where=name,
            fix="the same command continues the download",
        ) from error  # fmt: skip


def commit_of(reference: Reference) -> str | None:
    """Return the commit that a hub id stands for now; None for a local folder.

    Raises:
        ToolkitError: as `local_folder` and `find`.
    """
    name, revision = reference
    if local_folder(name):
        return None
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    return find(reference).commit


@cache
def _find(name: str, revision: str | None) -> HubModel:
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    where = f"{name}@{revision}" if revision else name
    problem = "HF_HUB_OFFLINE is set"
    if not is_offline_mode():
        try:
            found = HfApi().model_info(name, revision=revision, timeout=TIMEOUT_SECONDS)
            return HubModel(found.sha or "", tuple(file.rfilename for file in found.siblings or ()))
        except HFValidationError as error:
            raise _not_found(where, str(error)) from error
        except HfHubHTTPError as error:
            if error.response.status_code < 500 and error.response.status_code != 429:
                raise _not_found(where, str(error)) from error
            problem = f"the Hub answers with status {error.response.status_code}"
        except OfflineModeIsEnabled:
            pass
        except Exception as error:  # of the HTTP library, which is no dependency of the toolkit
            problem = f"the Hub cannot be reached ({type(error).__name__})"
    folder = cached_folder((name, revision))
    if folder is None:
        raise ToolkitError(
            f"is not a local folder and cannot be loaded from the hub: {problem}, and it is not in the cache",
            where=where,
            fix=_meant(name) or "download the model on a machine with network access and give its folder",
        )
    if not is_offline_mode():
        tell_once(f"{where}: {problem}: using the cached commit {folder.name[:12]}")
    return HubModel(folder.name, tuple(path.name for path in folder.iterdir()), folder)


def cached_folder(reference: Reference) -> Path | None:
    """Return the newest cached snapshot of a hub model's revision; None if it is not cached."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name, revision = reference
    storage = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    named = storage / "refs" / (revision or constants.DEFAULT_REVISION)
    commit = named.read_text(encoding="utf-8").strip() if named.is_file() else revision
    folder = storage / "snapshots" / commit if commit else storage
    return folder if commit and folder.is_dir() else None


def _meant(name: str) -> str | None:
    """Return the run that a hub id without its `runs/` may have meant."""
    found = suggestions.there_is(Path(name))
    return found if found and found.startswith("did you mean") else None


def _not_found(where: str, reason: str) -> ToolkitError:
    first = reason.strip().splitlines()[0] if reason.strip() else "no such model"
    return ToolkitError(
        f"is not a local folder and cannot be loaded from the hub: {first}", where=where,
        fix=_meant(where) or "check the name and the revision; a private model needs `hf auth login`",
    )  # fmt: skip
