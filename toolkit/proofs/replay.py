"""Replay steps of a run in a temporary folder and compare them bit for bit with what the run recorded.

The run itself is only read: it may be sealed, or on a read-only disk.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from toolkit.base import files, ranks
from toolkit.base.console import tell
from toolkit.base.errors import RunError, UsageError
from toolkit.base.progress import Progress
from toolkit.config.schema import PretrainRecipe
from toolkit.data.text import batch_order
from toolkit.pretrain import kept_weights, stage, step_log
from toolkit.pretrain.anomaly import AnomalyMonitor
from toolkit.pretrain.context import TrainingContext
from toolkit.pretrain.step import train_step
from toolkit.pretrain.step_log import StepLog, StepRecord
from toolkit.pretrain.training_state import (
    OPTIMIZER_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    TrainingState,
    load_checkpoint,
    take_snapshot,
)
from toolkit.proofs import rebuild
from toolkit.runs import checkpoint, layout
from toolkit.runs.decisions import Decisions
from toolkit.runtime import devices


@dataclass(frozen=True)
class StateComparison:
    """A part of a checkpoint, or the final model, compared with the state that the replay reached."""

    name: str
    num_tensors: int
    differences: list[str]


@dataclass
class Replay:
    """Steps `start` + 1 up to `start` + len(recorded), as the run recorded them and as they were replayed."""

    start: int
    checkpoint: str | None
    """Name of the checkpoint from which the replay started; None: the initial weights."""
    environment: list[str]
    """Differences between the environment of the run and this one."""
    tier: str
    """The reproducibility that is promised here (`rebuild.tier`)."""
    recorded: list[StepRecord]
    replayed: list[StepRecord] = field(default_factory=list)
    states: list[StateComparison] = field(default_factory=list)

    @property
    def differences(self) -> list[str]:
        """Differences of steps, then of checkpoints' tensors; empty if every bit is the same."""
        state_lines = [f"{state.name}: {line}" for state in self.states for line in state.differences]
        return step_log.differences(self.recorded, self.replayed) + state_lines


def replay_run(path: Path, steps: int) -> Replay:
    """Replay `steps` optimizer steps of a pretraining from the newest checkpoint with that many later steps.

    Raises:
        ToolkitError: another stage, fewer recorded steps, several processes, or parents that changed.
    """
    recorded = _read_step_log(path, steps)
    rebuild.require_parents(path)
    start, folder = _start_checkpoint(path, last=recorded[-1].step - steps)
    recorded = [record for record in recorded if start < record.step <= start + steps]
    with training_context(path) as context:
        environment = environment_differences(path)
        tier = rebuild.tier(environment, exact=context.recipe.exact)
        result = Replay(start, folder and folder.name, environment, tier, recorded)
        origin = folder.name if folder else "the initial weights"
        tell(f"{path}: replaying steps {start + 1} to {start + steps} from {origin}")
        tell(f"  {rebuild.promise(tier, environment)}")
        state = load_state(context, folder)
        checkpoints = dict(checkpoint.steps(path / layout.CHECKPOINTS))
        with Progress("replay", steps) as progress:
            for number, record in enumerate(replay_steps(context, state, start + steps), 1):
                result.replayed.append(record)
                result.states += _compare_state(context, state, path, checkpoints.get(record.step))
                progress.update(number)
    return result


def _read_step_log(path: Path, steps: int) -> list[StepRecord]:
    """Return the recorded steps of a pretraining; refuse other stages and fewer records than `steps`."""
    stage_name = rebuild.content(path)["stage"]
    if stage_name != "pretrain":
        raise UsageError(
            f"is a run of the stage {stage_name}: only pretraining records single steps",
            where=str(path), fix=f"`toolkit reproduce {path}` repeats the whole run",
        )  # fmt: skip
    recorded = step_log.read(path / step_log.FILE)
    if len(recorded) < steps:
        raise UsageError(
            f"{steps} steps cannot be replayed: {step_log.FILE} has {len(recorded)}",
            where=str(path), fix=f"give --replay {len(recorded)} or less" if recorded else None,
        )  # fmt: skip
    return recorded


def _start_checkpoint(path: Path, *, last: int) -> tuple[int, Path | None]:
    """Return (step, folder) of the newest intact checkpoint up to step `last`, or (0, None)."""
    for step, folder in reversed(checkpoint.steps(path / layout.CHECKPOINTS)):
        if step <= last:
            problems = checkpoint.problems(folder)
            if not problems:
                return step, folder
            tell(f"{folder}: not used, it is not what was sealed ({'; '.join(problems[:3])})")
    return 0, None


@contextmanager
def training_context(path: Path) -> Iterator[TrainingContext]:
    """Yield the context of a pretraining, with the threads, precision and compilation that the run recorded.

    Raises:
        ToolkitError: the run was trained on several processes, whose bits one process cannot reproduce; or
            its parents cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="toolkit-replay-") as temporary:
        recipe = rebuild.recipe(path, runs_dir=Path(temporary))
        assert isinstance(recipe, PretrainRecipe)
        _require_one_process(path, recipe)
        run = rebuild.temporary_run(path, recipe, runs_dir=Path(temporary))
        devices.configure(recipe)
        context = stage.prepare(recipe, run)
        with context.training_kernels():
            context.model.train()
            yield context


def _require_one_process(path: Path, recipe: PretrainRecipe) -> None:
    if ranks.world_size() > 1:
        raise UsageError("a replay needs a single process", fix="start it without a launcher")
    manifest = rebuild.content(path)
    sizes = {attempt["world_size"] for attempt in [manifest, *manifest["resumed"]]}
    if sizes != {1} and not recipe.exact:
        raise RunError(
            f"was trained on {max(sizes)} processes, which sum gradients in another order than a single "
            "process: a replay on one process could not have the same bits",
            where=str(path), fix=f"`toolkit batch {path} --step N` checks what each step read; runs with "
            "`exact: true` can be replayed on one process",
        )  # fmt: skip


def environment_differences(path: Path) -> list[str]:
    """Return the differences to the environment of the run; call it when the threads are set."""
    lines = rebuild.environment_differences(path, accelerators=devices.accelerators())
    threads = Decisions.of(rebuild.content(path)["facts"]).threads
    if threads is not None and torch.get_num_threads() != threads:
        lines.append(f"threads: {threads} -> {torch.get_num_threads()}")
    return lines


def load_state(context: TrainingContext, folder: Path | None) -> TrainingState:
    """Load a checkpoint into the context; None leaves the initial weights."""
    if folder is None:
        return TrainingState()
    return load_checkpoint(folder, model=context.model, optimizers=context.optimizers)


def replay_steps(context: TrainingContext, state: TrainingState, end: int) -> Iterator[StepRecord]:
    """Train from `state` up to step `end` as the training loop does; yield each step's record.

    `state` is updated in place.
    """
    monitor = AnomalyMonitor(context.recipe.guard, state.guard)
    log = StepLog(context.run.path / step_log.FILE, context.accelerator, active=False, losses_reduced=True)
    for step, rows in context.prefetcher().batches(state.step, end):
        result = train_step(context, step, rows, monitor)
        skipped = result.anomaly is not None
        if skipped:
            state.skipped.append(step + 1)
        batch = batch_order.digest(context.order.starts(step, context.batch_rows))
        log.add(step + 1, result.loss, result.grad_norm, batch, skipped=skipped)
        state.step, state.tokens = step + 1, (step + 1) * context.recipe.batch_tokens
        state.guard = monitor.state_dict()
        yield from log.flush()


def _compare_state(
    context: TrainingContext, state: TrainingState, path: Path, folder: Path | None
) -> list[StateComparison]:
    """Compare with the checkpoint and the kept weights of this step, and at the end with the final model."""
    kept = kept_weights.folder(path, state.step)
    model = path / layout.MODEL / WEIGHTS_FILE
    is_last = state.step == context.steps and model.is_file()
    if folder is None and not is_last and not kept.is_dir():
        return []
    snapshot = take_snapshot(context.model, context.optimizers, state)
    assert snapshot is not None
    tied = set(context.model.all_tied_weights_keys)
    weights = {name: tensor for name, tensor in snapshot.weights.items() if name not in tied}
    comparisons = []
    if folder is not None:
        name = folder.relative_to(path).as_posix()
        comparisons.append(_compare_tensors(f"{name} weights", weights, folder / WEIGHTS_FILE))
        comparisons.append(_compare_tensors(f"{name} optimizer", snapshot.optimizer, folder / OPTIMIZER_FILE))
        saved = files.read_json(folder / STATE_FILE)
        # the other two fields are measured times
        keys = ("step", "tokens", "guard", "skipped")
        differing = [f"{key}: differs" for key in keys if saved.get(key) != asdict(state)[key]]
        comparisons.append(StateComparison(f"{name} position", 0, differing))
    if kept.is_dir():
        name = kept.relative_to(path).as_posix()
        comparisons.append(_compare_tensors(f"{name} weights", weights, kept / WEIGHTS_FILE))
    if is_last:
        comparisons.append(_compare_tensors("model weights", weights, model))
    return comparisons


def _compare_tensors(name: str, replayed: Mapping[str, Tensor], file: Path) -> StateComparison:
    try:
        saved = load_file(file)
    except Exception as error:  # of the safetensors library's own kinds
        return StateComparison(name, len(replayed), [f"cannot be read: {error}"])
    return StateComparison(name, len(replayed), tensor_differences(saved, replayed))


def tensor_differences(saved: Mapping[str, Tensor], replayed: Mapping[str, Tensor]) -> list[str]:
    """Return which tensors differ in any bit, each `NAME: K of N numbers differ`."""
    lines = [f"{name}: is on one side only" for name in sorted(saved.keys() ^ replayed.keys())]
    for name in sorted(saved.keys() & replayed.keys()):
        old, new = saved[name].cpu(), replayed[name].cpu()
        if (old.dtype, old.shape) != (new.dtype, new.shape):
            lines.append(f"{name}: {old.dtype} {tuple(old.shape)} -> {new.dtype} {tuple(new.shape)}")
            continue
        num_different = int((_bytes(old) != _bytes(new)).any(dim=1).sum())
        if num_different:
            lines.append(f"{name}: {num_different} of {old.numel()} numbers differ")
    return lines


def _bytes(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes, (elements, bytes of one element): a NaN equals itself, and -0 is not 0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).reshape(-1, tensor.element_size())


def as_json(replay: Replay) -> dict[str, Any]:
    """Return the result of a replay as JSON; numbers that are not finite are strings."""
    differences = replay.differences
    rows = zip(replay.recorded, replay.replayed, strict=True)
    return {
        "same": not differences, "from": replay.start, "checkpoint": replay.checkpoint,
        "steps": len(replay.recorded), "tier": replay.tier, "environment": replay.environment,
        "first_difference": differences[0] if differences else None, "differences": len(differences),
        "losses": [
            {"step": old.step, "batch": new.batch, "recorded_batch": old.batch,
             "loss": json_number(new.loss), "recorded_loss": json_number(old.loss),
             "norm": json_number(new.norm), "recorded_norm": json_number(old.norm)}
            for old, new in rows
        ],
        "states": [
            {"what": state.name, "tensors": state.num_tensors, "differences": state.differences}
            for state in replay.states
        ],
    }  # fmt: skip


def json_number(value: float) -> float | str:
    """Return a number for JSON, which has neither NaN nor infinity: those become strings."""
    return value if math.isfinite(value) else str(value)
