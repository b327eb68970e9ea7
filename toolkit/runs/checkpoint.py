"""Atomic checkpoints: written to a temporary folder, sealed, renamed; older ones are deleted afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.base import files
from toolkit.base.console import tell
from toolkit.base.errors import RunError
from toolkit.runs.layout import CHECKPOINT_SEAL, METRICS, STEPS
from toolkit.runs.run import Run

_NAME = re.compile(r"(?:step|checkpoint)-(\d+)")


_LOGS = (METRICS, STEPS)
"""Files of a run that a checkpoint relies on: a resumed run appends to their lines up to its step."""


def seal_folder(path: Path, *, logs: dict[str, Any] | None = None) -> None:
    """Seal a checkpoint folder: sync its files to the disk, hash them, and write seal.json last.

    Every checkpoint is sealed this way, including those that transformers.Trainer wrote.

    Args:
        logs: what `_logs` returns.
    """
    path = Path(path)
    files.remove_temporaries(path)
    (path / CHECKPOINT_SEAL).unlink(missing_ok=True)
    files.sync_tree(path)
    content = {"files": files.hash_files(path, files.list_files(path))}
    files.write_json(path / CHECKPOINT_SEAL, content | ({"logs": logs} if logs else {}))
    files.sync(path.parent)


def _logs(run: Path, step: int) -> dict[str, Any]:
    """Return {name: {"bytes", "sha256"}} of the lines up to `step` of the run's logs."""
    recorded = {}
    for name in _LOGS:
        if (run / name).exists():
            content = (run / name).read_bytes()
            end = content.rfind(b"\n") + 1
            while end:  # from the end: a log may have a million lines
                begin = content.rfind(b"\n", 0, end - 1) + 1
                if json.loads(content[begin:end])["step"] <= step:
                    break
                end = begin
            recorded[name] = {"bytes": end, "sha256": files.sha256(content[:end])}
    return recorded


def _require_logs(run: Path, path: Path) -> None:
    """Refuse to append to a log whose lines changed since the checkpoint `path` was sealed.

    A log that was deleted begins anew: that is for the user to decide.

    Raises:
        RunError: names the log.
    """
    for name, sealed in files.read_json(path / CHECKPOINT_SEAL).get("logs", {}).items():
        if not (run / name).exists():
            continue
        with (run / name).open("rb") as handle:
            content = handle.read(sealed["bytes"])
        if files.sha256(content) != sealed["sha256"]:
            raise RunError(
                f"was changed since the checkpoint {path.name} was saved",
                where=str(run / name),
                fix="restore the file, or delete it (the log then begins at this step), or start over with "
                "--fresh",
            )


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
            seal_folder(temporary, logs=_logs(run.path, step))
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

    Damaged ones are skipped with a message on stderr, and older ones that are damaged are deleted: the run
    would seal them. Temporary files of a killed process are removed.

    Raises:
        RunError: a log changed since the checkpoint was saved; main process only.
    """
    if run.is_main:
        files.remove_temporaries(run.checkpoints)
    newest: tuple[int, Path] | None = None
    for step, path in reversed(steps(run.checkpoints)):
        differing = [] if newest and not run.is_main else problems(path)
        if newest is None and not differing:
            newest = step, path
        elif differing and run.is_main:
            shown = "; ".join(differing[:3])
            what = "deleted" if newest else "not used"
            tell(f"{path}: {what}, because it changed since it was sealed ({shown})")
            if newest:
                files.remove(path)
    if newest and run.is_main:
        _require_logs(run.path, newest[1])
    return newest
