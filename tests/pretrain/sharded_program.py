"""Execute `toolkit run` for each recipe on every process and record the layout of the weights.

    torchrun --nproc-per-node 2 sharded_program.py RECIPE ... --runs-dir DIR

For each recipe NAME, every process writes NAME.RANK.json with the final layout of its weights. A run
whose name is in FAULTS gets a planted fault.
"""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

from torch import nn
from torch.distributed.tensor import DTensor

from tests.pretrain.trainings import run_recipes
from toolkit.base import ranks
from toolkit.pretrain import optimizer, sharding, stage, step, training_state
from toolkit.pretrain.context import TrainingContext

NAN_STEP = 4
"""From 0; a checkpoint has just been written."""
forward_backward = step.forward_backward
update, clip = optimizer.Muon._update, nn.utils.clip_grad_norm_


def muon_of_a_part(self, matrices, group):
    """Fault: each process orthogonalizes only its own rows."""
    with (
        mock.patch.object(sharding, "full_tensor", sharding.local_part),
        mock.patch.object(sharding, "shard_like", lambda target, content: content),
    ):
        update(self, matrices, group)


def part_of_a_tensor(tensor, keep):
    """Fault: checkpoints are written without gathering the weights."""
    return sharding.local_part(tensor.detach()).clone()


def clip_by_the_part(parameters, limit):
    """Fault: each process clips by the norm of its own gradients."""
    parts = []
    for parameter in parameters:
        part = nn.Parameter(sharding.local_part(parameter.detach()))
        part.grad = sharding.local_part(parameter.grad)
        parts.append(part)
    return clip(parts, limit)


def no_number(context, number, rows):
    """Not a fault: triggers the anomaly monitor."""
    return forward_backward(context, number, rows) * (float("nan") if number == NAN_STEP else 1.0)


FAULTS = {
    "broken-muon": (optimizer.Muon, "_update", muon_of_a_part),
    "broken-files": (training_state, "_copy_to_cpu", part_of_a_tensor),
    "broken-norm": (nn.utils, "clip_grad_norm_", clip_by_the_part),
    "incident": (step, "forward_backward", no_number),
}


def _look(context: TrainingContext) -> None:
    """Record the layout of the weights on this process."""
    model = context.model
    states = {name: v for name, v in optimizer.state_tensors(context.optimizers, model).items() if v.ndim}
    tensors = [*model.parameters(), *states.values()]
    account = {
        "spread_weights": all(isinstance(parameter, DTensor) for parameter in model.parameters()),
        "spread_states": sorted({isinstance(value, DTensor) for value in states.values()}),
        "states": sorted({name.rpartition(":")[2] for name in states}),
        "dtypes": sorted({str(tensor.dtype) for tensor in tensors}),
        "tied": model.lm_head.weight is model.get_input_embeddings().weight,
        "bytes": sum(sharding.local_part(tensor).numel() * tensor.element_size() for tensor in tensors),
        "accelerate": context.accelerator.distributed_type.value,
    }
    path = context.run.path
    path.with_name(f"{path.name}.{ranks.rank()}.json").write_text(json.dumps(account))


def fault_of(recipe: str) -> AbstractContextManager:
    fault = FAULTS.get(Path(recipe).stem)
    return mock.patch.object(*fault) if fault else nullcontext()


if __name__ == "__main__":
    finish = stage._finish
    stage._finish = lambda context: (_look(context), finish(context))
    run_recipes(sys.argv[1:], fault_of)
