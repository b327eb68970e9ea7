"""Checkpoints that are whole or not there: written aside, sealed, renamed; older ones deleted only after."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.runs.layout import CHECKPOINT_SEAL

if TYPE_CHECKING:
    from toolkit.runs.run import Run

_NAME = re.compile(r"(?:step|checkpoint)-(\d+)")


def seal_folder(path: Path) -> None:
    """Seal a folder that someone else wrote (transformers.Trainer): fsync, hash, write seal.json last."""
    path = Path(path)
    files.remove_temporaries(path)
    (path / CHECKPOINT_SEAL).unlink(missing_ok=True)
    files.sync_tree(path)
    files.write_json(path / CHECKPOINT_SEAL, {"files": files.hash_files(path, files.list_files(path))})
    files.sync(path.parent)


def problems(path: Path) -> list[str]:
    """Rehash a checkpoint and return what differs from its seal, each `file: what`."""
    path = Path(path)
    try:
        sealed = files.read_json(path / CHECKPOINT_SEAL)["files"]
        there = set(files.list_files(path)) - {CHECKPOINT_SEAL}
        wrong = [f"{name}: missing" for name in sorted(sealed.keys() - there)]
        wrong += [f"{name}: was added" for name in sorted(there - sealed.keys())]
        for name, now in files.hash_files(path, there & sealed.keys()).items():
            if now["sha256"] != sealed[name]["sha256"]:
                wrong.append(f"{name}: changed")
        return wrong
    except RunError as error:
        return [f"{CHECKPOINT_SEAL}: {error.what}"]
    except (KeyError, TypeError, AttributeError):
        return [f"{CHECKPOINT_SEAL}: is not a seal"]
    except OSError as error:
        return [str(error)]


def is_whole(path: Path) -> bool:
    """Say whether a folder has a seal and every byte is as it was sealed."""
    return Path(path).is_dir() and not problems(path)


def steps(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of the folders named step-N or checkpoint-N, oldest first; whole or not."""
    found = []
    if folder.is_dir():
        for entry in folder.iterdir():
            match = _NAME.fullmatch(entry.name)
            if match and entry.is_dir() and not entry.is_symlink():
                found.append((int(match.group(1)), entry))
    return sorted(found)


def save(run: Run, step: int, write: Callable[[Path], None], keep: int, *, every: int | None = None) -> Path:
    """Write checkpoints/step-N: `write(folder)` fills a temporary folder, which is sealed and renamed.

    Only the main process writes; on the others this returns the path at once. Older checkpoints are deleted
    after the new one is on the disk, see `prune`. A whole checkpoint of the same step stays.
    """
    path = run.checkpoints / f"step-{step:08d}"
    if not run.is_main:
        return path
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    if not is_whole(path):
        run.checkpoints.mkdir(exist_ok=True)
        with files.atomic_folder(path) as temporary:
            write(temporary)
            seal_folder(temporary)
    run.note_progress()
    prune(run.checkpoints, step=step, keep=keep, every=every)
    return path


def prune(folder: Path, *, step: int, keep: int, every: int | None = None) -> None:
    """Delete all but the newest `keep` up to `step`, and each whose step is a multiple of `every`.

    Called once `step` is whole. A folder of a later step was skipped as broken when the run went on, or it
    would have been taken.
    """
    everything = steps(folder)
    kept = [path for number, path in everything if number <= step][-keep:]
    if every:
        kept += [path for number, path in everything if number <= step and number % every == 0]
    for _, path in everything:
        if path not in kept:
            files.remove(path)


def latest(run: Run) -> tuple[int, Path] | None:
    """Return (step, path) of the newest checkpoint whose seal verifies, or None.

    Broken or changed ones are skipped with a word on stderr; leftovers of a kill are removed.
    """
    if run.is_main:
        files.remove_temporaries(run.checkpoints)
    for step, path in reversed(steps(run.checkpoints)):
        wrong = problems(path)
        if not wrong:
            return step, path
        if run.is_main:
            print(f"{path}: not used, it is not what was sealed ({'; '.join(wrong[:3])})", file=sys.stderr)
    return None
