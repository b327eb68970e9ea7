"""The OS lock of a run directory: held while the run is in use, released when the process ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
from pathlib import Path

from toolkit.base.errors import RunError
from toolkit.runs import layout


class RunLock:
    """A lock on `.in-use` of a run directory, until `release` or the end of the process.

    `fcntl.flock` belongs to the open file, which a forked worker would inherit and keep open after this
    process has ended, so the child of a fork closes its copy immediately.
    """

    def __init__(self, descriptor: int):
        self._descriptor: int | None = descriptor
        os.register_at_fork(after_in_child=self._close)

    def release(self) -> None:
        """Let others use the run; calling it again does nothing."""
        if self._descriptor is not None:
            # A child that was just forked may not have closed its copy yet, so closing is not enough.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def hold(path: Path) -> RunLock:
    """Lock a run directory exclusively for this process.

    Raises:
        RunError: another process holds the lock; the message names it.
    """
    descriptor = os.open(path / layout.IN_USE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    _lock(descriptor, fcntl.LOCK_EX, path)
    note = {"pid": os.getpid(), "host": socket.gethostname(), "command": " ".join(sys.argv)[:200]}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(note).encode(), 0)
    return RunLock(descriptor)


def share(path: Path) -> RunLock | None:
    """Lock a parent against being started over while it is read; return None if it has no lock file.

    Raises:
        RunError: the parent is being written now.
    """
    try:
        descriptor = os.open(path / layout.IN_USE, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None  # copied without its hidden files: no process can hold this lock
    _lock(descriptor, fcntl.LOCK_SH, path)
    return RunLock(descriptor)


def _lock(descriptor: int, kind: int, path: Path) -> None:
    """Lock the open lock file of a run without waiting; close it if that fails."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(descriptor)
        os.close(descriptor)
        raise RunError(
            f"the run is in use by {holder}", where=str(path), fix="wait until that process ends, or end it"
        ) from None
    except BaseException:
        os.close(descriptor)
        raise


def _holder(descriptor: int) -> str:
    try:
        note = json.loads(os.pread(descriptor, 1000, 0))
        if note["host"] == socket.gethostname() and not _runs(int(note["pid"])):
            return "a process that reads it"  # which leaves no note; the note is of an earlier process
        return f"process {note['pid']} on {note['host']} ({note['command']})"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
