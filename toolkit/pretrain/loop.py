"""The training loop: steps, measurements, samples and checkpoints, on any number of processes."""

from __future__ import annotations

import math
import shlex
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel

from toolkit.base.errors import ToolkitError
from toolkit.base.progress import Progress
from toolkit.base.rng import derive
from toolkit.data.text import batch_order
from toolkit.inference.sampling import generate
from toolkit.pretrain import incidents, sharding, state, step_log
from toolkit.pretrain.anomaly import Guard, Trigger, no_number
from toolkit.pretrain.async_checkpoint import Saver
from toolkit.pretrain.context import Job, synchronise
from toolkit.pretrain.step import Outcome, take
from toolkit.pretrain.step_log import Journal
from toolkit.pretrain.stopping import Stopping
from toolkit.pretrain.throughput import Stopwatch
from toolkit.runs import checkpoint
from toolkit.runtime import signals


@dataclass
class _Training:
    """One attempt at a job: where it is, and what writes down how it goes."""

    job: Job
    position: state.Position
    journal: Journal
    guard: Guard
    saver: Saver
    stopping: Stopping
    shown: dict[str, Any] = field(default_factory=dict)
    """What the progress bar shows."""
    since: int = 0
    """The step from which the stopwatch's tokens count."""


def train(job: Job) -> None:
    """Train to the end, from the newest sealed checkpoint where there is one; the last step seals one too.

    Raises:
        ToolkitError: the guard stopped the run; what the step depended on is in `incidents/`.
        KeyboardInterrupt: a signal or the time limit; a checkpoint was sealed first.
    """
    training = _begin(job)
    try:
        with Progress(job.run.name, job.steps) as progress, job.forms() as plain:
            _run(training, progress, plain)
        training.saver.wait()
    except BaseException:
        with suppress(Exception):  # what went wrong first is what counts
            training.saver.wait()
        raise
    signals.stop_at_once()


def _begin(job: Job) -> _Training:
    template = state.Template(job.model, job.tokenizer)
    position = _resume(job)
    job.run.metrics.truncate(position.step or -1)  # without a checkpoint step 0 is measured again, too
    steps = Journal(
        job.run.path / step_log.FILE, job.accelerator, active=job.run.is_main,
        whole=job.watchful or job.recipe.exact,
    )  # fmt: skip
    every = job.recipe.log_every_steps
    steps.go_on(position.step, line=position.step // every * every)
    job.watch = Stopwatch(seconds=position.seconds, tokens=position.timed_tokens)
    saver = Saver(
        job.run, template, background=job.recipe.speed.background_saves,
        keep=job.recipe.keep_checkpoints, every=job.kept_steps,
    )  # fmt: skip
    limit = job.recipe.time_limit_minutes
    stopping = Stopping(saver, limit_seconds=None if limit is None else 60 * limit)
    return _Training(job, position, steps, Guard(job.recipe.guard, position.guard), saver, stopping)


def _run(training: _Training, progress: Progress, plain: Any) -> None:
    job, position = training.job, training.position
    if position.step == 0:
        with plain():
            _evaluate(job, position)
    job.model.train()
    job.watch.start()
    training.since = position.step
    for step, rows in job.feed().steps(position.step, job.steps):
        outcome = take(job, step, rows, training.guard)
        _note(training, step, outcome)
        stop = training.stopping.asked() if step + 1 < job.steps else None
        pause = _pause(job, position.step, stop=stop is not None)
        if pause:
            synchronise(job.accelerator.device)
            speed = job.watch.stop((position.step - training.since) * job.recipe.batch_tokens)
            training.since = position.step
            with plain():
                _look(training, pause, outcome, speed)
            job.model.train()
            job.watch.start()
        progress.update(position.step, **training.shown)
        if stop is not None:
            training.saver.wait()
            training.stopping.say(stop, position.step)
            raise KeyboardInterrupt


def _pause(job: Job, done: int, *, stop: bool) -> set[str]:
    """Return what there is to do after `done` steps: log, evaluate, save."""
    last = done == job.steps
    due = {
        "log": last or done % job.recipe.log_every_steps == 0,
        "evaluate": last or done % job.evaluation_steps == 0,
        "save": stop or last or done % job.checkpoint_steps == 0,
    }
    return {name for name, is_due in due.items() if is_due}


def _note(training: _Training, step: int, outcome: Outcome) -> None:
    """Write a step down; one that was held up is kept as an incident, and ends the run where it must."""
    job, position = training.job, training.position
    batch = batch_order.digest(job.order.starts(step, job.batch_rows))
    skipped = outcome.trigger is not None
    training.journal.add(step + 1, outcome.loss, outcome.norm, batch, skipped=skipped)
    if skipped:
        settings = job.recipe.guard
        # before the step: the guard left weights and optimizers as they were
        snapshot = state.take(job.model, job.optimizers, _now(training), keep=job.run.is_main)
        _keep(training, step, outcome.trigger, float(outcome.loss), float(outcome.norm), snapshot)
        position.skipped.append(step + 1)
        if settings.action == "stop" or len(position.skipped) > settings.max_skips:
            raise _held_up(job, step, outcome.trigger, skips=len(position.skipped))
    position.step, position.tokens = step + 1, (step + 1) * job.recipe.batch_tokens


def _keep(
    training: _Training, step: int, trigger: Trigger, loss: float, norm: float,
    snapshot: state.Snapshot | None,
) -> None:  # fmt: skip
    training.journal.collect()
    training.saver.wait()
    incidents.write(
        training.job, step=step, trigger=trigger, loss=loss, norm=norm,
        snapshot=snapshot, template=training.saver.template,
    )  # fmt: skip


def _held_up(job: Job, step: int, trigger: Trigger, *, skips: int = 0) -> ToolkitError:
    kept = job.run.path / incidents.FOLDER / f"step-{step + 1:08d}" / incidents.FILE
    many = f"; {skips} steps were left out, more than guard.max_skips" if skips > 1 else ""
    command = f"`toolkit run --replay-incident {shlex.quote(str(kept))}`"
    again = f"; {command} makes the step again" if kept.exists() else ""
    return _ended(job, f"{trigger} at step {step + 1} of {job.steps}{many}", again)


def _ended(job: Job, what: str, more: str = "") -> ToolkitError:
    return ToolkitError(
        what, where=str(job.run.path),
        fix="lower optimizer.learning_rate or lengthen schedule.warmup_tokens, and start over "
        f"with --fresh; the checkpoints from before are whole{more}",
    )  # fmt: skip


def _now(training: _Training) -> state.Position:
    """Return the position with the guard's memory and the stopwatch as they are."""
    position, watch = training.position, training.job.watch
    position.guard = training.guard.state()
    position.seconds, position.timed_tokens = watch.seconds, watch.tokens
    return position


def _look(training: _Training, pause: set[str], outcome: Outcome, speed: float | None) -> None:
    """Log, measure and save, as is due."""
    job, position = training.job, training.position
    for done in training.journal.collect():
        if not (done.finite or done.skipped):  # noticed late, since nobody waited for the device
            late = no_number(loss=done.loss, norm=done.norm)
            _keep(training, done.step - 1, late, done.loss, done.norm, None)
            raise _held_up(job, done.step - 1, late)
    if "log" in pause:
        loss = training.journal.line_loss()
        job.run.metrics.log(
            position.step, tokens=position.tokens, loss=loss,
            learning_rate=job.optimizers[-1].param_groups[0]["lr"], learning_rate_factor=outcome.factor,
            grad_norm=float(outcome.norm), tokens_per_second=speed, mfu=job.utilisation(speed),
            epoch=job.order.epoch(position.step, job.batch_rows),
        )  # fmt: skip
        training.shown = {"loss": loss, "tok/s": round(speed or 0)}
    if pause & {"evaluate", "save"}:
        _require_finite_weights(job, position.step)
    if "evaluate" in pause:
        _evaluate(job, position)
    if "save" in pause:
        training.journal.sync()
        job.run.metrics.close()  # to the disk, too; the next line opens it again
        training.saver.save(state.take(job.model, job.optimizers, _now(training), keep=job.run.is_main))


def _require_finite_weights(job: Job, step: int) -> None:
    """Look before measuring and saving: a finite gradient can still have thrown the weights to infinity."""
    sums = torch.stack([sharding.whole(p.detach().double().sum()) for p in job.model.parameters()])
    if not bool(torch.isfinite(sums).all()):
        raise _ended(job, f"the weights are not finite any more after step {step} of {job.steps}")


def _evaluate(job: Job, position: state.Position) -> None:
    """Log held-out bits per byte on some documents, and what the model writes."""
    model = sharding.whole_model(job.model)
    recipe = job.recipe
    bits = job.held_out.quick(model, documents=recipe.evaluate_documents, tokens=recipe.evaluate_tokens)
    if not math.isfinite(bits):
        raise _ended(job, f"the held-out loss is not a number after step {position.step} of {job.steps}")
    texts = samples(job, model)
    job.run.metrics.log(position.step, tokens=position.tokens, bits_per_byte=bits, samples=texts)


def samples(job: Job, model: PreTrainedModel) -> list[dict[str, str]]:
    """Let the main process write a text for each prompt; the same random numbers at every step.

    Args:
        model: the job's, whole.
    """
    settings, prompts = job.recipe.samples, job.recipe.samples.prompts
    if not job.run.is_main or not prompts:
        return []
    positions = job.recipe.model.n_positions
    new_tokens = min(settings.max_new_tokens, positions - 1)
    end_id = job.tokenizer.eos_token_id
    encoded = [
        [end_id, *job.tokenizer.encode(prompt, add_special_tokens=False)][-(positions - new_tokens) :]
        for prompt in prompts
    ]
    answers = generate(
        model, encoded, seed=[derive(job.recipe.seed, "samples", i) for i in range(len(prompts))],
        end_id=end_id, pad_id=job.tokenizer.pad_token_id, max_new_tokens=new_tokens,
        temperature=settings.temperature,
    )  # fmt: skip
    texts = [job.tokenizer.decode(ids) for ids in answers.ids]
    return [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]


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
