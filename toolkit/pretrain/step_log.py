"""steps.jsonl: the exact loss and gradient norm of every step, and a digest of the rows that it read.

Numbers are written so that reading them gives the same bits. They are fetched from the device once for each
line of metrics.jsonl.
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
from toolkit.runtime import devices

FILE = layout.STEPS


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step: its number (from 1), mean loss in nats per token, gradient norm before clipping."""

    step: int
    loss: float
    norm: float
    batch: str
    """Digest of the positions in the corpus at which the step's rows begin."""
    skipped: bool = False

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class StepLog:
    """Collects the steps of a training on the device; the main process writes them.

    Args:
        active: this process writes the file.
        losses_reduced: the losses are already averaged over all processes.
    """

    def __init__(self, path: Path, accelerator: Accelerator, *, active: bool, losses_reduced: bool = False):
        self.path, self.accelerator, self.active = path, accelerator, active
        self.losses_reduced = losses_reduced
        self._pending: list[tuple[int, Tensor, Tensor, str, bool]] = []
        self._since_line: list[StepRecord] = []

    def add(self, step: int, loss: Tensor, norm: Tensor, batch: str, *, skipped: bool = False) -> None:
        """Queue a step without waiting for the device."""
        self._pending.append((step, loss, norm, batch, skipped))

    def flush(self) -> list[StepRecord]:
        """Fetch the queued steps, append them to the file and return them; every process must call it."""
        if not self._pending:
            return []
        numbers, losses, norms, batches, skipped = zip(*self._pending, strict=True)
        dtype = devices.sum_dtype(losses[0].device)
        values = torch.stack([torch.stack(losses).to(dtype), torch.stack(norms).to(dtype)])
        if self.accelerator.num_processes > 1 and not self.losses_reduced:
            values[0] = self.accelerator.reduce(values[0], reduction="mean")
        fields = zip(numbers, *values.tolist(), batches, skipped, strict=True)
        records = [StepRecord(*row) for row in fields]
        self._pending.clear()
        self._since_line += records
        if self.active:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(_line(record) for record in records)
        return records

    def sync(self) -> None:
        """Sync the file to the disk, before a checkpoint that relies on it."""
        if self.active and self.path.exists():
            files.sync(self.path)

    def pop_mean_loss(self) -> float:
        """Return the mean loss of the steps since the last call without skipped ones, or NaN."""
        losses = [record.loss for record in self._since_line if not record.skipped]
        self._since_line = []
        return sum(losses) / len(losses) if losses else math.nan

    def resume(self, step: int, *, last_line: int) -> None:
        """Drop the records after `step`; those after `last_line` count for the next line of metrics.jsonl."""
        kept = [record for record in read(self.path) if record.step <= step]
        if self.active and self.path.exists():
            files.write_atomic(self.path, "".join(_line(record) for record in kept))
        self._since_line = [record for record in kept if record.step > last_line]


def _line(record: StepRecord) -> str:
    row: dict[str, Any] = {
        "step": record.step, "loss": record.loss, "norm": record.norm, "batch": record.batch,
    }  # fmt: skip
    row = {key: str(v) if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
    return json.dumps(row | ({"skipped": True} if record.skipped else {})) + "\n"


def read(path: Path) -> list[StepRecord]:
    """Return the records of a file in order; an incomplete last line is left out."""
    return [
        StepRecord(
            row["step"], float(row["loss"]), float(row["norm"]), row["batch"], row.get("skipped", False)
        )
        for row in metrics.read(path)
    ]


def differences(before: Iterable[StepRecord], after: Iterable[StepRecord]) -> list[str]:
    """Return where two records of the same steps differ in any bit, each `step N: NAME was A and is B`."""
    lines = []
    for first, second in zip(before, after, strict=True):
        for name in ("step", "batch", "loss", "norm", "skipped"):
            old, new = getattr(first, name), getattr(second, name)
            both_nan = old != old and new != new
            if old != new and not both_nan:
                lines.append(f"step {first.step}: {name} was {old!r} and is {new!r}")
    return lines
