"""The rank of this process and the number of processes, from the launcher's environment variables."""

from __future__ import annotations

import os

from toolkit.base.errors import ToolkitError

_TOGETHER = ("RANK", "WORLD_SIZE")
"""What every launcher sets; the others of `_SMALLEST` come with them."""
_SMALLEST = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": 0}
_FIX = "start with torchrun or accelerate launch, or unset {}"


def rank() -> int:
    """Return the rank of this process, from the launcher's RANK."""
    return _number("RANK", "0")


def world_size() -> int:
    """Return the number of processes, from the launcher's WORLD_SIZE."""
    return _number("WORLD_SIZE", "1")


def local_rank() -> int:
    """Return the rank of this process on this machine, from the launcher's LOCAL_RANK."""
    return _number("LOCAL_RANK", "0")


def local_world_size() -> int:
    """Return the number of processes on this machine, from the launcher's LOCAL_WORLD_SIZE."""
    return _number("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))


def prints() -> bool:
    """Return whether this process prints for all; also one whose RANK means nothing does."""
    return os.environ.get("RANK", "0") == "0" or not os.environ["RANK"].strip().isdigit()


def require_launch() -> None:
    """Refuse variables of a launcher that are left over, contradict each other or are no numbers.

    Libraries would wait for processes that nobody starts, or take a GPU that another process uses.

    Raises:
        ToolkitError: names the variable.
    """
    present = [name for name in _SMALLEST if name in os.environ]
    for name in present:
        _number(name)
    needing = [name for name in present if name != "MASTER_PORT"]
    missing = [name for name in _TOGETHER if name not in os.environ]
    if needing and missing:
        raise _error(f"{needing[0]} is set without {missing[0]}: no launcher started this process", needing)
    if rank() >= world_size():
        raise _error(f"RANK is {rank()}, but WORLD_SIZE is {world_size()}", _TOGETHER)
    if local_rank() >= local_world_size():
        raise _error(
            f"LOCAL_RANK is {local_rank()}, but LOCAL_WORLD_SIZE is {local_world_size()}",
            ("LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        )
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if world_size() > 1 and not os.environ.get(name):
            raise _error(f"WORLD_SIZE is set without {name}: no launcher started this process", needing)


def _number(name: str, default: str = "0") -> int:
    text = os.environ.get(name, default).strip()
    if not text.isdigit() or int(text) < _SMALLEST[name]:
        kind = "positive" if _SMALLEST[name] else "non-negative"
        raise _error(f"{name} must be a {kind} integer, not {text!r}", (name,))
    return int(text)


def _error(what: str, names: tuple[str, ...] | list[str]) -> ToolkitError:
    return ToolkitError(what, where="environment", fix=_FIX.format(" ".join(names)))
