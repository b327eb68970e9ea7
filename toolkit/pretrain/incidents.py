"""What a run keeps of a step that the guard held up, so that it can be made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.base import files, ranks
from toolkit.data.text import batch_order
from toolkit.pretrain.anomaly import FILE, FOLDER, Trigger
from toolkit.pretrain.context import Job
from toolkit.pretrain.state import Snapshot, Template
from toolkit.runs import checkpoint

STATE = "state"
FORMAT = "toolkit incident 1"


def write(
    job: Job, *, step: int, trigger: Trigger, loss: float, norm: float,
    snapshot: Snapshot | None, template: Template,
) -> Path:  # fmt: skip
    """Write incidents/step-N: what happened, what the step read, its random streams, the state before it.

    Args:
        step: from 0; N is step + 1, as steps are counted everywhere else.
        snapshot: the state before the step. None where it was noticed too late (a GPU is not waited for):
            then the newest checkpoint before it is named, and the steps from there give the same.
    """
    path = job.run.path / FOLDER / f"step-{step + 1:08d}"
    if not job.run.is_main:
        return path
    path.parent.mkdir(exist_ok=True)
    with files.atomic_folder(path) as temporary:
        if snapshot is not None:
            (temporary / STATE).mkdir()
            snapshot.write(temporary / STATE, template)
        files.write_json(temporary / FILE, _account(job, step, trigger, loss, norm, snapshot is not None))
        checkpoint.seal_folder(temporary)
    return path


def _account(
    job: Job, step: int, trigger: Trigger, loss: float, norm: float, has_state: bool
) -> dict[str, Any]:
    starts = job.order.starts(step, job.batch_rows)
    before = [number for number, _ in checkpoint.steps(job.run.checkpoints) if number <= step]
    number = {"what": trigger.what, "value": repr(trigger.value), "z_score": trigger.z_score}
    return {
        "format": FORMAT, "step": step + 1, "why": str(trigger), **number,
        "mean": trigger.mean, "deviation": trigger.deviation,
        "loss": repr(loss), "gradient_norm": repr(norm),
        "state": STATE if has_state else None,
        "checkpoint": None if has_state else f"../../checkpoints/step-{before[-1]:08d}" if before else None,
        "batch": batch_order.digest(starts), "row_starts": starts.tolist(), "row_tokens": job.length(step),
        "corpus": job.shards.digest, "micro_rows": job.micro_rows,
        "random": {"seed": job.recipe.seed, "stream": f"dropout/{step}/number of the part"},
        "world_size": ranks.world_size(), "threads": job.run.manifest["facts"].get("threads"),
    }  # fmt: skip
