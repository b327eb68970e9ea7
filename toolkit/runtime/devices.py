"""How this process computes: device, precision, threads, and deterministic algorithms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from toolkit.base import ranks
from toolkit.base.errors import ToolkitError
from toolkit.config.schema import StageRecipe
from toolkit.runtime import accelerate_config, allocator, env_vars, hardware


def configure(recipe: StageRecipe, *, threads: int | None = None) -> None:
    """Set threads, deterministic algorithms, the allocator and the environment of the Hugging Face libraries.

    Args:
        recipe: its `device`, `threads` and, of a pretraining, `speed.keep_memory` are read.
        threads: of a resumed run; default `default_threads`.
    """
    env_vars.set_variables(recipe.device)
    count = threads or default_threads(recipe)
    torch.set_num_threads(count)
    # Warn only: top-p sampling needs a cumulative sum, which has no deterministic CUDA kernel.
    # FlashAttention's backward pass does follow this switch.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling every new tensor costs time, and no result depends on it.
    torch.utils.deterministic.fill_uninitialized_memory = False
    speed = getattr(recipe, "speed", None)
    allocator.configure(select(recipe.device), keep=speed is None or speed.keep_memory)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def default_threads(recipe: StageRecipe) -> int:
    """Return `threads` of the recipe, or the cores divided by the processes on this machine."""
    return hardware.default_threads(recipe.threads)


def select(setting: str = "auto") -> torch.device:
    """Return the device of this process; with several GPUs, the one of its local rank.

    `auto` never takes `mps`, whose results are not promised to be equal from run to run.

    Raises:
        ToolkitError: `cuda` or `mps` on a machine without a usable GPU, more processes than GPUs, or several
            processes on `mps`.
    """
    if setting == "mps":
        return _mps()
    available = torch.cuda.is_available()
    if setting == "cuda" and not available:
        raise ToolkitError(
            "device: cuda, but PyTorch sees no GPU here",
            where="device",
            fix="set device: auto or cpu, or install a PyTorch build for your GPU",
        )
    if setting == "cpu" or not available:
        return torch.device("cpu")
    index = ranks.local_rank()
    if index >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ToolkitError(
            f"process {index} has no GPU: there are {count}",
            where="device",
            fix="start as many processes as there are GPUs (--num_processes)",
        )
    return torch.device("cuda", index)


def _mps() -> torch.device:
    if not torch.backends.mps.is_available():
        reason = "sees no Apple GPU here" if torch.backends.mps.is_built() else "was built without MPS"
        raise ToolkitError(
            f"device: mps, but PyTorch {reason}",
            where="device",
            fix="set device: auto or cpu; mps needs an Apple GPU and a macOS that this PyTorch supports",
        )
    if ranks.world_size() > 1:
        raise ToolkitError(
            f"device: mps is one GPU for one process, and {ranks.world_size()} processes were started",
            where="device",
            fix="start one process, or set device: cpu",
        )
    return torch.device("mps")


def sum_dtype(on: torch.device) -> torch.dtype:
    """Return the dtype of long sums: float64, but float32 on `mps`, which has no float64."""
    return torch.float32 if on.type == "mps" else torch.float64


def to_device(array: np.ndarray, on: torch.device) -> torch.Tensor:
    """Return an array as a tensor on a device; numbers in float64 get `sum_dtype`."""
    tensor = torch.from_numpy(array)
    return tensor.to(on, dtype=sum_dtype(on) if tensor.dtype == torch.float64 else tensor.dtype)


def synchronise(on: torch.device) -> None:
    """Wait for a GPU, before a time is taken."""
    if on.type == "cuda":
        torch.cuda.synchronize(on)
    elif on.type == "mps":
        torch.mps.synchronize()


def precision(setting: str, on: torch.device) -> str:
    """Return "bf16" or "fp32"; `auto` is bf16 where the hardware supports it natively, and fp32 on `mps`.

    On a CPU without AVX512-BF16 or AMX bf16 is 12 times slower than fp32.
    """
    if setting != "auto":
        return setting
    decided = _automatic_precision(on)
    accelerate_config.require_precision(decided)
    return decided


def _automatic_precision(on: torch.device) -> str:
    if torch.device(on).type == "mps":
        return "fp32"
    if torch.device(on).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if hardware.processor()["bf16"] else "fp32"


def trainer_arguments(on: torch.device, *, bf16: bool) -> dict[str, Any]:
    """Return the TrainingArguments of transformers that the toolkit sets for every stage.

    The toolkit evaluates, reports and uploads itself, and a loss that is not finite must be visible.
    """
    on_cpu = on.type == "cpu"
    return {
        "bf16": bf16,
        "use_cpu": on_cpu,
        "ddp_backend": "gloo" if on_cpu and ranks.world_size() > 1 else None,
        "ddp_find_unused_parameters": False,
        "eval_strategy": "no",
        "save_strategy": "steps",
        "logging_strategy": "steps",
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",
        "push_to_hub": False,
    }


def accelerators() -> list[str]:
    """Return the names of the GPUs that PyTorch sees."""
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def require_as_recorded(accelerator: Accelerator, *, bf16: bool, compiled: bool = False) -> None:
    """Refuse to run when Accelerate would compute in another way than the run records.

    Args:
        accelerator: of the training; it also follows environment variables and files of its own.
        bf16: Accelerate casts to bf16.
        compiled: Accelerate compiles the model.

    Raises:
        ToolkitError: names what differs.
    """
    require_agreement(accelerator.num_processes)
    plugin = accelerator.state.dynamo_plugin
    found = {
        "mixed precision": (accelerator.mixed_precision, "bf16" if bf16 else "no"),
        "compilation": (plugin.backend.value != "NO", compiled),
    }
    for name, (runs, recorded) in found.items():
        if runs != recorded:
            raise ToolkitError(
                f"Accelerate is set to {name} {runs!r}, but the recipe to {recorded!r}",
                where="accelerate",
                fix="unset the environment variables that begin with ACCELERATE_, and let the recipe decide",
            )


def require_agreement(processes: int) -> None:
    """Refuse to run when the launcher and Accelerate disagree about the number of processes.

    A MULTI_GPU configuration with 8 processes on a machine without GPUs starts 8 independent copies, which
    would all write to the same run.

    Args:
        processes: the number of processes in accelerate.PartialState.

    Raises:
        ToolkitError: they disagree.
    """
    launched = ranks.world_size()
    if processes != launched:
        raise ToolkitError(
            f"the launcher started {launched} processes, but Accelerate sees {processes}: these would be "
            f"{launched} copies of the same run",
            where="accelerate launch",
            fix="with GPUs: one process per GPU; on a CPU: num_processes: 1, or torchrun --nproc-per-node N",
        )
