"""The processor of this machine and the cores that this process may use. No torch import."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.base.ranks import local_world_size

_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Devices of NVIDIA's driver, of AMD's, and of both below Windows."""


@cache
def processor() -> dict[str, Any]:
    """Return the CPU's name, its bf16 flags, and the number of cores that this process may use."""
    name, flags = platform.processor() or platform.machine(), set()
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
                break
    # avx512_bf16 and amx_bf16 are x86's, bf16 is ARM's.
    return {"name": name, "bf16": sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"}), "cores": cores()}


def cores() -> int:
    """Return the cores that this process may run on (the affinity mask, not the machine's)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_gpu() -> bool:
    """Return whether this machine has the driver of a GPU, NVIDIA's or AMD's, that the process may use."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
    return not hidden and any(map(os.path.exists, _GPU_DRIVERS))


def default_threads(setting: int | None) -> int:
    """Return a recipe's `threads`, or the cores divided by the processes on this machine."""
    return setting or max(1, cores() // local_world_size())
