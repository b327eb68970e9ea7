"""One optimizer step: forward and backward passes of a batch, clipping, the anomaly check, the update.

Legend: rows = of this process's share of the batch, length = tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit.base.rng import derive
from toolkit.pretrain import deterministic_reduce, optimizer, schedule, sharding
from toolkit.pretrain.anomaly import Anomaly, AnomalyMonitor
from toolkit.pretrain.context import TrainingContext
from toolkit.pretrain.prefetch import split_rows


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step computed; scalars on the device."""

    loss: Tensor
    """Mean over the whole batch if `TrainingContext.checks_every_step` or `exact`, else over this process's
    share.
    """
    grad_norm: Tensor
    """Global L2 norm of the gradient before clipping."""
    learning_rate_factor: float
    """The learning rate as a fraction of its peak."""
    anomaly: Anomaly | None
    """Why the update was skipped; None if the weights changed."""


def train_step(context: TrainingContext, step: int, rows: Tensor, monitor: AnomalyMonitor) -> StepResult:
    """Train on one batch: `rows` is this process's share, (rows, length + 1); `step` counts from 0.

    Every process returns the same anomaly, so all of them update or all of them skip.
    """
    recipe = context.recipe
    middle = (step + 0.5) * recipe.batch_tokens
    total_tokens = context.steps * recipe.batch_tokens
    factor = schedule.factor(recipe.schedule, tokens=middle, total_tokens=total_tokens)
    optimizer.set_learning_rates(context.optimizers, factor)

    loss = forward_backward(context, step, rows)
    grad_norm = nn.utils.clip_grad_norm_(context.model.parameters(), recipe.optimizer.max_grad_norm)
    grad_norm = sharding.full_tensor(grad_norm)

    anomaly = None
    if context.checks_every_step:
        if not recipe.exact and context.accelerator.num_processes > 1:
            loss = context.accelerator.reduce(loss, reduction="mean")
        anomaly = monitor.check(loss=float(loss), grad_norm=float(grad_norm))

    for opt in context.optimizers:
        if anomaly is None:
            opt.step()
        opt.zero_grad(set_to_none=True)
    return StepResult(loss, grad_norm, factor, anomaly)


def forward_backward(context: TrainingContext, step: int, rows: Tensor) -> Tensor:
    """Fill the gradients with the mean over the rows of all processes; return the mean loss, a scalar."""
    if context.recipe.exact:
        return _deterministic_forward_backward(context, step, rows)
    micro_batches = rows.split(context.micro_rows)
    mean_loss = torch.zeros((), device=rows.device)
    for index, micro_batch in _with_dropout_seeds(context, step, micro_batches):
        is_last = index == len(micro_batches) - 1
        with _gradient_sync(context, is_last):
            loss = context.loss(split_rows(micro_batch, context.row_tokens(step)))
            loss = loss * (len(micro_batch) / len(rows))
            loss.backward()
        mean_loss += loss.detach()
    return mean_loss


def _gradient_sync(context: TrainingContext, is_last: bool) -> AbstractContextManager[None]:
    """Return a context in which only the last backward pass of a step exchanges gradients."""
    if context.sharded:
        sharding.set_gradient_sync(context.loss, is_last)
    without_ddp = context.sharded or context.accelerator.num_processes == 1
    return nullcontext() if is_last or without_ddp else context.accelerator.no_sync(context.loss)


def _with_dropout_seeds(
    context: TrainingContext, step: int, micro_batches: tuple[Tensor, ...]
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index, micro-batch), with dropout seeded by the micro-batch's number among all processes."""
    for index, micro_batch in enumerate(micro_batches):
        if context.recipe.checkpoint or context.recipe.dropout:
            global_index = context.accelerator.process_index * len(micro_batches) + index
            torch.manual_seed(derive(context.recipe.seed, "dropout", step, global_index))
        yield index, micro_batch


def _deterministic_forward_backward(context: TrainingContext, step: int, rows: Tensor) -> Tensor:
    """Do as `forward_backward`, with bits that do not depend on the number of processes."""
    micro_batches = rows.split(context.micro_rows)
    parameters = list(context.model.parameters())

    def leaves() -> Iterator[deterministic_reduce.Leaf]:
        for _, micro_batch in _with_dropout_seeds(context, step, micro_batches):
            loss = context.loss(split_rows(micro_batch, context.row_tokens(step)))
            yield [*torch.autograd.grad(loss, parameters), loss.detach()]

    total = deterministic_reduce.tree_sum(leaves())
    if context.accelerator.num_processes > 1:
        total = deterministic_reduce.pairwise_all_reduce(total)
    count = len(micro_batches) * context.accelerator.num_processes  # a power of two: the division is exact
    *grads, loss = (tensor / count for tensor in total)
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    return loss
