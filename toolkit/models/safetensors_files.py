"""The safetensors files of a checkpoint, read without torch: which there are, and what their headers say."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from toolkit.base.errors import ToolkitError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_HEADER_BYTES = 8
_LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file: its dtype by its name in safetensors, its shape, and its size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def numbers(self) -> int:
        """The product of the shape."""
        return math.prod(self.shape)


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a model's weights: one, or those of the index; empty if there are none.

    Raises:
        ToolkitError: the index is damaged, or a file that it names is missing.
    """
    if not (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file():
        return []
    files = named_files(folder)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ToolkitError(
            f"{len(missing)} of its {len(files)} weight files are missing, such as {missing[0]}",
            where=str(folder), fix="copy or download them again",
        )  # fmt: skip
    return files


def named_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights, also if they are not there yet: one, or those of the index.

    Raises:
        ToolkitError: the index is damaged.
    """
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return [folder / WEIGHTS]
    try:
        places = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        names = sorted({*map(str, places.values())})
    except (ValueError, KeyError, TypeError, AttributeError):
        names = []
    if not names:
        raise ToolkitError("has no weight_map", where=str(folder / INDEX), fix="copy the file again")
    return [folder / name for name in names]


def header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by name.

    Raises:
        ToolkitError: the file was cut off, is a pointer of Git LFS, or is not a file of safetensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
        if start and _POINTER.startswith(start):
            raise ToolkitError(
                "is a pointer of Git LFS, not the weights", where=str(path),
                fix="run `git lfs pull` in the folder, or download the file",
            )  # fmt: skip
        length = struct.unpack("<Q", start)[0] if len(start) == _HEADER_BYTES else 0
        content = file.read(length) if 0 < length <= min(size, _LARGEST_HEADER) else b""
    try:
        entries = {name: entry for name, entry in json.loads(content).items() if name[:2] != "__"}
        ends = [entry["data_offsets"][1] for entry in entries.values()]
        expected = _HEADER_BYTES + length + max(ends, default=0)
        tensors = {name: _tensor(entry) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        expected, tensors = None, {}
    if expected is None or size != expected:
        sizes = "" if expected is None else f": {size:,} of {expected:,} bytes"
        raise ToolkitError(
            f"is cut off, or is not a file of safetensors{sizes}", where=str(path),
            fix="copy or download it again",
        )  # fmt: skip
    return tensors


def _tensor(entry: dict) -> StoredTensor:
    begin, end = entry["data_offsets"]
    return StoredTensor(entry["dtype"], tuple(entry["shape"]), end - begin)
