"""The stages on TRL's trainers: sft, reward, dpo."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from toolkit.config.schema.base import (
    UNKNOWN_WORK,
    BatchSize,
    Count,
    DataSources,
    PlannedWork,
    Positive,
    Settings,
    StageRecipe,
)

ALL_LINEAR = "all-linear"
"""The name of all linear layers of a model except its head, as in PEFT."""
TRL_MAX_LENGTH = 1024
"""TRL's default of `trainer.max_length`."""


class LoraSettings(Settings):
    """Train low-rank adapters instead of all weights (Hu et al., 2021)."""

    r: Annotated[int, Field(gt=0, le=100_000)] = 8
    alpha: Positive = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: list[str] | Literal["all-linear"] = ["c_attn", "c_proj", "c_fc"]
    """Layers with adapters, by their names or the ends of these, or `all-linear`: all linear layers but the
    head. The default fits GPT-2."""
    load_in_4bit: bool = False
    """Not ppo. Keep the other weights in 4 bits (NF4) during the training (Dettmers et al., 2023); the model
    that is written has plain weights. Needs an NVIDIA GPU and the package bitsandbytes."""
    merge: bool = True
    """Write a plain model, with the adapters in its weights. With `false` `model/` is an adapter in PEFT's
    format, which needs `model`, its base, wherever it is used."""


class TrainerRecipe(StageRecipe):
    """Settings of the stages on TRL's trainers."""

    model: str
    """A sealed run, a model folder, or `hub-id@revision`."""
    data: DataSources
    batch_examples: BatchSize = 16
    """Examples per optimizer step, over all processes."""
    micro_batch_examples: BatchSize | None = None
    """Examples per forward pass on one process; the default is all examples of the process."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    lora: LoraSettings | None = None
    log_every_steps: Count = 10
    checkpoint_every_steps: Count | None = None
    """Steps between two checkpoints; the default is a fifth of the training."""
    trainer: dict[str, Any] = {}
    """Settings of TRL's own configuration class, checked by name and type."""

    def longest_sequence(self, positions: int) -> int:
        return min(self.trainer.get("max_length", TRL_MAX_LENGTH) or positions, positions)

    def planned_work(self, positions: int) -> PlannedWork:
        examples = self._planned_examples()
        return UNKNOWN_WORK if examples is None else PlannedWork(examples * self.longest_sequence(positions))

    def _planned_examples(self) -> float | None:
        """Return the number of examples of all epochs; None if it depends on the data."""
        max_steps = self.trainer.get("max_steps", -1)
        if max_steps > 0:
            return max_steps * self.batch_examples
        counts = [source.examples for source in self.data if source.examples is not None]
        if len(counts) < len(self.data):
            return None
        return self.trainer.get("num_train_epochs", 3.0) * sum(counts)

    def planned_steps(self) -> int | None:
        """Return the largest number of optimizer steps; None if it depends on the data."""
        examples = self._planned_examples()
        return None if examples is None else max(1, math.ceil(examples / self.batch_examples))


class SftRecipe(TrainerRecipe):
    """Supervised fine-tuning on conversations (trainer: trl.SFTConfig)."""

    stage: Literal["sft"]
    multi_turn: Literal["all", "last"] = "all"
    """Only sft. Which answers of a conversation are learned: all, or the last one."""
    chat_template: str = "auto"
    """Only sft. `auto` keeps the template of the model's tokenizer; without one it takes ChatML if the
    tokenizer has its tokens, else the toolkit's. `chatml`, `toolkit`, or the path of a Jinja file."""

    @model_validator(mode="after")
    def agrees_with_trl(self) -> SftRecipe:
        if self.multi_turn == "last" and self.trainer.get("assistant_only_loss"):
            raise ValueError("multi_turn: last learns one answer, trainer.assistant_only_loss all of them")
        return self


class RewardRecipe(TrainerRecipe):
    """A Bradley-Terry reward model from preferences (trainer: trl.RewardConfig)."""

    stage: Literal["reward"]


class DpoRecipe(TrainerRecipe):
    """Direct preference optimization (trainer: trl.DPOConfig)."""

    stage: Literal["dpo"]
