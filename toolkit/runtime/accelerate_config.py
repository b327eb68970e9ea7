"""How Accelerate is configured to shard weights, and which of it the toolkit supports. Without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from toolkit.base import ranks
from toolkit.base.errors import ToolkitError, UsageError
from toolkit.config.schema import PretrainRecipe, StageRecipe

FSDP = "FSDP"
_WITHOUT_EFFECT = ("offload_params", "activation_checkpointing")
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


def require_supported(recipe: StageRecipe) -> None:
    """Refuse a launch that cannot do what the recipe and Accelerate's configuration say.

    It reads the environment that `accelerate launch` sets, so that the check comes before slow imports,
    the process group and the first write.

    Raises:
        ToolkitError: DeepSpeed, Megatron-LM, FSDP1, settings of FSDP that have no effect here; FSDP with
            `shard_weights: false` or `exact: true`.
    """
    if _is_true(os.environ.get("ACCELERATE_USE_DEEPSPEED")):
        _refuse("DEEPSPEED", {}, where="accelerate launch")
    if _is_true(os.environ.get("ACCELERATE_USE_MEGATRON_LM")):
        _refuse("MEGATRON_LM", {}, where="accelerate launch")
    if sharding_asked():
        names = ("version", *_WITHOUT_EFFECT)
        settings = {name: os.environ.get(f"FSDP_{name.upper()}") for name in names}
        _refuse(FSDP, settings, where="accelerate launch")
    if not isinstance(recipe, PretrainRecipe) or ranks.world_size() == 1:
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


def require_supported_configuration(content: Mapping[str, Any], *, where: str) -> None:
    """Refuse unsupported settings in the content of a file for `accelerate launch`.

    Raises:
        UsageError: as `require_supported`, as far as the file tells.
    """
    fsdp_config = content.get("fsdp_config") or {}
    settings = {name: fsdp_config.get(f"fsdp_{name}") for name in ("version", *_WITHOUT_EFFECT)}
    _refuse(str(content.get("distributed_type")), settings, where=where)


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
