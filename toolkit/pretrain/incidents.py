"""Incidents: everything that an anomalous step depended on, kept so that the step can be replayed."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.base import files, ranks
from toolkit.data.text import batch_order
from toolkit.pretrain.anomaly import Anomaly
from toolkit.pretrain.context import TrainingContext
from toolkit.pretrain.training_state import ModelExporter, Snapshot
from toolkit.runs import checkpoint, layout

FOLDER = layout.INCIDENTS
FILE = "incident.json"
STATE_FOLDER = "state"
FORMAT = "toolkit incident 1"


@dataclass(frozen=True)
class Incident:
    """A step that was rejected; `step` counts from 0."""

    step: int
    anomaly: Anomaly
    loss: float
    grad_norm: float


def folder_of(run: Path, step: int) -> Path:
    """Return the folder of the incident at a step (from 0); its name counts from 1, as steps are shown."""
    return run / FOLDER / f"step-{step + 1:08d}"


def replay_command(run: Path, step: int) -> str:
    """Return the command line that replays an incident at a step (from 0)."""
    return f"toolkit verify {shlex.quote(str(run))} --incident {step + 1}"


def write(
    context: TrainingContext, incident: Incident, *, snapshot: Snapshot | None, exporter: ModelExporter
) -> Path:
    """Write the incident's folder: the anomaly, the rows, the random streams, the state before the step.

    Args:
        snapshot: the state before the step. None if the anomaly was noticed later, as on a GPU that is not
            synchronised at every step: the incident then names the newest earlier checkpoint, from which
            the steps can be recomputed.
    """
    path = folder_of(context.run.path, incident.step)
    if not context.run.is_main:
        return path
    path.parent.mkdir(exist_ok=True)
    with files.atomic_folder(path) as temporary:
        if snapshot is not None:
            (temporary / STATE_FOLDER).mkdir()
            snapshot.write(temporary / STATE_FOLDER, exporter)
        files.write_json(temporary / FILE, _as_json(context, incident, has_state=snapshot is not None))
        checkpoint.seal_folder(temporary)
    return path


def _as_json(context: TrainingContext, incident: Incident, *, has_state: bool) -> dict[str, Any]:
    step, anomaly = incident.step, incident.anomaly
    starts = context.order.starts(step, context.batch_rows)
    earlier = [number for number, _ in checkpoint.steps(context.run.checkpoints) if number <= step]
    newest = f"../../checkpoints/step-{earlier[-1]:08d}" if earlier else None
    return {
        "format": FORMAT, "step": step + 1, "why": str(anomaly),
        "what": anomaly.quantity, "value": repr(anomaly.value), "z_score": anomaly.z_score,
        "mean": anomaly.mean, "deviation": anomaly.deviation,
        "loss": repr(incident.loss), "gradient_norm": repr(incident.grad_norm),
        "state": STATE_FOLDER if has_state else None,
        "checkpoint": None if has_state else newest,
        "batch": batch_order.digest(starts), "row_starts": starts.tolist(),
        "row_tokens": context.row_tokens(step), "corpus": context.shards.digest,
        "micro_rows": context.micro_rows,
        "random": {"seed": context.recipe.seed, "stream": f"dropout/{step}/number of the part"},
        "world_size": ranks.world_size(), "threads": context.run.decisions.threads,
    }  # fmt: skip
