"""The training loop: steps, measurements, samples and checkpoints, on any number of processes.

Shapes: rows of a batch, length = tokens of one row.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.data.order import Order, read_rows
from toolkit.data.tokens import TokenShards
from toolkit.pretrain import optimizer, schedule, state
from toolkit.pretrain.held_out import HeldOut
from toolkit.pretrain.objective import attention_for_training
from toolkit.pretrain.speed import Peak, Stopwatch
from toolkit.recipe.errors import ToolkitError
from toolkit.recipe.schema import PretrainRecipe
from toolkit.runs import checkpoint, processes
from toolkit.runs.directory import Run
from toolkit.runs.progress import Progress
from toolkit.runs.streams import derive
from toolkit.sampling import generate

EVALUATIONS = 10
"""Measurements in a training, where the recipe does not say."""
CHECKPOINTS = 5


@dataclass
class Job:
    """Everything that the steps of one training share."""

    recipe: PretrainRecipe
    run: Run
    accelerator: Accelerator
    model: PreTrainedModel
    """The bare model; `loss` is the same one wrapped for training."""
    loss: nn.Module
    optimizers: list[Optimizer]
    tokenizer: PreTrainedTokenizerBase
    shards: TokenShards
    order: Order
    held_out: HeldOut
    micro_rows: int
    flops_per_token: int
    peak: Peak
    watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def batch_rows(self) -> int:
        """Rows of one optimizer step over all processes."""
        return self.recipe.batch_tokens // self.order.sequence_length

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return max(1, self.recipe.train_tokens // self.recipe.batch_tokens)

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

    def own_rows(self, step: int) -> Tensor:
        """Return this process's rows of a step, (rows, length + 1): a contiguous part of the global batch."""
        starts = self.order.starts(step, self.batch_rows)
        share = self.batch_rows // self.accelerator.num_processes
        begin = share * self.accelerator.process_index
        rows = read_rows(self.shards, starts[begin : begin + share], self.order.sequence_length)
        return torch.from_numpy(rows).to(self.accelerator.device, non_blocking=True)

    def utilisation(self, tokens_per_second: float | None) -> float | None:
        """Return the share of the peak arithmetic (MFU); None where the peak is not known."""
        if tokens_per_second is None or self.peak.flops is None:
            return None
        return tokens_per_second * self.flops_per_token / (self.peak.flops * self.accelerator.num_processes)


def train(job: Job) -> None:
    """Train to the end, from the newest sealed checkpoint where there is one; the last step seals one too.

    Raises:
        ToolkitError: the gradient became NaN or infinite.
        KeyboardInterrupt: the run was asked to stop; a checkpoint was sealed first.
    """
    position = _resume(job)
    job.run.metrics.truncate(position.step)
    job.watch = Stopwatch(seconds=position.seconds, tokens=position.timed_tokens)
    losses = _Losses(job.accelerator.device, position)
    with Progress(job.run.name, job.steps) as progress, attention_for_training(job.model) as plain:
        if position.step == 0:
            with plain():
                _evaluate(job, position)
        shown: dict[str, Any] = {}
        job.model.train()
        job.watch.start()
        since = position.step  # the stopwatch's tokens are counted from here
        for step in range(position.step, job.steps):
            factor, norm = _step(job, step, losses)
            position.step, position.tokens = step + 1, (step + 1) * job.recipe.batch_tokens
            pause = _pause(job, position.step)
            if pause or job.accelerator.device.type == "cpu":
                losses.require_finite(job)
            if pause:
                speed = job.watch.stop((position.step - since) * job.recipe.batch_tokens)
                since = position.step
                numbers = {"factor": factor, "norm": norm, "speed": speed}
                with plain():
                    shown = _look(job, position, losses, pause, numbers) or shown
                job.model.train()
                job.watch.start()
            progress.update(position.step, **shown)
            if "stop" in pause:
                raise KeyboardInterrupt
    processes.stop_at_once()


def _pause(job: Job, done: int) -> set[str]:
    """Return what there is to do after `done` steps: log, evaluate, save, stop."""
    last = done == job.steps
    due = {
        "log": last or done % job.recipe.log_every_steps == 0,
        "evaluate": last or done % job.evaluation_steps == 0,
        "save": last or done % job.checkpoint_steps == 0,
    }
    if processes.stop_requested() and not last:
        due |= {"save": True, "stop": True}
    return {name for name, is_due in due.items() if is_due}


def _step(job: Job, step: int, losses: _Losses) -> tuple[float, Tensor]:
    """Do one optimizer step; returns the learning rate's factor and the gradient's norm before clipping."""
    recipe = job.recipe
    if recipe.model.dropout:
        torch.manual_seed(derive(recipe.seed, "dropout", step, job.accelerator.process_index))
    middle = (step + 0.5) * recipe.batch_tokens
    factor = schedule.factor(recipe.schedule, tokens=middle, total_tokens=job.steps * recipe.batch_tokens)
    optimizer.set_rates(job.optimizers, factor)
    rows = job.own_rows(step)
    parts = rows.split(job.micro_rows)
    mean = torch.zeros((), device=rows.device)
    for number, part in enumerate(parts, 1):
        # gradients are exchanged once a step, with the last part's
        with nullcontext() if number == len(parts) else job.accelerator.no_sync(job.loss):
            loss = job.loss(part) * (len(part) / len(rows))
            loss.backward()
        mean += loss.detach()
    norm = nn.utils.clip_grad_norm_(job.model.parameters(), recipe.optimizer.max_grad_norm)
    for each in job.optimizers:
        each.step()
        each.zero_grad(set_to_none=True)
    losses.add(mean, norm, step + 1)
    return factor, norm


class _Losses:
    """Losses since the last log line, and the first step that went wrong, kept on the device: no waiting."""

    def __init__(self, device: torch.device, position: state.Position):
        self.total = torch.tensor(position.loss_sum, dtype=torch.float64, device=device)
        self.steps = position.loss_steps
        self.first_bad = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, loss: Tensor, norm: Tensor, step: int) -> None:
        """Count one step; the norm is of all processes' gradients, so they all see what one did."""
        self.total += loss
        self.steps += 1
        bad = ~torch.isfinite(norm) & (self.first_bad == 0)
        self.first_bad += bad * step

    def require_finite(self, job: Job) -> None:
        """Raise ToolkitError, on every process, if a step's gradient was not finite."""
        step = int(self.first_bad)
        if step:
            raise _diverged(job, f"the gradient is not a number any more at step {step}")

    def mean(self, job: Job) -> float:
        """Return the mean loss of all processes and steps since the last call."""
        mean = float(job.accelerator.reduce(self.total / self.steps, reduction="mean"))
        self.total.zero_()
        self.steps = 0
        return mean


def _diverged(job: Job, what: str) -> ToolkitError:
    return ToolkitError(
        f"{what} of {job.steps}", where=str(job.run.path),
        fix="lower optimizer.learning_rate or lengthen schedule.warmup_tokens, and start over "
        "with --fresh; the checkpoints from before are whole",
    )  # fmt: skip


def _require_finite_weights(job: Job, step: int) -> None:
    """Look before measuring and saving: a finite gradient can still have thrown the weights to infinity."""
    sums = torch.stack([parameter.detach().double().sum() for parameter in job.model.parameters()])
    if not bool(torch.isfinite(sums).all()):
        raise _diverged(job, f"the weights are not finite any more after step {step}")


def _look(
    job: Job, position: state.Position, losses: _Losses, pause: set[str], numbers: dict[str, Any]
) -> dict[str, Any] | None:
    """Log, measure and save, as is due; returns what the progress bar shows from now on."""
    shown = None
    if "log" in pause:
        loss, speed = losses.mean(job), numbers["speed"]
        job.run.metrics.log(
            position.step, tokens=position.tokens, loss=loss,
            learning_rate=job.optimizers[-1].param_groups[0]["lr"], learning_rate_factor=numbers["factor"],
            grad_norm=float(numbers["norm"]), tokens_per_second=speed, mfu=job.utilisation(speed),
            epoch=job.order.epoch(position.step, job.batch_rows),
        )  # fmt: skip
        shown = {"loss": loss, "tok/s": round(speed or 0)}
    if pause & {"evaluate", "save"}:
        _require_finite_weights(job, position.step)
    if "evaluate" in pause:
        _evaluate(job, position)
    if "save" in pause:
        position.loss_sum, position.loss_steps = float(losses.total), losses.steps
        position.seconds, position.timed_tokens = job.watch.seconds, job.watch.tokens
        _save(job, position)
    return shown


def _evaluate(job: Job, position: state.Position) -> None:
    """Log held-out bits per byte on some documents, and what the model writes."""
    bits = job.held_out.quick(job.model, job.recipe.evaluate_documents)
    if not math.isfinite(bits):
        raise _diverged(job, f"the held-out loss is not a number after step {position.step}")
    job.run.metrics.log(position.step, tokens=position.tokens, bits_per_byte=bits, samples=samples(job))


def samples(job: Job) -> list[dict[str, str]]:
    """Let the main process write a text for each prompt; the same random numbers at every step."""
    settings, prompts = job.recipe.samples, job.recipe.samples.prompts
    if not job.run.is_main or not prompts:
        return []
    positions = job.recipe.model.n_positions
    new_tokens = min(settings.max_new_tokens, positions - 1)
    end_id = job.tokenizer.eos_token_id
    encoded = [
        ([end_id] + job.tokenizer.encode(prompt, add_special_tokens=False))[-(positions - new_tokens) :]
        for prompt in prompts
    ]
    answers = generate(
        job.model, encoded, seed=[derive(job.recipe.seed, "samples", i) for i in range(len(prompts))],
        end_id=end_id, pad_id=job.tokenizer.pad_token_id, max_new_tokens=new_tokens,
        temperature=settings.temperature,
    )  # fmt: skip
    texts = [job.tokenizer.decode(ids) for ids in answers.ids]
    return [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]


def _save(job: Job, position: state.Position) -> None:
    def write(folder: Path) -> None:
        state.write(folder, position, model=job.model, tokenizer=job.tokenizer, optimizers=job.optimizers)

    checkpoint.save(job.run, position.step, write, keep=job.recipe.keep_checkpoints)


def _resume(job: Job) -> state.Position:
    """Go back to the newest sealed checkpoint that the main process finds, on every process."""
    found: list[Any] = [None]
    if job.run.is_main:
        newest = checkpoint.latest(job.run)
        found = [str(newest[1]) if newest else None]
    if job.accelerator.num_processes > 1:
        broadcast_object_list(found, from_process=0)
    if found[0] is None:
        return state.Position()
    return state.read(Path(found[0]), model=job.model, optimizers=job.optimizers)
