"""lock.json: the hashes of a run's outputs; written last, atomically. Only a run that has one is finished."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.runs.layout import IN_USE, LOCK, MANIFEST, SCRATCH

FORMAT = "toolkit run 1"
# Not outputs: lock.json, the manifest (it has its own digest), the file that holds the OS lock.
_NOT_OUTPUTS = {LOCK, MANIFEST, IN_USE}


@dataclass(frozen=True)
class Link:
    """One run of a chain: the number of sealed files, and its current problems."""

    path: Path
    stage: str | None
    files: int
    problems: list[str] = field(default_factory=list)


def is_run(path: Path) -> bool:
    """Return whether `path` is a run directory of this toolkit, finished or not.

    Many programs write a manifest.json; only one with the format of this toolkit counts.
    """
    try:
        manifest = files.read_json(Path(path) / MANIFEST)
    except RunError:
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def run_of(path: Path) -> Path | None:
    """Return the run directory that `path` is or is inside, or None."""
    places = (Path(os.path.abspath(path)), Path(os.path.realpath(path)))
    return next((folder for place in places for folder in (place, *place.parents) if is_run(folder)), None)


def is_sealed(path: Path) -> bool:
    """Return whether the run at `path` is finished. `changes` tells whether its bytes are still the same."""
    return (Path(path) / LOCK).is_file() and is_run(path)


def digest(path: Path) -> str:
    """Return the SHA-256 of a sealed run's lock.json, which stands for every byte of the run.

    Raises:
        RunError: the run is not sealed.
    """
    require_sealed(path)
    return files.sha256_file(Path(path) / LOCK)


def require_sealed(path: Path) -> None:
    """Raise RunError with what to do unless `path` is a sealed run."""
    if not Path(path).exists():
        raise RunError(
            "there is no such run",
            where=str(path),
            fix="run its recipe first, or the whole folder of recipes",
        )
    if not is_run(path):
        raise RunError("is not a run directory", where=str(path), fix="name a run that this toolkit made")
    if not is_sealed(path):
        raise RunError(
            "the run is not finished (it has no lock.json)",
            where=str(path),
            fix="give its `toolkit run` command again: it resumes where it stopped",
        )


def outputs(path: Path) -> list[str]:
    """Return the names of the files that a seal covers (relative, sorted)."""
    names = files.list_files(path)
    return [name for name in names if name not in _NOT_OUTPUTS and not name.startswith(f"{SCRATCH}/")]


def seal(path: Path) -> str:
    """Hash every output of a run and write lock.json last.

    Every output is on the disk before lock.json is, so that a power cut leaves no seal without its bytes.

    Returns:
        The digest of lock.json.

    Raises:
        RunError: an output is a link, which would not survive a copy of the directory.
    """
    files.remove_temporaries(path)
    require_own_bytes(path)
    names = outputs(path)
    files.sync_tree(path)
    lock = {
        "format": FORMAT,
        "sealed": datetime.now(UTC).isoformat(timespec="seconds"),
        "manifest": files.sha256_file(path / MANIFEST),
        "files": files.hash_files(path, names),
    }
    files.write_json(path / LOCK, lock)
    shutil.rmtree(path / SCRATCH, ignore_errors=True)  # last: a run that is killed before resumes with it
    return digest(path)


def require_own_bytes(path: Path) -> None:
    """Refuse links in a run, which would not survive a copy of the directory.

    Raises:
        RunError: names the first link.
    """
    for name in outputs(path):
        if (path / name).is_symlink():
            raise RunError(
                "is a link, but a run must hold its own bytes",
                where=str(path / name),
                fix="put a copy in its place; to use another disk, move the whole run there and link that",
            )


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return (content of lock.json, problems); the content is empty if it cannot be read."""
    try:
        lock = files.read_json(path / LOCK)
    except RunError as error:
        return {}, [f"{LOCK}: {error.what}"]
    whole = isinstance(lock, dict) and isinstance(lock.get("files"), dict) and lock.get("format") == FORMAT
    return (lock, []) if whole else ({}, [f"{LOCK}: is not a lock of this toolkit"])


def changes(path: Path) -> list[str]:
    """Rehash one sealed run and return what differs, each `file: what`; an empty list when nothing does."""
    path = Path(path)
    lock, problems = _read(path)
    if problems:
        return problems
    if not (path / MANIFEST).is_file() or files.sha256_file(path / MANIFEST) != lock.get("manifest"):
        problems.append(f"{MANIFEST}: changed since the run was sealed")
    current, sealed = set(outputs(path)), lock["files"]
    problems += [f"{name}: missing" for name in sorted(sealed.keys() - current)]
    problems += [f"{name}: was added after the run was sealed" for name in sorted(current - sealed.keys())]
    links = {name for name in current if (path / name).is_symlink()}
    problems += [f"{name}: is a link now" for name in sorted(links & sealed.keys())]
    for name, now in files.hash_files(path, (current & sealed.keys()) - links).items():
        if not isinstance(sealed[name], dict) or now["sha256"] != sealed[name].get("sha256"):
            problems.append(f"{name}: changed since the run was sealed")
    return problems


def require_unchanged(path: Path) -> str:
    """Rehash a sealed run and return the digest of its lock.json.

    Raises:
        RunError: names the files that differ.
    """
    lock_digest = digest(path)
    problems = changes(path)
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise RunError(
            f"the run changed since it was sealed: {shown}",
            where=str(path),
            fix="restore the files, or run its recipe again with --fresh",
        )
    return lock_digest


def parents(path: Path) -> Iterator[tuple[str, Path, str | None, bool]]:
    """Yield (key, path, recorded digest, whether it is a run) of the parents in a manifest."""
    manifest = files.read_json(Path(path) / MANIFEST)
    for key, parent in manifest["inputs"]["parents"].items():
        if "path" in parent:
            yield key, parent_path(path, parent["path"]), parent.get("digest"), parent["kind"] == "run"


def parent_path(path: Path, relative: str) -> Path:
    """Return the path of a parent that a manifest names relative to its run.

    A run that is reached through a link names its parents from where it is really stored. A run that was
    moved there later, and left a link, still has them beside the link.
    """
    stored = Path(os.path.normpath(Path(path).resolve() / relative))
    beside = Path(os.path.normpath(Path(path).absolute() / relative))
    is_same = beside.exists() and (not stored.exists() or beside.samefile(stored))
    return beside if is_same else stored


def _link(path: Path) -> tuple[Link, list[Path]]:
    """Check one run of the chain; return it with its parents that are runs."""
    if not is_run(path):
        problem = "is not a run directory" if path.exists() else "is missing"
        return Link(path, None, 0, [problem]), []
    manifest = files.read_json(path / MANIFEST)
    if not is_sealed(path):
        return Link(path, manifest.get("stage"), 0, ["is not sealed (it has no lock.json)"]), []
    problems, ancestors = changes(path), []
    try:
        for key, parent, recorded, parent_is_run in parents(path):
            if parent_is_run:
                ancestors.append(parent)
                if is_sealed(parent) and files.sha256_file(parent / LOCK) != recorded:
                    problems.append(f"{key}: its parent {parent.name} was sealed again since")
            elif not parent.is_dir():
                problems.append(f"{key}: the folder {parent} is missing")
            elif folder_digest(parent) != recorded:
                problems.append(f"{key}: the folder {parent} changed since")
    except (RunError, KeyError, TypeError, AttributeError):
        problems.append(f"{MANIFEST}: does not name the parents")
    return Link(path, manifest.get("stage"), len(_read(path)[0].get("files", {})), problems), ancestors


def chain(path: Path) -> list[Link]:
    """Rehash a run and all its ancestors, ancestors first, each run once."""
    done: dict[Path, Link] = {}
    started: set[Path] = set()

    def visit(run: Path) -> None:
        if run.resolve() in started:
            return
        started.add(run.resolve())
        link, ancestors = _link(run)
        for ancestor in ancestors:
            visit(ancestor)
        done[run] = link

    visit(Path(os.path.abspath(path)))
    return list(done.values())


def verify(path: Path) -> list[str]:
    """Rehash the whole chain; return what differs, each `run: file: what`."""
    return [f"{link.path}: {problem}" for link in chain(path) for problem in link.problems]


def folder_digest(path: Path) -> str:
    """Return the SHA-256 over names and bytes of all files in a folder that is not a run."""
    hashes = files.hash_files(path, files.list_files(path))
    return files.sha256("".join(f"{entry['sha256']}  {name}\n" for name, entry in hashes.items()))
