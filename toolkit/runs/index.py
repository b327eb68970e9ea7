"""The runs below a folder, and the files of them that may be removed.

What may be removed:

* Of a sealed run nothing that its lock.json lists, and that is every checkpoint: `verify`, the recipe's own
  `toolkit run`, and every run that was made from it would report the missing files. Only a scratch folder
  that a kill left behind is not listed.
* An unfinished run continues from its newest whole checkpoint, which stays. So do the checkpoints that an
  incident names, and all whole ones where the recipe asks to keep some (`keep_every_tokens`). Older ones,
  broken ones and half-written files may go. Without a whole checkpoint all checkpoints stay.
* Of a run in use nothing: its process removes what it does not need.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.runs import checkpoint, layout, run_lock, seal

State = Literal["new", "unfinished", "sealed"]


@dataclass(frozen=True)
class RunEntry:
    """One run of a list.

    Attributes:
        path: its directory.
        reference: the path below the folder that was listed, such as `tiny/dpo`.
        stage: the stage of its recipe.
        state: `sealed` (finished) or `unfinished`.
        bytes: size of its files.
        changed: when it was sealed, or when it last wrote metrics or its manifest.
        seconds: working time over all attempts.
    """

    path: Path
    reference: str
    stage: str
    state: State
    bytes: int
    changed: datetime
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the entry as a JSON object."""
        return {
            "reference": self.reference,
            "path": str(self.path),
            "stage": self.stage,
            "state": self.state,
            "bytes": self.bytes,
            "changed": self.changed.isoformat(timespec="seconds"),
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Removable:
    """A file or folder that is no longer needed.

    Attributes:
        run: the directory of its run.
        path: what would be removed.
        bytes: its size.
        reason: why it is no longer needed.
    """

    run: Path
    path: Path
    bytes: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"path": str(self.path), "bytes": self.bytes, "reason": self.reason}


def state_of(path: Path) -> State:
    """Return whether the run at `path` is `new` (there is none yet), `unfinished` or `sealed`."""
    if seal.is_sealed(path):
        return "sealed"
    return "unfinished" if seal.is_run(path) else "new"


def run_directories(folder: Path, *, is_run: Callable[[Path], bool] = seal.is_run) -> Iterator[Path]:
    """Yield every run directory at or below a folder, sorted; links to folders are not followed.

    Args:
        is_run: whether a folder with a manifest is a run.
    """
    for parent, directories, names in os.walk(folder):
        if layout.MANIFEST in names and is_run(Path(parent)):
            directories.clear()  # a run contains no other run
            yield Path(parent)
        directories[:] = sorted(name for name in directories if not name.startswith("."))


def list_runs(folder: Path, *, stage: str | None = None) -> list[RunEntry]:
    """Return the runs at or below a folder by reference, of one stage or of all.

    Raises:
        RunError: the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError("there is no such folder", where=str(folder), fix="name a folder with runs")
    entries = [entry_of(path, folder) for path in run_directories(folder)]
    return [entry for entry in entries if stage in (None, entry.stage)]


def entry_of(path: Path, folder: Path) -> RunEntry:
    """Return the entry of the run at `path` in a list of the runs below `folder`.

    Raises:
        RunError: its manifest cannot be read.
    """
    manifest = files.read_json(path / layout.MANIFEST)
    inside = path.relative_to(folder).as_posix()
    return RunEntry(
        path=path,
        reference=manifest.get("name", path.name) if inside == "." else inside,
        stage=manifest.get("stage", "unknown"),
        state=state_of(path),
        bytes=_bytes(path),
        changed=_changed(path),
        seconds=_seconds(path),
    )


def _changed(path: Path) -> datetime:
    try:
        return datetime.fromisoformat(files.read_json(path / layout.LOCK)["sealed"])
    except (RunError, KeyError, TypeError, ValueError):
        names = (layout.MANIFEST, layout.TIMING, layout.METRICS)
        times = [(path / name).stat().st_mtime for name in names if (path / name).exists()]
        return datetime.fromtimestamp(max(times), UTC)


def _seconds(path: Path) -> float | None:
    try:
        return float(files.read_json(path / layout.TIMING)["seconds"])
    except (RunError, KeyError, TypeError, ValueError):
        return None


def _bytes(path: Path) -> int:
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    return sum((path / name).lstat().st_size for name in files.list_files(path))


def removable(path: Path) -> list[Removable]:
    """Return what may be removed of the run at `path`, see the head of this module; removes nothing.

    Checkpoints of an unfinished run are hashed, to find the newest whole one.

    Raises:
        RunError: the run is in use.
    """
    with _locked_items(path) as items:
        return items


def remove(path: Path) -> list[Removable]:
    """Remove what `removable` returns, and return it.

    Raises:
        RunError: the run is in use.
    """
    with _locked_items(path) as items:
        for item in items:
            files.remove(item.path)
        return items


@contextmanager
def _locked_items(path: Path) -> Iterator[list[Removable]]:
    """Hold the lock of a run and yield what may be removed of it.

    The lock file of a sealed run without a scratch folder is not touched.
    """
    if seal.is_sealed(path) and not (path / layout.SCRATCH).is_dir():
        yield []
        return
    lock = run_lock.hold(path)
    try:
        yield _removable(path)
    finally:
        lock.release()


def _removable(path: Path) -> list[Removable]:
    if seal.is_sealed(path):
        return [_item(path, path / layout.SCRATCH, "left by a stage that was killed after it sealed its run")]
    reasons = dict.fromkeys(_temporaries(path), "half-written by a process that was killed")
    checkpoints = checkpoint.steps(path / layout.CHECKPOINTS)
    newest = next((step for step, folder in reversed(checkpoints) if _is_whole(folder)), None)
    if newest is None:
        return [_item(path, item, reason) for item, reason in reasons.items()]
    kept = _named_by_incidents(path)
    keeps_older = _keeps_older(path)
    for step, folder in checkpoints:
        if folder.resolve() in kept or step == newest:
            continue
        if step > newest:
            reasons[folder] = f"incomplete or changed; the run continues from step {newest}"
        elif not keeps_older:
            reasons[folder] = f"the run continues from step {newest}"
    return [_item(path, item, reason) for item, reason in reasons.items()]


def _is_whole(folder: Path) -> bool:
    """Say whether a checkpoint is whole once half-written files are removed, as they are on resume."""
    names = [problem.partition(":")[0] for problem in checkpoint.problems(folder)]
    return all(files.is_temporary(Path(name).name) for name in names)


def _item(run: Path, path: Path, reason: str) -> Removable:
    return Removable(run, path, _bytes(path), reason)


def _temporaries(path: Path) -> list[Path]:
    """Return the files that killed writers left in a run, without files inside other results."""
    leftovers = []
    for parent, directories, names in os.walk(path):
        leftovers += [Path(parent, name) for name in (*directories, *names) if files.is_temporary(name)]
        directories[:] = [name for name in directories if not files.is_temporary(name)]
    return sorted(leftovers)


def _named_by_incidents(path: Path) -> set[Path]:
    """Return the checkpoints from which incidents of a pretraining are replayed."""
    named = set()
    for file in path.glob(f"{layout.INCIDENTS}/*/incident.json"):
        reference = files.read_json(file).get("checkpoint")
        if reference:
            named.add((file.parent / reference).resolve())
    return named


def _keeps_older(path: Path) -> bool:
    """Say whether the recipe asks to keep some of the older checkpoints for good."""
    operational = files.read_json(path / layout.MANIFEST).get("operational", {})
    return operational.get("keep_every_tokens") is not None
