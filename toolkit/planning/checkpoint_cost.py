"""Memory and speed of a training that starts from a checkpoint: counted, and measured on matrix products."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from toolkit.base.errors import RunError
from toolkit.config.registry import Cost
from toolkit.config.schema import LoraSettings, PpoRecipe, PretrainRecipe, StageRecipe, TrainerRecipe
from toolkit.models import checkpoint_memory, memory
from toolkit.models.checkpoint_memory import Pass
from toolkit.models.checkpoint_shape import CheckpointShape
from toolkit.runtime import hardware, signals

DEFAULT_POSITIONS = 1024
"""Tokens of a row for checkpoints whose configuration names no limit, as in the training."""
PROBE = "toolkit.planning.product_probe"
PROBE_SECONDS = 2.0
PROBE_LIMIT_SECONDS = 120
PROBE_TOKENS = 2048
"""Most rows of a product that is timed."""
EFFICIENCY = 0.6
"""Operations per second of whole training steps, as a share of those of products of the same sizes."""


@dataclass(frozen=True)
class CheckpointTraining:
    """The training of a checkpoint on one process."""

    shape: CheckpointShape
    computed: Pass
    lora: LoraSettings | None

    def memory(self, state: int) -> dict[str, int]:
        """Return the bytes of each part, given those of weights, gradients and optimizer."""
        return checkpoint_memory.parts(self.shape, self.computed, state=state, lora=self.lora)


def has_gpu(recipe: StageRecipe) -> bool:
    """Return whether the recipe runs on a GPU."""
    return recipe.device == "cuda" or (recipe.device == "auto" and hardware.has_gpu())


def computes_in_bf16(recipe: StageRecipe) -> bool:
    """Return whether products are in bf16 on the machine that the recipe runs on."""
    setting = getattr(recipe, "precision", "auto")
    if setting != "auto":
        return setting == "bf16"
    return recipe.device != "mps" and (has_gpu(recipe) or bool(hardware.processor()["bf16"]))


def training(
    recipe: StageRecipe, cost: Cost, shape: CheckpointShape, *, processes: int
) -> CheckpointTraining | None:
    """Return what one process computes at once; None for PPO, whose batches follow from its answers."""
    length = recipe.longest_sequence(shape.positions or DEFAULT_POSITIONS)
    on_gpu, checkpointed = has_gpu(recipe), False
    if isinstance(recipe, PretrainRecipe):
        tokens = scored = memory.micro_batch(recipe, processes=processes)
        if block := recipe.speed.head_block_tokens:
            scored = min(scored, block)
    elif isinstance(recipe, TrainerRecipe) and not isinstance(recipe, PpoRecipe):
        share = max(1, recipe.batch_examples // processes)
        examples = min(recipe.micro_batch_examples or share, share) * cost.sequences_per_example
        tokens = scored = examples * length
        if recipe.stage == "reward":
            scored = 0
        checkpointed = any(
            recipe.trainer.get(key) for key in ("activation_checkpointing", "gradient_checkpointing")
        )
    else:
        return None
    computed = Pass(tokens, length, scored, computes_in_bf16(recipe), on_gpu, checkpointed)
    return CheckpointTraining(shape, computed, getattr(recipe, "lora", None))


def flops_per_second(recipe: StageRecipe, shape: CheckpointShape, *, tokens: int) -> float:
    """Return the operations per second of a training on this machine, estimated from timed products.

    Raises:
        RunError: the program that times them failed.
    """
    layers = sorted({tuple(sorted(sides)) for sides in shape.linear.values()})
    question: dict[str, Any] = {
        "layers": layers or [(shape.width, shape.width)], "tokens": min(tokens, PROBE_TOKENS),
        "bf16": computes_in_bf16(recipe), "threads": hardware.default_threads(recipe.threads),
        "device": recipe.device, "seconds": PROBE_SECONDS,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", PROBE], input=json.dumps(question), capture_output=True, text=True,
        timeout=PROBE_LIMIT_SECONDS, preexec_fn=signals.die_with_parent,
    )  # fmt: skip
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise RunError(
            f"the probe failed: {last}", where=PROBE, fix="plan without timing products (--no-probe)"
        )
    return EFFICIENCY * json.loads(done.stdout.strip().splitlines()[-1])["flops_per_second"]
