"""Errors of the operating system as errors that a user can fix: the place, the problem and the fix.

A stage, or a library that it uses, may meet a full disk, a folder that cannot be written to or a link that
leads back to itself at any call, so they are translated in one place: where a command ends.
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.base import files
from toolkit.base.errors import ToolkitError

# A limit on the size of files (ulimit -f) raises EFBIG, which users can handle in the same way.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# safetensors (Rust) and torch.save (C++) drop the errno; their messages contain these words.
_FULL_WORDS = (
    "No space left on device",
    "os error 28",
    "File too large",
    "os error 27",
    "Disk quota exceeded",
    "os error 122",
    "file write failed",
)
_LOOP = re.compile(r"Symlink loop from '(.*)'")
"""What pathlib raises as a RuntimeError."""
_SHARED_MEMORY = re.compile(
    r"unable to (open|allocate|mmap|resize) .*shared memory|out of shared memory", re.I
)
"""What torch raises as a RuntimeError where its worker processes have no shared memory."""
_ANOTHER = "name another place"
_MEANINGS = {
    errno.ENOENT: ("there is no such file or folder", "check the path"),
    errno.EACCES: ("there is no permission to use it", f"change its permissions, or {_ANOTHER}"),
    errno.EPERM: ("there is no permission to do this", f"change its permissions, or {_ANOTHER}"),
    errno.EROFS: ("nothing can be written here: it is read-only", _ANOTHER),
    errno.ENOTDIR: ("is a file, and a folder is needed here", f"move it away, or {_ANOTHER}"),
    errno.EISDIR: ("is a folder, and a file is needed here", _ANOTHER),
    errno.EEXIST: ("exists already", f"move it away, or {_ANOTHER}"),
    errno.ENAMETOOLONG: ("the name is too long for a file", "give a shorter one"),
    errno.ELOOP: ("is a link that leads back to itself", f"delete the link, or {_ANOTHER}"),
    errno.EMFILE: ("this process has too many open files", "raise the limit: ulimit -n 4096"),
    errno.ENFILE: ("this machine has too many open files", "close other programs, or raise its limit"),
    errno.EIO: ("the disk reports an error", "check the disk, or use another one"),
    errno.ESTALE: ("the network disk has lost the file", "give the same command again"),
}
_WITHOUT_PLACE = {errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM}
"""Errors that concern a user although the system does not name a file."""
_SHOWN = 100
_LONGEST_NAME = 255
"""Bytes of one name on the usual file systems."""


def disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, means that the disk is full."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(words in str(error) for words in _FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def full_error(path: Path | str | None) -> ToolkitError:
    """Return the error for a full disk."""
    return ToolkitError(
        "the disk is full",
        where=None if path is None else str(path),
        fix="free some space (or raise the quota) and give the same command again; no partial file was "
        "kept, and an unfinished run resumes from its last checkpoint",
    )


def explained(error: BaseException, where: Path | str | None = None) -> ToolkitError | None:
    """Return the error of a user for one of the operating system; None for another error.

    Args:
        where: the place, if the system does not name one; a full disk is always reported for it.
    """
    if isinstance(error, ToolkitError):
        return None
    if disk_full(error):
        return full_error(where or getattr(error, "filename", None))
    if without_shared_memory(error):
        return ToolkitError(
            "worker processes have no shared memory: /dev/shm is missing, full or read-only",
            where=None if where is None else str(where),
            fix="mount it (docker: --shm-size=1g), or use no worker processes",
        )
    loop = _LOOP.search(str(error)) if isinstance(error, RuntimeError) else None
    if loop:
        return _error(errno.ELOOP, loop[1])
    if not isinstance(error, OSError) or error.errno is None:
        return None
    place = error.filename2 if error.filename2 is not None else error.filename
    if place is None or isinstance(place, int):
        return _error(error.errno, where) if error.errno in _WITHOUT_PLACE else None
    return _error(error.errno, os.fsdecode(place))


def without_shared_memory(error: BaseException) -> bool:
    """Return whether worker processes could not be started or fed because of /dev/shm."""
    if isinstance(
        error, OSError
    ):  # the system names no file: whether it was about a semaphore, the place tells
        frames = traceback.extract_tb(error.__traceback__)
        return bool(frames) and frames[-1].filename.endswith("multiprocessing/synchronize.py")
    return isinstance(error, RuntimeError) and bool(_SHARED_MEMORY.search(str(error)))


def _error(number: int, place: Path | str | None) -> ToolkitError:
    path = None if place is None else Path(place)
    if path is not None:
        if files.is_temporary(path.name):
            path = path.parent
            number = errno.EROFS if number == errno.ENOENT and path.exists() else number
        path = _culprit(number, path)
        number = errno.ENOTDIR if number == errno.EEXIST and path.is_file() else number
    what, fix = _MEANINGS.get(number, (os.strerror(number), "check the place"))
    return ToolkitError(what, where=None if path is None else _short(str(path)), fix=fix)


def _short(path: str) -> str:
    return path if len(path) <= _SHOWN else f"{path[: _SHOWN // 2]}...{path[-_SHOWN // 4 :]}"


def _culprit(number: int, path: Path) -> Path:
    """Return the part of a path at which the system stopped."""
    tests: dict[int, Callable[[Path], bool]] = {
        errno.ENOTDIR: lambda step: step.is_file(),
        errno.ELOOP: lambda step: step.is_symlink() and not step.exists(),
        errno.ENOENT: lambda step: not os.path.lexists(step),
        errno.ENAMETOOLONG: lambda step: len(os.fsencode(step.name)) > _LONGEST_NAME,
    }
    if number not in tests:
        return path
    return next((step for step in (*reversed(path.parents), path) if tests[number](step)), path)


@contextmanager
def explain(where: Path | str | None = None) -> Iterator[None]:
    """Raise the errors of the operating system in the block as errors that a user can fix.

    Args:
        where: as `explained`.

    Raises:
        ToolkitError: an error of the operating system.
    """
    try:
        yield
    except Exception as error:
        told = explained(error, where)
        if told is None:
            raise
        raise told from error


def require_writable(path: Path) -> None:
    """Refuse a folder that could not be created or written to, before the work whose result it is to hold.

    Raises:
        ToolkitError: the folder, or the nearest one above it that exists, is a file or cannot be written to.
    """
    with explain(path):
        existing = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
        if not existing.is_dir():
            existing.stat()  # raises for a link that leads nowhere or to itself
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(existing))
        if not os.access(existing, os.W_OK | os.X_OK):
            number = errno.EROFS if os.statvfs(existing).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(number, os.strerror(number), str(existing))
