"""What a result depends on besides its inputs: versions, code, machine. Without torch, to start fast."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from toolkit.base import files
from toolkit.base.ranks import world_size
from toolkit.runtime import hardware

PACKAGE_FOLDER = Path(str(resources.files("toolkit")))

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


@cache
def versions() -> dict[str, str | None]:
    """Return the version of each package that can change a result; None where it is not installed."""
    installed: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = None
    return installed


def _git(root: Path, *arguments: str) -> bytes | None:
    try:
        completed = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, timeout=30, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return completed.stdout if completed.returncode == 0 else None


def code() -> dict[str, Any]:
    """Return the git commit and the digest of what differs from it, or the package's version.

    The checkout counts only if it tracks this package: a virtual environment may lie in another repository.
    """
    package = PACKAGE_FOLDER
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None:
        commit = _git(package, "rev-parse", "--verify", "HEAD")
        if commit is not None:
            return {"commit": commit.decode().strip(), "diff": _difference(package)}
    try:
        return {"version": metadata.version("toolkit")}
    except metadata.PackageNotFoundError:
        return {"version": None}


def _difference(package: Path) -> str | None:
    """Return the digest of the package's uncommitted changes, new files included; None without changes."""
    changed = _git(package, "diff", "HEAD", "--", ".") or b""
    new = _git(package, "ls-files", "--others", "--exclude-standard", "-z", "--", ".") or b""
    for name in sorted(filter(None, new.decode().split("\0"))):
        changed += f"\0{name}\0{files.sha256_file(package / name)}".encode()
    return files.sha256(changed) if changed else None


def collect() -> dict[str, Any]:
    """Return versions, python, code, hardware and world size; accelerators are added when torch is loaded."""
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "code": code(),
        "hardware": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": hardware.processor(),
        },
        "world_size": world_size(),
    }
