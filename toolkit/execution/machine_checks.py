"""Settings of `trainer` that this machine or this launch cannot carry out, found before anything is read."""

from __future__ import annotations

import multiprocessing

from toolkit.base import ranks
from toolkit.base.errors import Problem, ProblemKind
from toolkit.config.loader import LoadedRecipe
from toolkit.config.schema import TrainerRecipe
from toolkit.config.yaml_source import dotted, nearest
from toolkit.runtime import hardware

_GPU_ONLY = ("activation_offloading", "tf32", "torch_empty_cache_steps", "dataloader_pin_memory")
_OFF = {"activation_offloading": (False,), "dataloader_pin_memory": (False,)}
"""Values that mean what a CPU does anyway."""


def problems(loaded: LoadedRecipe) -> list[Problem]:
    """Return a problem for each setting that needs a GPU on a CPU, or one process in a launch of several."""
    recipe = loaded.recipe
    if not isinstance(recipe, TrainerRecipe):
        return []
    found = []
    if not (recipe.device == "cuda" or (recipe.device == "auto" and hardware.has_gpu())):
        where = "device: cpu" if recipe.device == "cpu" else "device: auto, and no GPU is here"
        found += [
            (key, f"has an effect only on a GPU ({where})", ProblemKind.NO_EFFECT)
            for key in _GPU_ONLY
            if recipe.trainer.get(key) is not None and recipe.trainer[key] not in _OFF.get(key, ())
        ]
    if ranks.world_size() > 1 and recipe.trainer.get("precompute_ref_log_probs"):
        sentence = f"needs one process, not {ranks.world_size()}: trl does not share what it computes"
        found.append(("precompute_ref_log_probs", sentence, ProblemKind.CONFLICT))
    if recipe.trainer.get("dataloader_num_workers") and not _has_shared_memory():
        sentence = "needs shared memory, and /dev/shm is missing or closed (docker: --shm-size=1g); use 0"
        found.append(("dataloader_num_workers", sentence, ProblemKind.VALUE))
    return [
        Problem(nearest(loaded.positions, ("trainer", key)), dotted(("trainer", key)), sentence, kind)
        for key, sentence, kind in found
    ]


def _has_shared_memory() -> bool:
    try:
        multiprocessing.Lock()
    except OSError:
        return False
    return True
