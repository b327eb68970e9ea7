"""What the steps of one training share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.config.schema import PretrainRecipe
from toolkit.data.text.batch_order import Order
from toolkit.data.text.shards import TokenShards
from toolkit.pretrain.held_out import HeldOutEvaluator
from toolkit.pretrain.loss import TrainingKernels
from toolkit.pretrain.prefetch import Prefetcher
from toolkit.pretrain.surprise import KnownDocuments
from toolkit.pretrain.throughput import PeakFlops, Stopwatch
from toolkit.runs.run import Run

EVALUATIONS = 10
"""Evaluations in a training whose recipe does not set their interval."""
CHECKPOINTS = 5
"""Checkpoints in a training whose recipe does not set their interval."""


@dataclass
class TrainingContext:
    """One training on one process, ready to train its first or next step."""

    recipe: PretrainRecipe
    run: Run
    accelerator: Accelerator
    model: PreTrainedModel
    """The bare model; `loss` is the same model wrapped for training."""
    loss: nn.Module
    training_kernels: TrainingKernels
    """Opens the context in which the model computes with training's attention and activation."""
    optimizers: list[Optimizer]
    tokenizer: PreTrainedTokenizerBase
    shards: TokenShards
    order: Order
    held_out: HeldOutEvaluator
    micro_rows: int
    """Rows of one forward pass, at full length."""
    flops_per_token: float | None
    """Mean over the training; None for a checkpoint whose architecture multiplies in another way."""
    peak_flops: PeakFlops
    sharded: bool = False
    """Each process keeps a part of the weights."""
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    @cached_property
    def known_documents(self) -> KnownDocuments | None:
        """Held-out documents with the truth about each token; None for text of another world."""
        return KnownDocuments.of(self.held_out.shards, self.tokenizer, window=self.recipe.window)

    @cached_property
    def sample_prompts(self) -> list[str]:
        """Prompts that are continued during training."""
        prompts = self.recipe.samples.prompts
        return [self.held_out.first_words()] if prompts is None else prompts

    @property
    def batch_rows(self) -> int:
        """Rows of one optimizer step over all processes."""
        return self.recipe.batch_tokens // self.order.sequence_length

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.recipe.steps

    @property
    def epochs(self) -> float:
        """How often the whole training reads the corpus."""
        return self.order.epoch(self.steps, self.batch_rows)

    @property
    def checkpoint_steps(self) -> int:
        """Steps between two checkpoints."""
        tokens = self.recipe.checkpoint_every_tokens or math.ceil(self.recipe.train_tokens / CHECKPOINTS)
        return max(1, tokens // self.recipe.batch_tokens)

    @property
    def evaluation_steps(self) -> int:
        """Steps between two evaluations."""
        tokens = self.recipe.evaluate_every_tokens or math.ceil(self.recipe.train_tokens / EVALUATIONS)
        return max(1, tokens // self.recipe.batch_tokens)

    @property
    def keep_every_steps(self) -> int | None:
        """Checkpoints at multiples of this many steps are never deleted; None: no such checkpoints."""
        tokens = self.recipe.keep_every_tokens
        return None if tokens is None else max(1, tokens // self.recipe.batch_tokens)

    @property
    def checks_every_step(self) -> bool:
        """Whether each step's loss is checked before the weights change.

        This is free on a CPU. A GPU has to be synchronised for it, so it is done there only if the recipe's
        guard needs it.
        """
        guard = self.recipe.guard
        on_cpu = self.accelerator.device.type == "cpu"
        return on_cpu or guard.z_score is not None or guard.action == "skip"

    def prefetcher(self) -> Prefetcher:
        """Return the reader of this process's rows."""
        return Prefetcher(
            self.shards, self.order, batch_rows=self.batch_rows, rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes, device=self.accelerator.device,
            prefetch_batches=self.recipe.speed.prefetch_batches,
        )  # fmt: skip

    def row_tokens(self, step: int) -> int:
        """Return the tokens of a row at a step (from 0), fewer during `length_warmup`."""
        return self.recipe.row_tokens(step)

    def mfu(self, tokens_per_second: float | None) -> float | None:
        """Return the model FLOPs utilisation, a fraction of the peak; None if the peak is unknown."""
        if tokens_per_second is None or self.peak_flops.flops is None or self.flops_per_token is None:
            return None
        peak = self.peak_flops.flops * self.accelerator.num_processes
        return tokens_per_second * self.flops_per_token / peak
