"""lock.json: what came out of a run; written last, atomically. Only a run that has one is finished."""

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
# Not outputs: the lock itself, the manifest (it has a digest of its own), the file that holds the OS lock.
_APART = {LOCK, MANIFEST, IN_USE}


@dataclass(frozen=True)
class Link:
    """One run of a chain: how many files it sealed and what is wrong with it now."""

    path: Path
    stage: str | None
    files: int
    problems: list[str] = field(default_factory=list)


def is_run(path: Path) -> bool:
    """Say whether `path` is a run directory of this toolkit, finished or not.

    Many programs write a manifest.json: only one that carries our format counts.
    """
    try:
        manifest = files.read_json(Path(path) / MANIFEST)
    except RunError:
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def run_of(path: Path) -> Path | None:
    """Return the run directory that `path` is or lies in; None where there is none."""
    path = Path(os.path.abspath(path))
    return next((place for place in (path, *path.parents) if is_run(place)), None)


def is_sealed(path: Path) -> bool:
    """Say whether the run at `path` finished. Whether its bytes are still the same: see `changes`."""
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
            fix="give its `toolkit run` command again: it goes on where it stopped",
        )


def outputs(path: Path) -> list[str]:
    """Return the names of the files that a lock covers (relative, sorted)."""
    names = files.list_files(path)
    return [name for name in names if name not in _APART and not name.startswith(f"{SCRATCH}/")]


def seal(path: Path) -> str:
    """Hash every output of a run and write lock.json last. Returns the lock's digest.

    Every output is on the disk before the lock is: after a power cut there is no lock without its bytes.

    Raises:
        RunError: an output is a link, which would not survive a copy of the directory.
    """
    files.remove_temporaries(path)
    names = outputs(path)
    for name in names:
        if (path / name).is_symlink():
            raise RunError(
                "an output is a link, and a run must hold its own bytes",
                where=str(path / name),
                fix="write a copy instead",
            )
    files.sync_tree(path)
    lock = {
        "format": FORMAT,
        "sealed": datetime.now(UTC).isoformat(timespec="seconds"),
        "manifest": files.sha256_file(path / MANIFEST),
        "files": files.hash_files(path, names),
    }
    files.write_json(path / LOCK, lock)
    shutil.rmtree(path / SCRATCH, ignore_errors=True)  # not before: a run that was killed here goes on
    return digest(path)


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return (lock, problems); a lock that cannot be read gives an empty one."""
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
    there, sealed = set(outputs(path)), lock["files"]
    problems += [f"{name}: missing" for name in sorted(sealed.keys() - there)]
    problems += [f"{name}: was added after the run was sealed" for name in sorted(there - sealed.keys())]
    links = {name for name in there if (path / name).is_symlink()}
    problems += [f"{name}: is a link now" for name in sorted(links & sealed.keys())]
    for name, now in files.hash_files(path, (there & sealed.keys()) - links).items():
        if not isinstance(sealed[name], dict) or now["sha256"] != sealed[name].get("sha256"):
            problems.append(f"{name}: changed since the run was sealed")
    return problems


def require_unchanged(path: Path) -> str:
    """Rehash a sealed run; return its lock digest. Raises RunError that names the files that differ."""
    lock_digest = digest(path)
    problems = changes(path)
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise RunError(
            f"the run is not what was sealed: {shown}",
            where=str(path),
            fix="put the bytes back, or make the run again with --fresh",
        )
    return lock_digest


def parents(path: Path) -> Iterator[tuple[str, Path, str | None, bool]]:
    """Yield (key, path, recorded digest, is it a run) of the parents that a manifest names."""
    manifest = files.read_json(Path(path) / MANIFEST)
    for key, parent in manifest["inputs"]["parents"].items():
        if "path" in parent:
            place = Path(os.path.normpath(Path(path).absolute() / parent["path"]))
            yield key, place, parent.get("digest"), parent["kind"] == "run"


def _link(path: Path) -> tuple[Link, list[Path]]:
    """Check one run of the chain; returns it with its parents that are runs."""
    if not is_run(path):
        what = "is not a run directory" if path.exists() else "is missing"
        return Link(path, None, 0, [what]), []
    manifest = files.read_json(path / MANIFEST)
    if not is_sealed(path):
        return Link(path, manifest.get("stage"), 0, ["is not sealed (it has no lock.json)"]), []
    problems, ancestors = changes(path), []
    try:
        for key, place, recorded, parent_is_run in parents(path):
            if parent_is_run:
                ancestors.append(place)
                if is_sealed(place) and files.sha256_file(place / LOCK) != recorded:
                    problems.append(f"{key}: its parent {place.name} was sealed again since")
            elif not place.is_dir():
                problems.append(f"{key}: the folder {place} is missing")
            elif folder_digest(place) != recorded:
                problems.append(f"{key}: the folder {place} changed since")
    except (RunError, KeyError, TypeError, AttributeError):
        problems.append(f"{MANIFEST}: does not name the parents")
    return Link(path, manifest.get("stage"), len(_read(path)[0].get("files", {})), problems), ancestors


def chain(path: Path) -> list[Link]:
    """Rehash a run and all runs that it came from, ancestors first; each run once."""
    done: dict[Path, Link] = {}
    started: set[Path] = set()

    def visit(place: Path) -> None:
        if place in started:
            return
        started.add(place)
        link, ancestors = _link(place)
        for ancestor in ancestors:
            visit(ancestor)
        done[place] = link

    visit(Path(os.path.abspath(path)))
    return list(done.values())


def verify(path: Path) -> list[str]:
    """Rehash the whole chain; return what differs, each `run: file: what`."""
    return [f"{link.path}: {problem}" for link in chain(path) for problem in link.problems]


def folder_digest(path: Path) -> str:
    """SHA-256 over names and bytes of all files in a folder that is no run."""
    hashes = files.hash_files(path, files.list_files(path))
    return files.sha256("".join(f"{entry['sha256']}  {name}\n" for name, entry in hashes.items()))
