"""The training loop: steps, evaluations, samples and checkpoints, on any number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel

from toolkit.base.errors import ToolkitError
from toolkit.base.progress import Progress
from toolkit.base.rng import derive
from toolkit.data.text import batch_order
from toolkit.inference.illustrations import attempt
from toolkit.inference.sampling import generate
from toolkit.models.stop_tokens import StopTokens
from toolkit.pretrain import incidents, kept_weights, sharding, step_log, training_state
from toolkit.pretrain.anomaly import AnomalyMonitor, find_non_finite
from toolkit.pretrain.async_checkpoint import CheckpointWriter
from toolkit.pretrain.context import TrainingContext
from toolkit.pretrain.incidents import Incident
from toolkit.pretrain.kept_weights import KeptWeights
from toolkit.pretrain.step import StepResult, train_step
from toolkit.pretrain.step_log import StepLog
from toolkit.pretrain.stopping import StopCondition
from toolkit.pretrain.throughput import Stopwatch
from toolkit.pretrain.training_state import ModelExporter, Snapshot, TrainingState
from toolkit.runs import checkpoint
from toolkit.runtime import devices, signals


def train(context: TrainingContext) -> None:
    """Train to the end, from the newest sealed checkpoint if there is one; the last step seals one too.

    Raises:
        ToolkitError: an anomaly stopped the run; what the step depended on is in `incidents/`.
        KeyboardInterrupt: a signal or the time limit; a checkpoint was sealed first.
    """
    loop = TrainingLoop(context)
    try:
        loop.run()
        loop.writer.wait()
    except BaseException:
        with suppress(Exception):  # the first error is the one to report
            loop.writer.wait()
        raise
    signals.stop_at_once()


class TrainingLoop:
    """One attempt at a training, resumed from its newest sealed checkpoint."""

    def __init__(self, context: TrainingContext):
        self.context, recipe, run = context, context.recipe, context.run
        exporter = ModelExporter(context.model, context.tokenizer)
        self.state = _resume(context)
        step = self.state.step
        run.metrics.truncate(step or -1)  # without a checkpoint, step 0 is evaluated again too
        self.step_log = StepLog(
            run.path / step_log.FILE, context.accelerator, active=run.is_main,
            losses_reduced=context.checks_every_step or recipe.exact,
        )  # fmt: skip
        self.step_log.resume(step, last_line=step // recipe.log_every_steps * recipe.log_every_steps)
        context.stopwatch = Stopwatch(seconds=self.state.seconds, tokens=self.state.timed_tokens)
        self.monitor = AnomalyMonitor(recipe.guard, self.state.guard)
        self.writer = CheckpointWriter(
            run, exporter, background=recipe.speed.background_saves,
            keep_newest=recipe.keep_checkpoints, keep_every=context.keep_every_steps,
        )  # fmt: skip
        minutes = recipe.time_limit_minutes
        self.stop_condition = StopCondition(
            self.writer, limit_seconds=None if minutes is None else 60 * minutes
        )
        self._progress_fields: dict[str, float | int] = {}
        self._stopwatch_step = step

    def run(self) -> None:
        """Fetch a batch, train on it, then log, evaluate, save and stop when due, until the last step."""
        context, state = self.context, self.state
        with ExitStack() as stack:
            model_kernels = stack.enter_context(context.training_kernels())
            if state.step == 0:
                with model_kernels():
                    self._measure_checkpoint()
                    self._evaluate()
                    if context.recipe.keeps_weights_at(0):
                        self._keep_weights()
            progress = stack.enter_context(Progress(context.run.name, context.steps))
            self._start_stopwatch()
            for step, rows in context.prefetcher().batches(state.step, context.steps):
                result = train_step(context, step, rows, self.monitor)
                self._record(step, result)
                stop_reason = self.stop_condition.check() if step + 1 < context.steps else None
                self._do_what_is_due(result, model_kernels, stop=stop_reason is not None)
                progress.update(state.step, **self._progress_fields)
                if stop_reason is not None:
                    self.writer.wait()
                    self.stop_condition.report(stop_reason, state.step)
                    raise KeyboardInterrupt

    def _record(self, step: int, result: StepResult) -> None:
        """Add a step to the step log; keep an anomalous one as an incident and stop the run if it must."""
        context, state = self.context, self.state
        batch = batch_order.digest(context.order.starts(step, context.batch_rows))
        skipped = result.anomaly is not None
        self.step_log.add(step + 1, result.loss, result.grad_norm, batch, skipped=skipped)
        if result.anomaly is not None:
            incident = Incident(step, result.anomaly, float(result.loss), float(result.grad_norm))
            # the state before the step: its update was skipped
            self._write_incident(incident, self._take_snapshot())
            state.skipped.append(step + 1)
            guard = context.recipe.guard
            if guard.action == "stop" or len(state.skipped) > guard.max_skips:
                raise self._anomaly_error(incident)
        state.step, state.tokens = step + 1, (step + 1) * context.recipe.batch_tokens

    def _do_what_is_due(
        self, result: StepResult, model_kernels: Callable[[], AbstractContextManager[None]], *, stop: bool
    ) -> None:
        """Log, evaluate, keep the weights and save after a step, with the stopwatch stopped."""
        context, done = self.context, self.state.step
        last = done == context.steps
        log = last or done % context.recipe.log_every_steps == 0
        evaluate = last or done % context.evaluation_steps == 0
        save = stop or last or done % context.checkpoint_steps == 0
        keep = context.recipe.keeps_weights_at(done)
        if not (log or evaluate or save or keep):
            return
        devices.synchronise(context.accelerator.device)
        tokens_per_second = self._stop_stopwatch()
        with model_kernels():
            self._flush_step_log()
            if log:
                self._log(result, tokens_per_second)
            if evaluate or save or keep:
                self._require_finite_weights()
            if evaluate:
                self._evaluate()
            if keep:  # before the checkpoint, from which a resumed run does not keep this step again
                self._keep_weights()
            if save:
                self._save()
        self._start_stopwatch()

    def _start_stopwatch(self) -> None:
        self.context.model.train()
        self.context.stopwatch.start()

    def _stop_stopwatch(self) -> float | None:
        """Return the tokens per second since the stopwatch was started."""
        steps = self.state.step - self._stopwatch_step
        self._stopwatch_step = self.state.step
        return self.context.stopwatch.stop(steps * self.context.recipe.batch_tokens)

    def _flush_step_log(self) -> None:
        """Write the queued steps; stop at one that was not finite and was not checked at its own time."""
        for record in self.step_log.flush():
            if record.finite or record.skipped:
                continue
            anomaly = find_non_finite(loss=record.loss, grad_norm=record.norm)
            assert anomaly is not None
            incident = Incident(record.step - 1, anomaly, record.loss, record.norm)
            self._write_incident(incident, None)
            raise self._anomaly_error(incident)

    def _log(self, result: StepResult, tokens_per_second: float | None) -> None:
        context, state = self.context, self.state
        loss = self.step_log.pop_mean_loss()
        context.run.metrics.log(
            state.step, tokens=state.tokens, loss=loss,
            learning_rate=context.optimizers[-1].param_groups[0]["lr"],
            learning_rate_factor=result.learning_rate_factor, grad_norm=float(result.grad_norm),
            tokens_per_second=tokens_per_second, mfu=context.mfu(tokens_per_second),
            epoch=context.order.epoch(state.step, context.batch_rows),
        )  # fmt: skip
        self._progress_fields = {"loss": loss, "tok/s": round(tokens_per_second or 0)}

    def _evaluate(self) -> None:
        """Log held-out bits per byte on some documents, and samples of the model."""
        context, state, recipe = self.context, self.state, self.context.recipe
        model = sharding.full_model(context.model)
        bits = context.held_out.estimate(
            model, documents=recipe.evaluate_documents, tokens=recipe.evaluate_tokens
        )
        if not math.isfinite(bits):
            raise self._error(f"the held-out loss is not finite after step {state.step} of {context.steps}")
        samples = sample_texts(context, model)
        context.run.metrics.log(state.step, tokens=state.tokens, bits_per_byte=bits, samples=samples)

    def _measure_checkpoint(self) -> None:
        """Log the bits per byte of all held-out text before the training, if it goes on from a checkpoint."""
        if self.context.recipe.checkpoint is None:
            return
        context, model = self.context, sharding.full_model(self.context.model)
        shown_as = f"{context.run.name}: held-out text"
        _, bits, _ = context.held_out.evaluate(model, seed=context.recipe.seed, shown_as=shown_as)
        context.run.metrics.log(self.state.step, checkpoint_bits_per_byte=bits.estimate)

    def _keep_weights(self) -> None:
        """Write the weights to `steps/`, with samples of the model."""
        context, state = self.context, self.state
        model = sharding.full_model(context.model)
        samples = sample_texts(context, model)
        seeds = _sample_seeds(context)
        known = context.known_documents if context.run.is_main else None
        window = context.recipe.window
        self.writer.keep(KeptWeights(
            state.step, state.tokens,
            training_state.copy_weights(context.model, keep=context.run.is_main),
            [{**sample, "seed": seed} for sample, seed in zip(samples, seeds, strict=False)],
            None if known is None else known.surprise(model, window=window),
        ))  # fmt: skip

    def _save(self) -> None:
        self.step_log.sync()
        self.context.run.metrics.close()  # syncs the file; the next line opens it again
        self.writer.save(self._take_snapshot())

    def _take_snapshot(self) -> Snapshot | None:
        """Return the complete state on the main process, None on others; every process must call it."""
        context, state = self.context, self.state
        state.guard = self.monitor.state_dict()
        state.seconds, state.timed_tokens = context.stopwatch.seconds, context.stopwatch.tokens
        return training_state.take_snapshot(
            context.model, context.optimizers, state, keep=context.run.is_main
        )

    def _require_finite_weights(self) -> None:
        """Check the weights before they are evaluated or saved: a finite gradient can make them infinite."""
        dtype = devices.sum_dtype(self.context.accelerator.device)
        parameters = self.context.model.parameters()
        sums = torch.stack([sharding.full_tensor(p.detach().to(dtype).sum()) for p in parameters])
        if not bool(torch.isfinite(sums).all()):
            raise self._error(
                f"the weights are not finite after step {self.state.step} of {self.context.steps}"
            )

    def _write_incident(self, incident: Incident, snapshot: Snapshot | None) -> None:
        self.step_log.flush()
        self.writer.wait()
        incidents.write(self.context, incident, snapshot=snapshot, exporter=self.writer.exporter)

    def _anomaly_error(self, incident: Incident) -> ToolkitError:
        run, skips = self.context.run.path, len(self.state.skipped)
        message = f"{incident.anomaly} at step {incident.step + 1} of {self.context.steps}"
        if skips > 1:
            message += f"; {skips} steps were skipped, more than guard.max_skips"
        if not incidents.folder_of(run, incident.step).exists():
            return self._error(message)
        command = incidents.replay_command(run, incident.step)
        return self._error(message, f"; `{command}` replays the step")

    def _error(self, message: str, more: str = "") -> ToolkitError:
        return ToolkitError(
            message, where=str(self.context.run.path),
            fix="lower optimizer.learning_rate or lengthen schedule.warmup_tokens, and start over "
            f"with --fresh; earlier checkpoints are intact{more}",
        )  # fmt: skip


def sample_texts(
    context: TrainingContext, model: PreTrainedModel, *, missing: dict[str, str] | None = None
) -> list[dict[str, str]]:
    """Sample a text for each prompt on the main process, with the same random numbers at every step.

    Args:
        model: the context's model, not sharded.
        missing: receives the reason if sampling fails; there are no samples then.
    """
    settings, prompts = context.recipe.samples, context.sample_prompts
    if not context.run.is_main or not prompts:
        return []
    positions = context.recipe.window
    new_tokens = min(settings.max_new_tokens, positions - 1)
    start_id = context.shards.start_id
    encoded = [
        [start_id, *context.tokenizer.encode(prompt, add_special_tokens=False)][-(positions - new_tokens) :]
        for prompt in prompts
    ]
    answers = attempt(
        lambda: generate(
            model, encoded, seed=_sample_seeds(context),
            end_id=StopTokens.of(model, context.tokenizer).ids, pad_id=context.tokenizer.pad_token_id,
            max_new_tokens=new_tokens, temperature=settings.temperature,
        ),
        keys=["samples"], run=context.run.name, missing=missing,
    )  # fmt: skip
    if answers is None:
        return []
    texts = [context.tokenizer.decode(ids) for ids in answers.ids]
    return [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]


def _sample_seeds(context: TrainingContext) -> list[int]:
    return [derive(context.recipe.seed, "samples", i) for i in range(len(context.sample_prompts))]


def _resume(context: TrainingContext) -> TrainingState:
    """Load, on every process, the newest sealed checkpoint that the main process sees."""
    folder: list[str | None] = [None]
    if context.run.is_main:
        newest = checkpoint.latest(context.run)
        kept_weights.require_whole(context.run.path, newest[0] if newest else -1)
        folder = [str(newest[1]) if newest else None]
    if context.accelerator.num_processes > 1:
        broadcast_object_list(folder, from_process=0)
    if folder[0] is None:
        return TrainingState()
    return training_state.load_checkpoint(Path(folder[0]), model=context.model, optimizers=context.optimizers)
