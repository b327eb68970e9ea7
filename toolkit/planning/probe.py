"""Measure how fast this machine pretrains, by a few steps on random tokens: a program for `toolkit plan`.

It runs in a subprocess, so that its memory and its failures do not affect the plan. It reads one JSON
object from stdin ({"recipe", "vocab_size", "processes", "seconds"}) and writes one to stdout:
{"refused": REASON} or what `measure` returns.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from toolkit.base.console import print_json
from toolkit.base.errors import ToolkitError
from toolkit.config.schema import PretrainRecipe
from toolkit.execution import memory_shortage
from toolkit.inference.logprobs import score_documents
from toolkit.models import memory
from toolkit.models.architectures import build
from toolkit.pretrain import optimizer
from toolkit.pretrain.loss import build_loss, should_compile, training_kernels
from toolkit.runtime import devices
from toolkit.runtime.host_memory import available_memory

MIN_STEPS, MAX_STEPS = 3, 30
"""Steps that are timed: fewer are too noisy, and more do not change the median."""


def main() -> None:
    """Read the question from stdin and write the answer to stdout."""
    question = json.loads(sys.stdin.read())
    try:
        recipe = PretrainRecipe.model_validate(question["recipe"])
        answer = measure(
            recipe, vocab_size=question["vocab_size"], processes=question["processes"],
            seconds=question["seconds"],
        )  # fmt: skip
    except ToolkitError as error:
        answer = {"refused": error.what}
    except Exception as error:
        if not memory_shortage.is_shortage(error):
            raise
        answer = {"refused": "there is not enough memory for a step"}
    print_json(answer)


def measure(recipe: PretrainRecipe, *, vocab_size: int, processes: int, seconds: float) -> dict[str, Any]:
    """Return the throughput of `processes` processes like this one, without communication.

    Returns:
        tokens_per_second of all processes; score_seconds of one held-out token during training (`quick`) and
        at the end (`full`, in fp32); micro_batch_tokens and steps of the probe; device, precision;
        measuring_seconds, without imports, model construction and compilation.

    Raises:
        ToolkitError: there is no such device, or not even one row fits into memory.
    """
    device = devices.select(recipe.device)
    devices.configure(recipe)
    bf16 = devices.precision(recipe.precision, device) == "bf16"
    largest = _fitting(recipe, vocab_size=vocab_size, bf16=bf16, device=device, processes=processes)
    model = build(recipe.shape, vocab_size=vocab_size, seed=recipe.seed, end_id=0).to(device)
    length, micro_tokens = recipe.row_tokens(), memory.micro_batch(recipe, processes=processes)
    step = _TimedStep(recipe, model, bf16=bf16, micro_tokens=micro_tokens, vocab_size=vocab_size)
    rows = largest // length
    with training_kernels(recipe, model, compiled=step.compiled)():
        model.train()
        step(rows if step.compiled else 1)  # the first step allocates memory and compiles
        began = time.perf_counter()
        if not step.compiled:
            largest_rows, rows = rows, 1
            # MIN_STEPS steps take two thirds of the time; twice, since a single row is slow for its size
            for _ in range(2):
                scale = seconds / 1.5 / MIN_STEPS / sum(step(rows))
                rows = max(1, min(largest_rows, int(rows * scale)))
            step(rows)
        end, times = time.perf_counter() + seconds, []
        while len(times) < MIN_STEPS or (len(times) < MAX_STEPS and time.perf_counter() < end):
            times.append(step(rows))
    micro_seconds = median(seconds for seconds, _ in times) * micro_tokens / (rows * length)
    micro_batches = max(1.0, recipe.batch_tokens / processes / micro_tokens)
    step_seconds = micro_batches * micro_seconds + median(update for _, update in times)
    score = {
        name: _score_seconds(model, recipe, device=device, bf16=in_bf16)
        for name, in_bf16 in (("quick", bf16), ("full", False))
    }
    return {
        "tokens_per_second": recipe.batch_tokens / step_seconds, "score_seconds": score,
        "micro_batch_tokens": rows * length, "steps": len(times), "device": device.type,
        "precision": "bf16" if bf16 else "fp32", "measuring_seconds": time.perf_counter() - began,
    }  # fmt: skip


def _fitting(
    recipe: PretrainRecipe, *, vocab_size: int, bf16: bool, device: torch.device, processes: int
) -> int:
    """Return the tokens of the recipe's micro-batch, or of the largest one that fits into memory."""
    on_gpu = device.type == "cuda"
    available = torch.cuda.mem_get_info(device)[0] if on_gpu else available_memory()
    settings = {"vocab_size": vocab_size, "bf16": bf16, "on_gpu": on_gpu, "processes": processes}
    micro_tokens = memory.micro_batch(recipe, processes=processes)
    if memory.estimate(recipe, **settings).peak <= available:
        return micro_tokens
    fitting_tokens = memory.fitting_micro_batch(recipe, available, **settings)
    if fitting_tokens is None:
        raise ToolkitError("not even one row fits into the memory here")
    return min(fitting_tokens, micro_tokens)


class _TimedStep:
    """A training step as in the pretrain stage: gradients of a micro-batch, then the update."""

    def __init__(
        self, recipe: PretrainRecipe, model: nn.Module, *, bf16: bool, micro_tokens: int, vocab_size: int
    ):  # fmt: skip
        self.recipe, self.vocab_size = recipe, vocab_size
        self.device = device = next(model.parameters()).device
        self.loss = build_loss(recipe, model, micro_tokens=micro_tokens, end_id=0, bf16=bf16)
        self.compiled = should_compile(recipe, device)
        if self.compiled:
            self.loss.enable_compilation(whole_loss=recipe.speed.loss_in_module)
        self.model = model
        self.optimizers: list[Optimizer] = optimizer.build(model, recipe.optimizer, bf16=bf16)
        self.generator = torch.Generator().manual_seed(recipe.seed)

    def __call__(self, rows: int) -> tuple[float, float]:
        """Return the seconds of forward and backward, and those of clipping and the update."""
        size = (rows, self.recipe.row_tokens() + 1)
        tokens = torch.randint(self.vocab_size, size, generator=self.generator).to(self.device)
        return self._timed(lambda: self.loss(tokens).backward()), self._timed(self._update)

    def _update(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.max_grad_norm)
        for opt in self.optimizers:
            opt.step()
            opt.zero_grad(set_to_none=True)

    def _timed(self, work: Callable[[], None]) -> float:
        devices.synchronise(self.device)
        began = time.perf_counter()
        work()
        devices.synchronise(self.device)
        return time.perf_counter() - began


def _score_seconds(model: nn.Module, recipe: PretrainRecipe, *, device: torch.device, bf16: bool) -> float:
    """Return the seconds of scoring one held-out token, measured on 4 documents of half a row."""
    count = max(1, recipe.window // 2)
    documents = [np.full(count, 1 + index) for index in range(4)]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        began = time.perf_counter()
        score_documents(model, documents, prefix_id=0, end_id=0, window=recipe.window)
        return (time.perf_counter() - began) / (count * len(documents))


if __name__ == "__main__":
    main()
