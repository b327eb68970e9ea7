"""One optimizer step: gradients of a batch, clipping, the guard's look, the update.

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
from toolkit.pretrain.anomaly import Guard, Trigger
from toolkit.pretrain.context import Job
from toolkit.pretrain.prefetch import cut


@dataclass(frozen=True)
class Outcome:
    """What a step gave; scalars on the device."""

    loss: Tensor
    """Mean of the whole batch where `Job.watchful` or `exact`, else of this process's share."""
    norm: Tensor
    """Global L2 norm of the gradient before clipping."""
    factor: float
    """The learning rate as a share of its peak."""
    trigger: Trigger | None
    """Why the weights were left as they were; None where they changed."""


def take(job: Job, step: int, rows: Tensor, guard: Guard) -> Outcome:
    """Do optimizer step `step` (from 0) on this process's rows, (rows, length + 1); the same on all
    processes.
    """
    recipe = job.recipe
    middle = (step + 0.5) * recipe.batch_tokens
    factor = schedule.factor(recipe.schedule, tokens=middle, total_tokens=job.steps * recipe.batch_tokens)
    optimizer.set_rates(job.optimizers, factor)
    loss = gradients(job, step, rows)
    norm = sharding.whole(nn.utils.clip_grad_norm_(job.model.parameters(), recipe.optimizer.max_grad_norm))
    trigger = None
    if job.watchful:
        if not recipe.exact and job.accelerator.num_processes > 1:
            loss = job.accelerator.reduce(loss, reduction="mean")
        trigger = guard.look(loss=float(loss), norm=float(norm))
    for each in job.optimizers:
        if trigger is None:
            each.step()
        each.zero_grad(set_to_none=True)
    return Outcome(loss, norm, factor, trigger)


def gradients(job: Job, step: int, rows: Tensor) -> Tensor:
    """Fill the gradients of a step with the mean over all processes' rows; returns the loss, a scalar."""
    if job.recipe.exact:
        return _exact_gradients(job, step, rows)
    parts = rows.split(job.micro_rows)
    mean = torch.zeros((), device=rows.device)
    for number, part in _seeded(job, step, parts):
        last = number == len(parts) - 1
        with _exchanging(job, last):
            loss = job.loss(cut(part, job.length(step))) * (len(part) / len(rows))
            loss.backward()
        mean += loss.detach()
    return mean


def _exchanging(job: Job, last: bool) -> AbstractContextManager[None]:
    """Return a block whose backward pass exchanges gradients with the last part alone: once a step."""
    if job.sharded:
        sharding.exchange(job.loss, last)
    alone = job.sharded or job.accelerator.num_processes == 1
    return nullcontext() if last or alone else job.accelerator.no_sync(job.loss)


def _seeded(job: Job, step: int, parts: tuple[Tensor, ...]) -> Iterator[tuple[int, Tensor]]:
    """Yield the parts with dropout's stream set to that of the part's number among all processes' parts."""
    for number, part in enumerate(parts):
        if job.recipe.model.dropout:
            among_all = job.accelerator.process_index * len(parts) + number
            torch.manual_seed(derive(job.recipe.seed, "dropout", step, among_all))
        yield number, part


def _exact_gradients(job: Job, step: int, rows: Tensor) -> Tensor:
    """As `gradients`, with the same bits for any number of processes."""
    parts = rows.split(job.micro_rows)
    parameters = list(job.model.parameters())

    def leaves() -> Iterator[deterministic_reduce.Leaf]:
        for _, part in _seeded(job, step, parts):
            loss = job.loss(cut(part, job.length(step)))
            yield [*torch.autograd.grad(loss, parameters), loss.detach()]

    total = deterministic_reduce.tree_sum(leaves())
    if job.accelerator.num_processes > 1:
        total = deterministic_reduce.pairwise_all_reduce(total)
    count = len(parts) * job.accelerator.num_processes  # a power of two: dividing by it rounds nothing
    *grads, loss = (tensor / count for tensor in total)
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    return loss
