"""The host memory that is available to this process; no torch import."""

from __future__ import annotations

import re
import resource
from pathlib import Path


def available_memory() -> int:
    """Return the bytes of host memory that this process has or can still allocate, by the tightest limit."""
    own = process_memory("VmRSS")
    limits = []
    free = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    if free:
        limits.append(own + int(free[1]) * 1024)
    maximum = _read("/sys/fs/cgroup/memory.max").strip()
    current = _read("/sys/fs/cgroup/memory.current").strip()
    if maximum.isdigit() and current.isdigit():
        limits.append(own + max(0, int(maximum) - int(current)))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(own + max(0, soft - process_memory("VmSize")))
    return min(limits, default=2**62)


def process_memory(field: str) -> int:
    """Return a memory field of /proc/self/status in bytes, such as VmRSS; 0 where there is none."""
    match = re.search(rf"{field}:\s+(\d+) kB", _read("/proc/self/status"))
    return int(match[1]) * 1024 if match else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
