"""Tokens per second of a training, and the peak arithmetic of the machine that it is compared with."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import torch

PEAK_FLOPS = {
    "H100 PCIe": {"bf16": 756e12, "fp32": 51e12},
    "H100": {"bf16": 989e12, "fp32": 67e12},
    "H200": {"bf16": 989e12, "fp32": 67e12},
    "A100": {"bf16": 312e12, "fp32": 19.5e12},
    "L40S": {"bf16": 362e12, "fp32": 91.6e12},
    "L4": {"bf16": 121e12, "fp32": 30.3e12},
    "RTX 4090": {"bf16": 165e12, "fp32": 82.6e12},
    "RTX 3090": {"bf16": 71e12, "fp32": 35.6e12},
}
"""Dense operations per second (NVIDIA's data sheets, no sparsity); the first name that matches is used."""

MATMUL_SIDES = (256, 1024)
"""Sides of the matrices whose product is timed; the larger one only where it takes less than this:"""
MATMUL_SECONDS = 0.25
MATMUL_TRIES = 8


@dataclass(frozen=True)
class PeakFlops:
    """Peak operations per second of one process's device, None if unknown, and the source of the number."""

    flops: float | None
    source: str


def peak_flops(device: torch.device, precision: str) -> PeakFlops:
    """Return the peak of a known GPU, or measure this CPU with the current number of threads (0.1 s)."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for gpu, flops in PEAK_FLOPS.items():
            if gpu in name:
                return PeakFlops(flops[precision], f"data sheet of {gpu}")
        return PeakFlops(None, f"{name} is not in the table")
    return _measure_cpu(precision, torch.get_num_threads())


@cache  # a process that trains several times measures once
def _measure_cpu(precision: str, threads: int) -> PeakFlops:
    """Time matrix products; large ones in bf16 take half a minute on a CPU without bf16 instructions."""
    small, large = MATMUL_SIDES
    side, seconds = small, _matmul_seconds(small, precision)
    if seconds * (large / small) ** 3 < MATMUL_SECONDS:
        side, seconds = large, _matmul_seconds(large, precision)
    return PeakFlops(2 * side**3 / seconds, f"measured: matrix product, side {side}, best of {MATMUL_TRIES}")


def _matmul_seconds(side: int, precision: str) -> float:
    matrix = torch.ones(side, side, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    best = float("inf")
    for _ in range(MATMUL_TRIES):
        began = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - began)
    return best


class Stopwatch:
    """Counts seconds and tokens of training steps, without evaluation, sampling and saving."""

    def __init__(self, *, seconds: float = 0.0, tokens: int = 0):
        self.seconds, self.tokens = seconds, tokens
        self._began: float | None = None

    def start(self) -> None:
        """Start or continue to count."""
        self._began = time.perf_counter()

    def stop(self, tokens: int) -> float | None:
        """Add the time since `start` and its tokens; return tokens per second, None if nothing ran."""
        if self._began is None or tokens == 0:
            return None
        elapsed = time.perf_counter() - self._began
        self.seconds, self.tokens, self._began = self.seconds + elapsed, self.tokens + tokens, None
        return tokens / elapsed

    @property
    def tokens_per_second(self) -> float | None:
        """Mean over the whole training, including the attempts before it was resumed."""
        return self.tokens / self.seconds if self.seconds else None
