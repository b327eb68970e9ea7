"""steps.jsonl: the loss and gradient norm of every single step, exactly, and a digest of what it read.

Numbers are written so that reading them gives the same bits; they are fetched from the device a log line at
a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from toolkit.base import files
from toolkit.runs import layout, metrics

FILE = layout.STEPS


@dataclass(frozen=True)
class Step:
    """One optimizer step: its number (the first is 1), mean loss in nats a token, norm before clipping."""

    step: int
    loss: float
    norm: float
    batch: str
    """Digest of where the step's rows begin in the corpus."""
    skipped: bool = False

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Journal:
    """Collects the steps of a training on the device, and writes them where the main process does.

    Args:
        whole: the losses are already those of all processes together.
    """

    def __init__(self, path: Path, accelerator: Accelerator, *, active: bool, whole: bool = False):
        self.path, self.accelerator, self.active, self.whole = path, accelerator, active, whole
        self._pending: list[tuple[int, Tensor, Tensor, str, bool]] = []
        self._since_line: list[Step] = []

    def add(self, step: int, loss: Tensor, norm: Tensor, batch: str, *, skipped: bool = False) -> None:
        """Note a step; nothing is waited for."""
        self._pending.append((step, loss, norm, batch, skipped))

    def collect(self) -> list[Step]:
        """Fetch what was noted since the last call, append it to the file and return it; on every process."""
        if not self._pending:
            return []
        numbers, losses, norms, batches, skipped = zip(*self._pending, strict=True)
        values = torch.stack([torch.stack(losses).double(), torch.stack(norms).double()])
        if self.accelerator.num_processes > 1 and not self.whole:
            values[0] = self.accelerator.reduce(values[0], reduction="mean")
        both = values.tolist()
        steps = [Step(*row) for row in zip(numbers, *both, batches, skipped, strict=True)]
        self._pending.clear()
        self._since_line += steps
        if self.active:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(_line(step) for step in steps)
        return steps

    def sync(self) -> None:
        """Have the file on the disk before a checkpoint that counts on it."""
        if self.active and self.path.exists():
            files.sync(self.path)

    def line_loss(self) -> float:
        """Return the mean loss of the steps since the last call; skipped ones do not count."""
        losses = [step.loss for step in self._since_line if not step.skipped]
        self._since_line = []
        return sum(losses) / len(losses) if losses else math.nan

    def go_on(self, step: int, *, line: int) -> None:
        """Drop what was written after `step`; the steps after `line` belong to the line that comes next."""
        kept = [row for row in read(self.path) if row.step <= step]
        if self.active and self.path.exists():
            files.write_atomic(self.path, "".join(_line(row) for row in kept))
        self._since_line = [row for row in kept if row.step > line]


def _line(step: Step) -> str:
    row: dict[str, Any] = {"step": step.step, "loss": step.loss, "norm": step.norm, "batch": step.batch}
    row = {key: str(v) if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
    return json.dumps(row | ({"skipped": True} if step.skipped else {})) + "\n"


def read(path: Path) -> list[Step]:
    """Return the steps of a file in order; a last line that was cut off is left out."""
    return [
        Step(row["step"], float(row["loss"]), float(row["norm"]), row["batch"], row.get("skipped", False))
        for row in metrics.read(path)
    ]


def differences(before: Iterable[Step], again: Iterable[Step]) -> list[str]:
    """Return where two accounts of the same steps differ, bit for bit, each `step N: what`."""
    lines = []
    for first, second in zip(before, again, strict=True):
        for name in ("step", "batch", "loss", "norm", "skipped"):
            old, new = getattr(first, name), getattr(second, name)
            if old != new and not (old != old and new != new):
                lines.append(f"step {first.step}: {name} was {old!r} and is {new!r}")
    return lines
