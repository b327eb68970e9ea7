"""`toolkit run` for each of the recipes on every process, with what is needed to look at their weights.

    torchrun --nproc-per-node 2 sharded_program.py RECIPE ... --runs-dir DIR

Beside the run of a recipe NAME each process writes NAME.RANK.json: how its weights lay at the end. A run
whose name is one of FAULTS is broken on purpose.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

from torch import nn
from torch.distributed.tensor import DTensor

from toolkit.base import ranks
from toolkit.cli import main as main_module
from toolkit.pretrain import optimizer, sharding, stage, state, step
from toolkit.pretrain.context import Job
from toolkit.runtime import rank_zero

NAN_STEP = 4
"""From 0; a checkpoint has just been written."""
whole, as_spread_as, gradients = sharding.whole, sharding.as_spread_as, step.gradients
update, clip = optimizer.Muon._update, nn.utils.clip_grad_norm_


def muon_of_a_part(self, alike, group):
    """Each process orthogonalises the rows that it has."""
    with (
        mock.patch.object(sharding, "whole", sharding.own),
        mock.patch.object(sharding, "as_spread_as", lambda place, content: content),
    ):
        update(self, alike, group)


def part_of_a_tensor(tensor, keep):
    """Checkpoints are written without gathering."""
    return sharding.own(tensor.detach()).clone()


def clip_by_the_part(parameters, limit):
    """Each process clips by the norm of the gradients that it has."""
    parts = []
    for parameter in parameters:
        part = nn.Parameter(sharding.own(parameter.detach()))
        part.grad = sharding.own(parameter.grad)
        parts.append(part)
    return clip(parts, limit)


def no_number(job, number, rows):
    """Nothing is broken: the guard has something to do."""
    return gradients(job, number, rows) * (float("nan") if number == NAN_STEP else 1.0)


FAULTS = {
    "broken-muon": (optimizer.Muon, "_update", muon_of_a_part),
    "broken-files": (state, "_apart", part_of_a_tensor),
    "broken-norm": (nn.utils, "clip_grad_norm_", clip_by_the_part),
    "incident": (step, "gradients", no_number),
}


def _look(job: Job) -> None:
    """Write down how the weights lie on this process."""
    model = job.model
    states = {name: v for name, v in optimizer.state_tensors(job.optimizers, model).items() if v.ndim}
    tensors = [*model.parameters(), *states.values()]
    account = {
        "spread_weights": all(isinstance(parameter, DTensor) for parameter in model.parameters()),
        "spread_states": sorted({isinstance(value, DTensor) for value in states.values()}),
        "states": sorted({name.rpartition(":")[2] for name in states}),
        "dtypes": sorted({str(tensor.dtype) for tensor in tensors}),
        "tied": model.lm_head.weight is model.transformer.wte.weight,
        "bytes": sum(sharding.own(tensor).numel() * tensor.element_size() for tensor in tensors),
        "accelerate": job.accelerator.distributed_type.value,
    }
    path = job.run.path
    path.with_name(f"{path.name}.{ranks.rank()}.json").write_text(json.dumps(account))


def main(words: list[str]) -> int:
    finish = stage._finish
    stage._finish = lambda job: (_look(job), finish(job))
    rank_zero.leave = lambda: None  # the next recipe needs the process group, too
    end = words.index("--runs-dir")
    for recipe in words[:end]:
        fault = FAULTS.get(Path(recipe).stem)
        with mock.patch.object(*fault) if fault else nullcontext():
            status = main_module.main(["run", recipe, *words[end:]])
        if status:
            return status
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # as toolkit/__main__.py, for the same reason
