"""Measure how fast this machine multiplies matrices of a checkpoint's sizes: a program for `toolkit plan`.

It runs in a subprocess, because importing torch takes seconds. It reads one JSON object from stdin
({"layers": [[inputs, outputs], ...], "tokens", "bf16", "threads", "device", "seconds"}) and writes
{"device", "flops_per_second"} to stdout.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import torch
from torch.nn import functional

from toolkit.base.console import print_json
from toolkit.runtime import devices


def main() -> None:
    """Read the question from stdin and write the answer to stdout."""
    question = json.loads(sys.stdin.read())
    torch.set_num_threads(question["threads"])
    device = devices.select(question["device"])
    rate = measure(
        question["layers"], tokens=question["tokens"], device=device, seconds=question["seconds"],
        dtype=torch.bfloat16 if question["bf16"] else torch.float32,
    )  # fmt: skip
    print_json({"device": device.type, "flops_per_second": rate})


def measure(
    layers: Sequence[Sequence[int]], *, tokens: int, dtype: torch.dtype, device: torch.device, seconds: float
) -> float:
    """Return operations per second of linear layers, forward and backward to the inputs.

    Args:
        layers: (inputs, outputs) of each layer.
        tokens: rows of the products.
        seconds: time to measure; one round at least.
    """
    pairs = [
        (
            torch.randn(tokens, inputs, dtype=dtype, device=device, requires_grad=True),
            torch.randn(outputs, inputs, dtype=dtype, device=device),
        )
        for inputs, outputs in layers
    ]
    operations = sum(4 * tokens * inputs * outputs for inputs, outputs in layers)

    def one_round() -> float:
        devices.synchronise(device)
        began = time.perf_counter()
        for rows, weight in pairs:
            functional.linear(rows, weight).sum().backward()
        devices.synchronise(device)
        return time.perf_counter() - began

    one_round()  # the first calls choose kernels
    times = [one_round()]
    while sum(times) < seconds and len(times) < 1000:
        times.append(one_round())
    return operations / min(times)


if __name__ == "__main__":
    main()
