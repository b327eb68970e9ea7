"""What a result depends on besides its inputs: versions, code, machine. No torch import: starting is fast."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import toolkit
from toolkit.runs import files

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "trl",
    "peft",
    "datasets",
    "safetensors",
    "numpy",
    "pydantic",
)


def rank() -> int:
    """Return this process's number among all, from the launcher's RANK."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes, from the launcher's WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Return the number of processes on this machine, from the launcher's LOCAL_WORLD_SIZE."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


@cache
def versions() -> dict[str, str | None]:
    """Return the version of each package that can change a result; None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _git(root: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, timeout=30, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def code() -> dict[str, Any]:
    """Return the git commit and the digest of what differs from it, or the package's version.

    The checkout counts only if it tracks this package: a virtual environment may lie in another repository.
    """
    package = Path(toolkit.__file__).parent
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None:
        commit = _git(package, "rev-parse", "--verify", "HEAD")
        if commit is not None:
            return {"commit": commit.decode().strip(), "diff": _difference(package)}
    try:
        return {"version": metadata.version("toolkit")}
    except metadata.PackageNotFoundError:
        return {"version": None}


def _difference(package: Path) -> str | None:
    """Digest of the package's uncommitted changes, new files included; None where there are none."""
    changed = _git(package, "diff", "HEAD", "--", ".") or b""
    new = _git(package, "ls-files", "--others", "--exclude-standard", "-z", "--", ".") or b""
    for name in sorted(filter(None, new.decode().split("\0"))):
        changed += f"\0{name}\0{files.sha256_file(package / name)}".encode()
    return files.sha256(changed) if changed else None


@cache
def processor() -> dict[str, Any]:
    """Return the CPU's name, its flags that decide about bf16, and the cores that this process may use."""
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


def default_threads(setting: int | None) -> int:
    """Return a recipe's `threads`, or the cores divided by the processes on this machine."""
    return setting or max(1, cores() // local_world_size())


def collect() -> dict[str, Any]:
    """Return versions, python, code, hardware and world size; accelerators are added when torch is loaded."""
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "code": code(),
        "hardware": {"system": f"{platform.system()} {platform.machine()}", "processor": processor()},
        "world_size": world_size(),
    }
