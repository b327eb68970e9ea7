"""Count, and interrupt, the changes that this process makes to the disk: for tests and `benchmarks/chaos.py`.

Python's own calls are counted. What a library writes in C++ or Rust is not, but the folder that it writes to
is made, synced and renamed by Python.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.base import files

SAVES = ("/checkpoints", "/.trainer", "/.scratch", "/steps/", "journal.json")
"""Parts of the paths of files from which an interrupted run resumes."""
_CALLS = ("fsync", "rename", "replace", "unlink", "rmdir", "truncate", "mkdir")
_GROWING = {"fsync", "rename", "replace", "mkdir", "open", "write"}
"""Changes that fail on a full disk."""


@dataclass
class Changes:
    """Numbers of changes so far: all, those of `SAVES`, and those below `below` that need room.

    Args:
        below: the folder whose changes that need room are counted.
    """

    below: str = "/"
    all: int = 0
    saves: int = 0
    growing: int = 0

    def count(self, name: str, path: str) -> None:
        """Count the change before it is made."""
        self.all += 1
        self.saves += any(part in path for part in SAVES)
        self.growing += name in _GROWING and path.startswith(self.below)


def kill_at(number: int, kind: str = "all") -> None:
    """Kill this process before its `number`th change (from 0) of `kind`: a field of `Changes`."""
    changes = Changes()

    def before(name: str, path: str) -> None:
        seen = getattr(changes, kind)
        changes.count(name, path)
        if getattr(changes, kind) > max(seen, number):
            os.kill(os.getpid(), signal.SIGKILL)

    watch(before)


def full_at(number: int, below: Path) -> None:
    """Let every change below a folder that needs room fail from the `number`th (from 0) on: ENOSPC."""
    changes = Changes(below=str(below))

    def before(name: str, path: str) -> None:
        seen = changes.growing
        changes.count(name, path)
        if changes.growing > max(seen, number):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    watch(before)


def watch(before: Callable[[str, str], None]) -> None:
    """Call `before(name, path)` before each change of the disk, and once more after half of each write."""
    plain_open, hash_files = io.open, files.hash_files

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            before(name, _path(arguments[0]))
            return function(*arguments, **options)

        return call

    for name in _CALLS:
        setattr(os, name, watched(name, getattr(os, name)))
    files.hash_files = watched("hash", hash_files)

    def open_watched(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        path = _path(file)
        if isinstance(file, int) or path == os.devnull or not set(mode) & set("wax+"):
            return plain_open(file, mode, *arguments, **options)
        before("open", path)
        return _Halves(plain_open(file, mode, *arguments, **options), lambda: before("write", path))

    builtins.open = io.open = open_watched  # type: ignore[assignment]


def _path(file: Any) -> str:
    if isinstance(file, int):
        try:
            return str(Path(f"/proc/self/fd/{file}").readlink())
        except OSError:
            return ""
    return os.path.abspath(os.fsdecode(file))


class _Halves:
    """A file whose writes can be interrupted halfway."""

    def __init__(self, handle: Any, step: Callable[[], None]):
        self._handle, self._step = handle, step

    def write(self, content: Any) -> int:
        self._step()
        half = len(content) // 2
        self._handle.write(content[:half])
        self._handle.flush()
        self._step()
        self._handle.write(content[half:])
        return len(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def __iter__(self) -> Any:
        return iter(self._handle)

    def __enter__(self) -> _Halves:
        return self

    def __exit__(self, *error: object) -> None:
        self._handle.close()
