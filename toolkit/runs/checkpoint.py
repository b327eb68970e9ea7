"""Atomic checkpoints: written to a temporary folder, sealed, renamed; older ones are deleted afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from toolkit.base import files
from toolkit.base.console import tell
from toolkit.base.errors import RunError
from toolkit.runs.layout import CHECKPOINT_SEAL
from toolkit.runs.run import Run

_NAME = re.compile(r"(?:step|checkpoint)-(\d+)")


def seal_folder(path: Path) -> None:
    """Seal a checkpoint folder: sync its files to the disk, hash them, and write seal.json last.

    Every checkpoint is sealed this way, including those that transformers.Trainer wrote.
    """
    path = Path(path)
    files.remove_temporaries(path)
    (path / CHECKPOINT_SEAL).unlink(missing_ok=True)
    files.sync_tree(path)
    files.write_json(path / CHECKPOINT_SEAL, {"files": files.hash_files(path, files.list_files(path))})
    files.sync(path.parent)


def problems(path: Path) -> list[str]:
    """Rehash a checkpoint and return what differs from its seal, each `file: problem`."""
    path = Path(path)
    try:
        sealed = files.read_json(path / CHECKPOINT_SEAL)["files"]
        current = set(files.list_files(path)) - {CHECKPOINT_SEAL}
        differing = [f"{name}: missing" for name in sorted(sealed.keys() - current)]
        differing += [f"{name}: was added" for name in sorted(current - sealed.keys())]
        for name, now in files.hash_files(path, current & sealed.keys()).items():
            if now["sha256"] != sealed[name]["sha256"]:
                differing.append(f"{name}: changed")
        return differing
    except RunError as error:
        return [f"{CHECKPOINT_SEAL}: {error.what}"]
    except (KeyError, TypeError, AttributeError):
        return [f"{CHECKPOINT_SEAL}: is not a seal"]
    except OSError as error:
        return [str(error)]


def is_whole(path: Path) -> bool:
    """Return whether a folder has a seal and none of its files changed since."""
    return Path(path).is_dir() and not problems(path)


def steps(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of the folders step-N or checkpoint-N, oldest first, damaged ones included."""
    numbered = []
    if folder.is_dir():
        for entry in folder.iterdir():
            match = _NAME.fullmatch(entry.name)
            if match and entry.is_dir() and not entry.is_symlink():
                numbered.append((int(match.group(1)), entry))
    return sorted(numbered)


def save(run: Run, step: int, write: Callable[[Path], None], keep: int, *, every: int | None = None) -> Path:
    """Write checkpoints/step-N: `write(folder)` fills a temporary folder, which is sealed and renamed.

    Only the main process writes; on the others this returns the path immediately. Older checkpoints are
    deleted after the new one is on the disk, see `prune`. An intact checkpoint of the same step is kept.
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
    """Keep the newest `keep` checkpoints up to `step` and every multiple of `every`; delete the others.

    Call it once the checkpoint of `step` is complete. A checkpoint of a later step is damaged: else the run
    would have resumed from it.
    """
    checkpoints = steps(folder)
    kept = [path for number, path in checkpoints if number <= step][-keep:]
    if every:
        kept += [path for number, path in checkpoints if number <= step and number % every == 0]
    for _, path in checkpoints:
        if path not in kept:
            files.remove(path)


def latest(run: Run) -> tuple[int, Path] | None:
    """Return (step, path) of the newest intact checkpoint, or None.

    Damaged ones are skipped with a message on stderr; temporary files of a killed process are removed.
    """
    if run.is_main:
        files.remove_temporaries(run.checkpoints)
    for step, path in reversed(steps(run.checkpoints)):
        differing = problems(path)
        if not differing:
            return step, path
        if run.is_main:
            shown = "; ".join(differing[:3])
            tell(f"{path}: not used, because it changed since it was sealed ({shown})")
    return None
