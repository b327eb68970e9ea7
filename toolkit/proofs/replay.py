"""Steps of a run made again in a temporary folder, and compared bit for bit with what the run wrote down.

The run itself is only read: it may be sealed, or on a disk that cannot be written to.
"""

from __future__ import annotations

import sys
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
from toolkit.base.errors import RunError, UsageError
from toolkit.base.progress import Progress
from toolkit.config.schema import PretrainRecipe
from toolkit.data.text import batch_order
from toolkit.pretrain import stage, state, step_log
from toolkit.pretrain.anomaly import Guard
from toolkit.pretrain.context import Job
from toolkit.pretrain.step import take
from toolkit.pretrain.step_log import Journal, Step
from toolkit.proofs import rebuild
from toolkit.runs import checkpoint, layout
from toolkit.runtime import devices


@dataclass(frozen=True)
class Compared:
    """A checkpoint or a final model against the state that the replay came to."""

    what: str
    tensors: int
    differences: list[str]


@dataclass
class Replay:
    """Steps `start` + 1 up to `start` + len(recorded), as they were written down and as they came out now."""

    start: int
    checkpoint: str | None
    """Name of the one that it began from; None: the initial weights."""
    environment: list[str]
    """What is not as it was when the run was made."""
    tier: str
    """What is promised here (`twin.tier`)."""
    recorded: list[Step]
    again: list[Step] = field(default_factory=list)
    states: list[Compared] = field(default_factory=list)

    @property
    def differences(self) -> list[str]:
        """Each `step N: what`, then each `checkpoint: tensor: what`; empty where every bit is the same."""
        of_states = [f"{one.what}: {line}" for one in self.states for line in one.differences]
        return step_log.differences(self.recorded, self.again) + of_states


def replay_run(path: Path, steps: int) -> Replay:
    """Make `steps` optimizer steps of a pretraining again, from its newest checkpoint that allows it.

    Raises:
        ToolkitError: no pretraining, fewer steps than that, several processes, or parents that changed.
    """
    recorded = _journaled(path, steps)
    rebuild.require_parents(path)
    start, folder = _begin(path, last=recorded[-1].step - steps)
    recorded = [step for step in recorded if start < step.step <= start + steps]
    with job_of(path) as job:
        other = environment_of(path)
        result = Replay(
            start, folder and folder.name, other, rebuild.tier(other, exact=job.recipe.exact), recorded
        )
        begin = folder.name if folder else "the initial weights"
        print(f"{path}: replaying steps {start + 1} to {start + steps} from {begin}", file=sys.stderr)
        print(f"  {rebuild.promise(result.tier, other)}", file=sys.stderr)
        position = restore(job, folder)
        kept = dict(checkpoint.steps(path / layout.CHECKPOINTS))
        with Progress("replay", steps) as progress:
            for number, step in enumerate(make(job, position, start + steps), 1):
                result.again.append(step)
                result.states += _compare(job, position, path, kept.get(step.step))
                progress.update(number)
    return result


def _journaled(path: Path, steps: int) -> list[Step]:
    made = rebuild.content(path)
    if made["stage"] != "pretrain":
        raise UsageError(
            f"is a run of the stage {made['stage']}: only the steps of a pretraining are written down one by "
            "one",
            where=str(path), fix=f"`toolkit reproduce {path}` makes the whole run again",
        )  # fmt: skip
    recorded = step_log.read(path / step_log.FILE)
    if len(recorded) < steps:
        raise UsageError(
            f"{steps} steps cannot be replayed: {len(recorded)} are written down in {step_log.FILE}",
            where=str(path), fix=f"give --replay {len(recorded)} or less" if recorded else None,
        )  # fmt: skip
    return recorded


def _begin(path: Path, *, last: int) -> tuple[int, Path | None]:
    """Return (step, folder) of the newest whole checkpoint up to step `last`, or (0, None)."""
    for step, folder in reversed(checkpoint.steps(path / layout.CHECKPOINTS)):
        if step <= last:
            wrong = checkpoint.problems(folder)
            if not wrong:
                return step, folder
            print(f"{folder}: not used, it is not what was sealed ({'; '.join(wrong[:3])})", file=sys.stderr)
    return 0, None


@contextmanager
def job_of(path: Path) -> Iterator[Job]:
    """Yield a pretraining's job, with the threads, precision and compilation that the run recorded.

    Raises:
        ToolkitError: it was trained on several processes, whose bits one process cannot give; or its
            parents cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="toolkit-replay-") as temporary:
        recipe = rebuild.recipe(path, runs_dir=Path(temporary))
        assert isinstance(recipe, PretrainRecipe)
        _require_one_process(path, recipe)
        run = rebuild.stand_in(path, recipe, runs_dir=Path(temporary))
        devices.configure(recipe)
        job = stage.prepare(recipe, run)
        with job.forms():
            job.model.train()
            yield job


def _require_one_process(path: Path, recipe: PretrainRecipe) -> None:
    if ranks.world_size() > 1:
        raise UsageError("a replay is made by one process", fix="start it without a launcher")
    made = rebuild.content(path)
    sizes = {attempt["world_size"] for attempt in [made, *made["resumed"]]}
    if sizes != {1} and not recipe.exact:
        raise RunError(
            f"was trained on {max(sizes)} processes, which add their gradients up in another order than one "
            "does: a replay on one process could not have the same bits",
            where=str(path), fix=f"`toolkit batch {path} --step N` checks what each step read; a recipe with "
            "`exact: true` can be replayed on any machine like it",
        )  # fmt: skip


def environment_of(path: Path) -> list[str]:
    """Return what differs here from where the run was made; called when threads are set."""
    lines = rebuild.environment_differences(path, accelerators=devices.accelerators())
    threads = rebuild.content(path)["facts"].get("threads")
    if threads is not None and torch.get_num_threads() != threads:
        lines.append(f"threads: {threads} -> {torch.get_num_threads()}")
    return lines


def restore(job: Job, folder: Path | None) -> state.Position:
    """Put a checkpoint's state into the job; without one it is at its initial weights."""
    if folder is None:
        return state.Position()
    return state.read(folder, model=job.model, optimizers=job.optimizers)


def make(job: Job, position: state.Position, end: int) -> Iterator[Step]:
    """Do the steps from a position up to `end`, as the training does; yield what each one gave.

    The position goes on with them.
    """
    guard = Guard(job.recipe.guard, position.guard)
    book = Journal(job.run.path / step_log.FILE, job.accelerator, active=False, whole=True)
    for number, rows in job.feed().steps(position.step, end):
        outcome = take(job, number, rows, guard)
        if outcome.trigger is not None:
            position.skipped.append(number + 1)
        batch = batch_order.digest(job.order.starts(number, job.batch_rows))
        book.add(number + 1, outcome.loss, outcome.norm, batch, skipped=outcome.trigger is not None)
        position.step, position.tokens = number + 1, (number + 1) * job.recipe.batch_tokens
        position.guard = guard.state()
        yield from book.collect()


def _compare(job: Job, position: state.Position, path: Path, folder: Path | None) -> list[Compared]:
    """Compare with the checkpoint of this step, and after the last step with the finished model."""
    model = path / layout.MODEL / state.WEIGHTS
    last = position.step == job.steps and model.is_file()
    if folder is None and not last:
        return []
    now = state.take(job.model, job.optimizers, position)
    tied = set(job.model.all_tied_weights_keys)
    weights = {name: tensor for name, tensor in now.weights.items() if name not in tied}
    found = []
    if folder is not None:
        name = folder.relative_to(path).as_posix()
        found.append(_against(f"{name} weights", weights, folder / state.WEIGHTS))
        found.append(_against(f"{name} optimizer", now.optimizer, folder / state.OPTIMIZER))
        kept = files.read_json(folder / state.STATE)
        # the other two are measured times
        names = ("step", "tokens", "guard", "skipped")
        wrong = [f"{key}: differs" for key in names if kept.get(key) != asdict(position)[key]]
        found.append(Compared(f"{name} position", 0, wrong))
    if last:
        found.append(_against("model weights", weights, model))
    return found


def _against(what: str, now: Mapping[str, Tensor], file: Path) -> Compared:
    try:
        saved = load_file(file)
    except Exception as error:  # of the safetensors library's own kinds
        return Compared(what, len(now), [f"cannot be read: {error}"])
    return Compared(what, len(now), tensor_differences(saved, now))


def tensor_differences(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> list[str]:
    """Return which tensors differ in any bit, each `name: how many numbers`."""
    lines = [f"{name}: is on one side only" for name in sorted(before.keys() ^ now.keys())]
    for name in sorted(before.keys() & now.keys()):
        old, new = before[name].cpu(), now[name].cpu()
        if (old.dtype, old.shape) != (new.dtype, new.shape):
            lines.append(f"{name}: {old.dtype} {tuple(old.shape)} -> {new.dtype} {tuple(new.shape)}")
            continue
        # as bytes: a NaN is the same as itself, and -0 is not 0
        size = old.element_size()
        pairs = [one.contiguous().reshape(-1).view(torch.uint8).reshape(-1, size) for one in (old, new)]
        wrong = int((pairs[0] != pairs[1]).any(dim=1).sum())
        if wrong:
            lines.append(f"{name}: {wrong} of {old.numel()} numbers differ")
    return lines


def as_json(replay: Replay) -> dict[str, Any]:
    """The account of a replay; numbers that are none are texts."""
    found = replay.differences
    rows = zip(replay.recorded, replay.again, strict=True)
    return {
        "same": not found, "from": replay.start, "checkpoint": replay.checkpoint,
        "steps": len(replay.recorded), "tier": replay.tier, "environment": replay.environment,
        "first_difference": found[0] if found else None, "differences": len(found),
        "losses": [
            {"step": old.step, "batch": new.batch, "recorded_batch": old.batch,
             "loss": number(new.loss), "recorded_loss": number(old.loss),
             "norm": number(new.norm), "recorded_norm": number(old.norm)}
            for old, new in rows
        ],
        "states": [{"what": one.what, "tensors": one.tensors, "differences": one.differences}
                   for one in replay.states],
    }  # fmt: skip


def number(value: float) -> float | str:
    """A number for JSON, which has no NaN."""
    return value if value == value and abs(value) != float("inf") else str(value)
