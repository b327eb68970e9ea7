"""The rank of this process and the number of processes, from the launcher's environment variables."""

from __future__ import annotations

import os


def rank() -> int:
    """Return the rank of this process, from the launcher's RANK."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes, from the launcher's WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Return the number of processes on this machine, from the launcher's LOCAL_WORLD_SIZE."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
