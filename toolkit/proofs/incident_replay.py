"""A step that stopped a pretraining, or that it skipped, computed again from what was kept of it."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from toolkit.base import files
from toolkit.base.console import tell
from toolkit.base.errors import RunError, UsageError
from toolkit.data.text import batch_order
from toolkit.pretrain import incidents, step_log
from toolkit.pretrain.context import TrainingContext
from toolkit.pretrain.step_log import StepRecord
from toolkit.proofs import rebuild
from toolkit.proofs.replay import (
    environment_differences,
    json_number,
    load_state,
    replay_steps,
    training_context,
)
from toolkit.runs import checkpoint

Account = dict[str, object]
"""The content of incident.json."""


@dataclass(frozen=True)
class IncidentReplay:
    """The result of a replayed incident and the recorded values.

    Attributes:
        folder: the incident's folder.
        why: the recorded reason.
        values: (recorded, now) by name; recorded values are the `repr` of the number.
        steps_before: steps that were replayed to reach the incident.
        differences_before: how these differ from the run's record.
        environment: what differs between this machine and the run's.
    """

    folder: Path
    run: Path
    step: int
    why: str
    values: dict[str, tuple[str, float]]
    steps_before: int
    differences_before: list[str]
    environment: list[str]

    @property
    def reproduced(self) -> bool:
        same = all(repr(value) == recorded for recorded, value in self.values.values())
        return same and not self.differences_before

    def as_json(self) -> dict[str, object]:
        """Return the JSON object; numbers that JSON does not have are strings."""
        (recorded_loss, loss), (recorded_norm, norm) = self.values.values()
        return {
            "incident": str(self.folder), "run": str(self.run), "step": self.step, "why": self.why,
            "reproduced": self.reproduced,
            "loss": json_number(loss), "recorded_loss": json_number(float(recorded_loss)),
            "norm": json_number(norm), "recorded_norm": json_number(float(recorded_norm)),
            "steps_before": self.steps_before, "differences_before": self.differences_before,
            "environment": self.environment,
        }  # fmt: skip


def replay_incident(run: Path, step: int) -> IncidentReplay:
    """Replay the step of an incident; nothing is written into the run.

    Args:
        step: the first step is 1, as in the names of the incidents' folders.

    Raises:
        ToolkitError: no such incident, changed files, or a run of several processes.
    """
    folder = run / incidents.FOLDER / f"step-{step:08d}"
    account = _read(folder)
    rebuild.require_parents(run)
    with redirect_stdout(sys.stderr), training_context(run) as context:
        _require_fit(context, folder, account)
        environment = environment_differences(run)
        promise = rebuild.promise(rebuild.tier(environment, exact=context.recipe.exact), environment)
        tell(f"{run}: incident at step {step}: {account['why']}\n  {promise}")
        *before, last = _replay_steps(context, folder, account)
    return IncidentReplay(
        folder=folder,
        run=run,
        step=step,
        why=account["why"],
        values={
            "loss": (account["loss"], last.loss),
            "gradient norm": (account["gradient_norm"], last.norm),
        },
        steps_before=len(before),
        differences_before=_differences_before(run, before),
        environment=environment,
    )


def _read(folder: Path) -> Account:
    """Return the account of an incident whose files are all as they were sealed."""
    file = folder / incidents.FILE
    if not file.is_file():
        steps = [int(path.name.removeprefix("step-")) for path in sorted(folder.parent.glob("step-*"))]
        fix = f"its incidents are at the steps {', '.join(map(str, steps))}" if steps else None
        raise UsageError("the run has no incident at this step", where=str(folder), fix=fix)
    account = files.read_json(file)
    if not isinstance(account, dict) or account.get("format") != incidents.FORMAT:
        raise RunError("is not an incident that this version can read", where=str(file))
    problems = checkpoint.problems(folder)
    if problems:
        raise RunError(
            f"the incident changed since it was sealed: {'; '.join(problems[:3])}",
            where=str(folder), fix="restore the files; without them the step cannot be replayed",
        )  # fmt: skip
    return account


def _require_fit(context: TrainingContext, folder: Path, account: Account) -> None:
    """Refuse an incident of another run: its step reads other rows."""
    step = account["step"] - 1
    now = {
        "corpus": context.shards.digest,
        "batch": batch_order.digest(context.order.starts(step, context.batch_rows)),
        "row_starts": context.order.starts(step, context.batch_rows).tolist(),
        "row_tokens": context.row_tokens(step),
        "micro_rows": context.micro_rows,
    }
    differing = [name for name, value in now.items() if account[name] != value]
    if differing:
        raise RunError(
            f"the incident belongs to another run: {', '.join(differing)} differ",
            where=str(folder), fix="name the run in which it happened",
        )  # fmt: skip


def _replay_steps(context: TrainingContext, folder: Path, account: Account) -> list[StepRecord]:
    """Train from the kept state, the named checkpoint, or the initial weights, up to the incident's step."""
    named = account["state"] or account["checkpoint"]
    begin = None if named is None else folder / named
    if begin is not None and account["state"] is None:
        problems = ["missing"] if not begin.is_dir() else checkpoint.problems(begin)
        if problems:
            raise RunError(
                f"the checkpoint before the step cannot be used: {'; '.join(problems[:3])}",
                where=str(begin.resolve()), fix="restore it: the steps after it lead to the incident",
            )  # fmt: skip
    state = load_state(context, begin)
    if account["state"] is None:
        since = f"step {state.step}" if state.step else "the initial weights"
        tell(f"  no state was kept: replaying from {since} to step {account['step']}")
    return list(replay_steps(context, state, account["step"]))


def _differences_before(run: Path, before: list[StepRecord]) -> list[str]:
    """Compare the steps before the incident with those that the run recorded."""
    recorded = {step.step: step for step in step_log.read(run / step_log.FILE)}
    pairs = [(recorded[step.step], step) for step in before if step.step in recorded]
    return step_log.differences([old for old, _ in pairs], [new for _, new in pairs])
