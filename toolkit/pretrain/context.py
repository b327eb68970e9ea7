"""Everything that the steps of one training share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.config.schema import PretrainRecipe
from toolkit.data.text.batch_order import Order
from toolkit.data.text.shards import TokenShards
from toolkit.pretrain.held_out import HeldOut
from toolkit.pretrain.loss import Forms
from toolkit.pretrain.prefetch import Feed
from toolkit.pretrain.throughput import Peak, Stopwatch
from toolkit.runs.run import Run

EVALUATIONS = 10
"""Measurements in a training, where the recipe does not say."""
CHECKPOINTS = 5


@dataclass
class Job:
    """One training on one process, ready to take a step."""

    recipe: PretrainRecipe
    run: Run
    accelerator: Accelerator
    model: PreTrainedModel
    """The bare model; `loss` is the same one wrapped for training."""
    loss: nn.Module
    forms: Forms
    """Opens the forms in which the training computes."""
    optimizers: list[Optimizer]
    tokenizer: PreTrainedTokenizerBase
    shards: TokenShards
    order: Order
    held_out: HeldOut
    micro_rows: int
    """Rows of one forward pass, at full length."""
    flops_per_token: float
    """On average over the training."""
    peak: Peak
    sharded: bool = False
    """Each process keeps a part of the weights."""
    watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def batch_rows(self) -> int:
        """Rows of one optimizer step over all processes."""
        return self.recipe.batch_tokens // self.order.sequence_length

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.recipe.steps

    @property
    def checkpoint_steps(self) -> int:
        """Steps between two checkpoints."""
        tokens = self.recipe.checkpoint_every_tokens or math.ceil(self.recipe.train_tokens / CHECKPOINTS)
        return max(1, tokens // self.recipe.batch_tokens)

    @property
    def evaluation_steps(self) -> int:
        """Steps between two measurements."""
        tokens = self.recipe.evaluate_every_tokens or math.ceil(self.recipe.train_tokens / EVALUATIONS)
        return max(1, tokens // self.recipe.batch_tokens)

    @property
    def kept_steps(self) -> int | None:
        """Checkpoints of multiples of so many steps stay; None: no such multiples."""
        tokens = self.recipe.keep_every_tokens
        return None if tokens is None else max(1, tokens // self.recipe.batch_tokens)

    @property
    def watchful(self) -> bool:
        """Whether each step's loss is read before the weights change.

        On a CPU that costs nothing; a GPU waits for it, so there it is done only where it can change
        something.
        """
        guard = self.recipe.guard
        on_cpu = self.accelerator.device.type == "cpu"
        return on_cpu or guard.z_score is not None or guard.action == "skip"

    def feed(self) -> Feed:
        """Return the reader of this process's rows."""
        return Feed(
            self.shards, self.order, batch_rows=self.batch_rows, rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes, device=self.accelerator.device,
            ahead=self.recipe.speed.prefetch_batches,
        )  # fmt: skip

    def length(self, step: int) -> int:
        """Return the tokens of a row at a step (from 0), shorter during `length_warmup`."""
        return self.recipe.row_tokens(step)

    def utilisation(self, tokens_per_second: float | None) -> float | None:
        """Return the share of the peak arithmetic (MFU); None where the peak is not known."""
        if tokens_per_second is None or self.peak.flops is None:
            return None
        return tokens_per_second * self.flops_per_token / (self.peak.flops * self.accelerator.num_processes)


def synchronise(device: torch.device) -> None:
    """Wait for a GPU, before a time is taken."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
