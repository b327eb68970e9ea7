"""Replay a step that pretraining rejected as an anomaly, from its incident folder."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from toolkit.base import files
from toolkit.base.errors import RunError, UsageError
from toolkit.config import loader
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
from toolkit.runs import checkpoint, layout, manifest, seal


def incident_command(
    place: Path, recipe: Path | None = None, overrides: Sequence[str] = (), *, json: bool = False
) -> int:
    """Make the step again, show loss and gradient norm beside the recorded ones; 0 where both are the same.

    Nothing is written into the run.

    Args:
        place: incident.json, or its folder.
        recipe, overrides: not needed; where given they must be the run's.

    Raises:
        ToolkitError: no incident, changed files, another recipe, or a run of several processes.
    """
    folder, account = _read(place)
    run = seal.run_of(folder)
    if run is None:
        raise RunError(
            "lies in no run, whose manifest and corpus the step needs",
            where=str(folder), fix="name the incident where the run wrote it, RUN/incidents/step-N",
        )  # fmt: skip
    run = run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run
    if recipe is not None:
        _require_recipe(run, recipe, overrides)
    rebuild.require_parents(run)
    with redirect_stdout(sys.stderr), training_context(run) as context:
        _require_fit(context, folder, account)
        other = environment_differences(run)
        promise = rebuild.promise(rebuild.tier(other, exact=context.recipe.exact), other)
        print(f"{run}: step {account['step']} was held up: {account['why']}\n  {promise}", file=sys.stderr)
        *before, step = _replay_steps(context, folder, account)
    wrong_before = _differences_before(run, before)
    values = {"loss": step.loss, "gradient norm": step.norm}
    recorded = {"loss": account["loss"], "gradient norm": account["gradient_norm"]}
    same = all(repr(values[name]) == recorded[name] for name in values) and not wrong_before
    _show(values, recorded)
    _say(run, account["step"], same=same, before=wrong_before)
    if json:
        result = {
            "incident": str(folder), "run": str(run), "step": account["step"], "why": account["why"],
            "reproduced": same,
            "loss": json_number(step.loss), "recorded_loss": json_number(float(account["loss"])),
            "norm": json_number(step.norm), "recorded_norm": json_number(float(account["gradient_norm"])),
            "steps_before": len(before), "differences_before": wrong_before, "environment": other,
        }  # fmt: skip
        print(json_format.dumps(result, ensure_ascii=False, allow_nan=False))
    return 0 if same else 1


def _read(place: Path) -> tuple[Path, dict[str, Any]]:
    """Return (folder, account) of an incident whose every byte is as it was sealed."""
    file = place / incidents.FILE if place.is_dir() else place
    if not file.is_file() or file.name != incidents.FILE:
        raise UsageError(
            "there is no incident",
            where=str(place),
            fix="name RUN/incidents/step-N/incident.json or its folder",
        )
    account = files.read_json(file)
    if not isinstance(account, dict) or account.get("format") != incidents.FORMAT:
        raise RunError("is not an incident that this version knows", where=str(file))
    wrong = checkpoint.problems(file.parent)
    if wrong:
        raise RunError(
            f"the incident is not what was sealed: {'; '.join(wrong[:3])}",
            where=str(file.parent), fix="put the bytes back; without them the step is another one",
        )  # fmt: skip
    return file.parent, account


def _require_recipe(run: Path, recipe: Path, overrides: Sequence[str]) -> None:
    """Refuse another recipe than the run's. The run's own copy is taken as what it was read to be."""
    if recipe.is_dir():
        raise UsageError(
            "an incident belongs to one recipe", where=str(recipe), fix="name it, or leave it out"
        )
    own = run / layout.RECIPE
    if own.exists() and recipe.resolve() == own.resolve() and not overrides:
        return
    given = manifest.settings(loader.load(recipe, overrides).recipe)
    wrong = manifest.recipe_differences(rebuild.content(run)["inputs"]["settings"], given)
    if wrong:
        raise RunError(
            "the run of the incident was made from other settings:\n    " + "\n    ".join(wrong),
            where=str(recipe), fix="leave the recipe out: the run knows its own",
        )  # fmt: skip


def _require_fit(context: TrainingContext, folder: Path, account: dict[str, Any]) -> None:
    """Refuse an incident that is not of this run's plan: the step would read something else."""
    step = account["step"] - 1
    now = {
        "corpus": context.shards.digest,
        "batch": batch_order.digest(context.order.starts(step, context.batch_rows)),
        "row_starts": context.order.starts(step, context.batch_rows).tolist(),
        "row_tokens": context.row_tokens(step),
        "micro_rows": context.micro_rows,
    }
    wrong = [name for name, value in now.items() if account[name] != value]
    if wrong:
        raise RunError(
            f"the incident is not of this run as it is now: {', '.join(wrong)} differ",
            where=str(folder), fix="name an incident in the run that it happened in",
        )  # fmt: skip


def _replay_steps(context: TrainingContext, folder: Path, account: dict[str, Any]) -> list[StepRecord]:
    """Replay up to the step itself, from the kept state, the named checkpoint, or the initial weights."""
    named = account["state"] or account["checkpoint"]
    begin = None if named is None else folder / named
    if begin is not None and account["state"] is None:
        wrong = ["missing"] if not begin.is_dir() else checkpoint.problems(begin)
        if wrong:
            raise RunError(
                f"the checkpoint before the step cannot be used: {'; '.join(wrong[:3])}",
                where=str(begin.resolve()), fix="put it back: the steps after it lead to the incident",
            )  # fmt: skip
    state = load_state(context, begin)
    if account["state"] is None:
        since = f"step {state.step}" if state.step else "the initial weights"
        print(f"  no state was kept: going from {since} to step {account['step']}", file=sys.stderr)
    return list(replay_steps(context, state, account["step"]))


def _differences_before(run: Path, before: list[StepRecord]) -> list[str]:
    """Compare the steps on the way with those that the run wrote down."""
    known = {step.step: step for step in step_log.read(run / step_log.FILE)}
    pairs = [(known[step.step], step) for step in before if step.step in known]
    return step_log.differences([old for old, _ in pairs], [new for _, new in pairs])


def _show(values: dict[str, float], recorded: dict[str, str]) -> None:
    table = Table("", "recorded", "now", "", box=None, pad_edge=False)
    for name, value in values.items():
        same = repr(value) == recorded[name]
        table.add_row(name, recorded[name], repr(value), "same" if same else "[red]differs")
    Console(stderr=True, highlight=False).print(table)


def _say(run: Path, step: int, *, same: bool, before: list[str]) -> None:
    if before:
        print(f"error: on the way there already {before[0]}", file=sys.stderr)
    word = "reproduced, bit for bit" if same else "error: not reproduced"
    print(f"{word}; `toolkit batch {run} --step {step}` shows what it read", file=sys.stderr)
