"""Trainer's arguments that the `ppo` stage decides, for PPO, RLOO and GRPO alike."""

from __future__ import annotations

import math
from typing import Any

from toolkit.config.schema import PpoRecipe
from toolkit.runs.run import Run
from toolkit.runtime import devices
from toolkit.stages.trainer_runner import staging

CPU_MICRO_BATCH = {"fp32": 16, "bf16": 32}
"""With 2 million parameters and 64 answers of 112 tokens, micro-batches of 16 take 25 % less time than one of
64 in fp32 (caches); in bf16, micro-batches of 32 take 15 % less than those of 16."""


def arguments(recipe: PpoRecipe, run: Run) -> dict[str, Any]:
    """Return folders, intervals of logs and checkpoints, precision, seed, and answers of a forward pass."""
    target = devices.select(recipe.device)
    on_cpu = target.type == "cpu"
    precision = run.decide("precision", devices.precision(recipe.precision, target))
    default = CPU_MICRO_BATCH[precision] if on_cpu else recipe.trainer.rollout_examples
    steps = recipe.trainer.epochs * recipe.trainer.minibatches
    rollouts = recipe.trainer.episodes // recipe.trainer.rollout_examples
    return {
        "output_dir": str(staging(run)),
        "seed": recipe.seed % 2**32,  # numpy takes 32 bits
        "per_device_train_batch_size": recipe.micro_batch_examples or default,
        "lr_scheduler_type": recipe.trainer.schedule,
        "dataloader_pin_memory": target.type == "cuda",
        "logging_steps": steps * recipe.log_every_steps,
        "save_steps": steps * (recipe.checkpoint_every_steps or math.ceil(rollouts / 5)),
        **devices.trainer_arguments(target, bf16=precision == "bf16"),
    }
