"""How Accelerate is configured to shard weights, and which of it the toolkit supports. Without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from toolkit.base import ranks
from toolkit.base.errors import ToolkitError, UsageError
from toolkit.config.schema import PpoRecipe, PretrainRecipe, StageRecipe, TrainerRecipe

FSDP = "FSDP"
_WITHOUT_EFFECT = ("offload_params", "activation_checkpointing")
_KINDS = ("NO", "MULTI_CPU", "MULTI_GPU", FSDP)
_PRECISION = "ACCELERATE_MIXED_PRECISION"
_RECIPE_DECIDES = {
    _PRECISION: (("no",), "`precision` of the recipe decides"),
    "ACCELERATE_DYNAMO_BACKEND": (("no",), "`compile` of a pretraining, or `trainer.torch_compile`, decides"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (("1",), "`micro_batch_...` of the recipe decides"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (
        ("false", "0", "no"),
        "only DDP and FSDP2 are supported",
    ),
    "ACCELERATE_TORCH_DEVICE": ((), "`device` of the recipe decides"),
    "NVIDIA_TF32_OVERRIDE": (("0",), "`precision` of the recipe decides"),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": (("0",), "`precision` of the recipe decides"),
}
"""Environment variables that would change results behind the recipe: the values that change nothing, and what
decides instead."""
_COMPILATION_OFF = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
_FIX = "use recipes/accelerate/gpus.yaml (whole weights on each GPU) or fsdp.yaml (FSDP2)"


def sharding_asked() -> bool:
    """Return whether Accelerate is configured for FSDP.

    `Accelerator().distributed_type` cannot tell: on a CPU it is DDP whatever the configuration.
    """
    return _is_true(os.environ.get("ACCELERATE_USE_FSDP"))


def spreads_weights(recipe: PretrainRecipe) -> bool:
    """Return whether a pretraining shards its weights, which needs several processes."""
    setting = recipe.shard_weights
    return ranks.world_size() > 1 and (sharding_asked() if setting == "auto" else setting)


def lets_go() -> bool:
    """Return whether gathered weights are freed after a forward pass (`fsdp_reshard_after_forward`)."""
    return not sharding_asked() or os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() != "false"


def require_recipe_decides(recipe: StageRecipe | None = None) -> None:
    """Refuse environment variables with which Accelerate or torch would compute otherwise than recipes say.

    Args:
        recipe: variables may also be what this recipe says.

    Raises:
        ToolkitError: names the variable, its value and what decides instead.
    """
    for name, (neutral, reason) in _RECIPE_DECIDES.items():
        value = os.environ.get(name)
        if name == _PRECISION and recipe is not None and agrees(recipe, value):
            continue
        if value and value.lower() not in neutral:
            fix = f"unset {name}" + (", or set it to no in Accelerate's file" if "no" in neutral else "")
            raise ToolkitError(f"{name} is {value!r}, but {reason}", where="environment", fix=fix)


def require_supported(recipe: StageRecipe) -> None:
    """Refuse a launch that cannot do what the recipe and Accelerate's configuration say.

    It reads the environment that `accelerate launch` sets, so that the check comes before slow imports,
    the process group and the first write.

    Raises:
        ToolkitError: DeepSpeed, Megatron-LM, FSDP1, settings of FSDP that have no effect here; FSDP with
            `shard_weights: false` or `exact: true`; variables that override the recipe.
    """
    require_recipe_decides(recipe)
    if _is_true(os.environ.get("ACCELERATE_USE_DEEPSPEED")):
        _refuse("DEEPSPEED", {}, where="accelerate launch")
    if _is_true(os.environ.get("ACCELERATE_USE_MEGATRON_LM")):
        _refuse("MEGATRON_LM", {}, where="accelerate launch")
    if sharding_asked():
        names = ("version", *_WITHOUT_EFFECT)
        settings = {name: os.environ.get(f"FSDP_{name.upper()}") for name in names}
        _refuse(FSDP, settings, where="accelerate launch")
    if not isinstance(recipe, PretrainRecipe):
        return
    off = [name for name in _COMPILATION_OFF if _is_true(os.environ.get(name))]
    if off and recipe.compile is not False:
        raise ToolkitError(
            f"{off[0]} turns compilation off, but `compile` of the recipe decides", where="environment",
            fix=f"unset {off[0]}, or set compile: false",
        )  # fmt: skip
    if ranks.world_size() == 1:
        return
    if recipe.shard_weights is False and sharding_asked():
        raise ToolkitError(
            "shard_weights: false, but Accelerate is set to FSDP", where="shard_weights",
            fix="set shard_weights: auto, or launch with distributed_type: MULTI_GPU",
        )  # fmt: skip
    if recipe.exact and spreads_weights(recipe):
        raise ToolkitError(
            "exact keeps all weights on every process, but Accelerate is set to FSDP", where="exact",
            fix="launch with distributed_type: MULTI_GPU (recipes/accelerate/gpus.yaml), or set exact: false",
        )  # fmt: skip


def agrees(recipe: StageRecipe, mixed_precision: str | None) -> bool:
    """Return whether Accelerate's mixed precision is that of a recipe, or, for `auto`, may be.

    `require_precision` compares once `auto` is decided. Stages that train nothing have no mixed precision.
    """
    value = str(mixed_precision or "no").lower()
    trained = recipe.precision if isinstance(recipe, PretrainRecipe | TrainerRecipe | PpoRecipe) else "bf16"
    return value == "no" or (value == "bf16" and trained in ("auto", "bf16"))


def require_precision(decided: str) -> None:
    """Refuse mixed precision of Accelerate that is not what `precision: auto` has become.

    Raises:
        ToolkitError: they differ.
    """
    value = (os.environ.get(_PRECISION) or "no").lower()
    if value not in ("no", decided):
        raise ToolkitError(
            f"{_PRECISION} is {value!r}, but `precision` of the recipe decides, which is {decided} here",
            where="environment", fix=f"unset {_PRECISION}, or set it to no in Accelerate's file",
        )  # fmt: skip


def require_same_precision(recipe: StageRecipe, content: Mapping[str, Any], *, where: str) -> None:
    """Refuse a file for `accelerate launch` whose mixed precision is not that of a recipe.

    Raises:
        UsageError: they differ.
    """
    value = content.get("mixed_precision")
    if not agrees(recipe, value):
        raise UsageError(
            f"mixed_precision is {value!r}, but `precision` of the {recipe.stage} recipe is another",
            where=where, fix="remove mixed_precision: each recipe has its own precision",
        )  # fmt: skip


def require_supported_configuration(content: Mapping[str, Any], *, where: str) -> None:
    """Refuse unsupported settings in the content of a file for `accelerate launch`.

    Raises:
        UsageError: as `require_supported`, as far as the file tells.
    """
    fsdp_config = content.get("fsdp_config") or {}
    settings = {name: fsdp_config.get(f"fsdp_{name}") for name in ("version", *_WITHOUT_EFFECT)}
    kind = content.get("distributed_type")
    kind = str(kind or "NO")  # YAML reads NO as false
    _refuse(kind, settings, where=where)
    if kind not in _KINDS:
        raise UsageError(f"distributed_type: {kind} is not supported", where=where, fix=_FIX)
    _refuse_processes(content, kind, where=where)
    _refuse_decisions(content, where=where)


def _refuse_decisions(content: Mapping[str, Any], *, where: str) -> None:
    """Refuse what a file decides in place of the recipe; `accelerate launch` makes the variables of it."""
    dynamo = (content.get("dynamo_config") or {}).get("dynamo_backend") or content.get("dynamo_backend")
    decided = {
        "mixed_precision": (_PRECISION, content.get("mixed_precision")),
        "fp16": (_PRECISION, content.get("fp16")),
        "dynamo_backend": ("ACCELERATE_DYNAMO_BACKEND", dynamo),
        "parallelism_config": ("ACCELERATE_USE_PARALLELISM_CONFIG", content.get("parallelism_config")),
    }
    for key, (variable, value) in decided.items():
        is_compared = key == "mixed_precision" and str(value).lower() == "bf16"  # with each recipe
        if value and str(value).lower() != "no" and not is_compared:
            raise UsageError(
                f"{key} is {value!r}, but {_RECIPE_DECIDES[variable][1]}", where=where, fix=f"remove {key}"
            )


def _refuse_processes(content: Mapping[str, Any], kind: str, *, where: str) -> None:
    count = content.get("num_processes", 1)
    if not isinstance(count, int) or count < 1:
        raise UsageError(
            f"num_processes must be a positive integer, not {count!r}",
            where=where, fix="set num_processes: 1",
        )  # fmt: skip
    if count > 1 and kind == "NO":
        raise UsageError(
            f"num_processes: {count} with distributed_type: NO would start one process", where=where,
            fix="set distributed_type: MULTI_GPU, or num_processes: 1",
        )  # fmt: skip


def _refuse(kind: str, settings: Mapping[str, Any], *, where: str) -> None:
    if kind in ("DEEPSPEED", "MEGATRON_LM"):
        raise UsageError(f"{kind} is not supported", where=where, fix=_FIX)
    if kind != FSDP:
        return
    if str(settings.get("version") or 1) != "2":
        raise UsageError("FSDP1 is not supported: fsdp_version is not 2", where=where,
                         fix="set fsdp_version: 2, as recipes/accelerate/fsdp.yaml does")  # fmt: skip
    for name in _WITHOUT_EFFECT:
        if _is_true(settings.get(name)):
            raise UsageError(f"fsdp_{name} has no effect here", where=where, fix=f"set fsdp_{name}: false")


def _is_true(value: Any) -> bool:
    return str(value).lower() in ("true", "1", "yes")
