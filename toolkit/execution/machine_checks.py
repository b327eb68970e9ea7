"""Settings that this machine or this launch cannot carry out, found before anything is read."""

from __future__ import annotations

import importlib.util
import multiprocessing

from toolkit.base import ranks
from toolkit.base.errors import Problem, ProblemKind
from toolkit.config.loader import LoadedRecipe
from toolkit.config.schema import TrainerRecipe
from toolkit.config.yaml_source import dotted, nearest
from toolkit.runtime import hardware

FOUR_BIT = "bitsandbytes"
_GPU_ONLY = ("activation_offloading", "tf32", "torch_empty_cache_steps", "dataloader_pin_memory")
_OFF = {"activation_offloading": (False,), "dataloader_pin_memory": (False,)}
"""Values that mean what a CPU does anyway."""


def problems(loaded: LoadedRecipe) -> list[Problem]:
    """Return a problem for each setting that this machine or this launch lacks something for."""
    recipe = loaded.recipe
    if not isinstance(recipe, TrainerRecipe):
        return []
    found = []
    on_gpu = recipe.device == "cuda" or (recipe.device == "auto" and hardware.has_gpu())
    if not on_gpu:
        where = f"device: {recipe.device}" + (", and no GPU is here" if recipe.device == "auto" else "")
        found += [
            (("trainer", key), f"has an effect only on a GPU with CUDA ({where})", ProblemKind.NO_EFFECT)
            for key in _GPU_ONLY
            if recipe.trainer.get(key) is not None and recipe.trainer[key] not in _OFF.get(key, ())
        ]
    if recipe.lora and recipe.lora.load_in_4bit and (missing := _missing_for_4bit(on_gpu=on_gpu)):
        found.append((("lora", "load_in_4bit"), f"needs {missing}", ProblemKind.CONFLICT))
    if ranks.world_size() > 1 and recipe.trainer.get("precompute_ref_log_probs"):
        sentence = f"needs one process, not {ranks.world_size()}: trl does not share what it computes"
        found.append((("trainer", "precompute_ref_log_probs"), sentence, ProblemKind.CONFLICT))
    if recipe.trainer.get("dataloader_num_workers") and not _has_shared_memory():
        sentence = "needs shared memory, and /dev/shm is missing or closed (docker: --shm-size=1g); use 0"
        found.append((("trainer", "dataloader_num_workers"), sentence, ProblemKind.VALUE))
    return [
        Problem(nearest(loaded.positions, key), dotted(key), sentence, kind) for key, sentence, kind in found
    ]


def _missing_for_4bit(*, on_gpu: bool) -> str:
    """Return what training with weights in 4 bits lacks here, an empty string if nothing is missing."""
    missing = [] if on_gpu else ["an NVIDIA GPU"]
    if importlib.util.find_spec(FOUR_BIT) is None:
        missing.append(f"the package {FOUR_BIT} (pip install {FOUR_BIT})")
    return " and ".join(missing)


def _has_shared_memory() -> bool:
    try:
        multiprocessing.Lock()
    except OSError:
        return False
    return True
