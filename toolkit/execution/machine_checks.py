"""Settings that this machine or this launch cannot carry out, found before anything is read."""

from __future__ import annotations

import importlib.util
import multiprocessing

from toolkit.base import ranks
from toolkit.base.errors import Problem, ProblemKind, ToolkitError
from toolkit.config import process_counts
from toolkit.config.loader import LoadedRecipe
from toolkit.config.schema import StageRecipe, TrainerRecipe
from toolkit.config.yaml_source import Key, dotted, nearest
from toolkit.runtime import hardware

_Found = tuple[Key, str, ProblemKind]

FOUR_BIT = "bitsandbytes"
_GPU_ONLY = ("activation_offloading", "tf32", "torch_empty_cache_steps", "dataloader_pin_memory")
_OFF = {"activation_offloading": (False,), "dataloader_pin_memory": (False,)}
"""Values that mean what a CPU does anyway."""


def problems(loaded: LoadedRecipe, *, processes: int | None = None) -> list[Problem]:
    """Return a problem for each setting that this machine or this launch lacks something for.

    Args:
        processes: number of processes that will run the recipe; None is that of this launch.
    """
    processes = processes or ranks.world_size()
    found = _undivided(loaded.recipe, processes) if processes > 1 else []
    if isinstance(loaded.recipe, TrainerRecipe):
        found += _of_trainer(loaded.recipe, processes)
    return [
        Problem(nearest(loaded.positions, key), dotted(key), sentence, kind) for key, sentence, kind in found
    ]


def _undivided(recipe: StageRecipe, processes: int) -> list[_Found]:
    try:
        process_counts.require_divisible(recipe, processes=processes)
    except ToolkitError as error:
        key = tuple((error.where or "").split("."))
        what = error.what.removeprefix(f"{key[-1]} ")
        sentence = f"{what}; {error.fix}" if error.fix else what
        return [(key, sentence, ProblemKind.CONFLICT)]
    return []


def _of_trainer(recipe: TrainerRecipe, processes: int) -> list[_Found]:
    found: list[_Found] = []
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
    if processes > 1 and recipe.trainer.get("precompute_ref_log_probs"):
        sentence = f"needs one process, not {processes}: trl does not share what it computes"
        found.append((("trainer", "precompute_ref_log_probs"), sentence, ProblemKind.CONFLICT))
    if recipe.trainer.get("dataloader_num_workers") and not _has_shared_memory():
        sentence = "needs shared memory, and /dev/shm is missing or closed (docker: --shm-size=1g); use 0"
        found.append((("trainer", "dataloader_num_workers"), sentence, ProblemKind.VALUE))
    return found


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
