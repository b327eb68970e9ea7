"""What a run decided where its recipe leaves the choice open: the `facts` of its manifest, typed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from toolkit.config.schema import StageRecipe

Recipe = TypeVar("Recipe", bound=StageRecipe)


@dataclasses.dataclass(frozen=True)
class Decisions:
    """What a run decided, and what it found out about its data. None: not decided, or not by this stage.

    A resumed run keeps what it decided when it began, except for what describes an attempt only.

    Attributes:
        threads: CPU threads of each process.
        device: where it computes.
        accelerators: names of the GPUs of the last attempt.
        precision: of the forward pass.
        compile: whether the training step is compiled.
        shard_weights: whether weights were sharded in the last attempt.
        levers: which fast paths of pretraining a checkpoint allows.
        steps: optimizer steps of the whole training.
        micro_batch_examples: examples of one forward pass in the last attempt.
        stored_dtype: of the weights of the trained model, as the checkpoint that it started from has them.
        trainer: every setting of the upstream trainer.
        stop_tokens: the tokens at which the model's answers end, with their ids; of several models by name.
        chat_template_date: the date that the chat template prints.
        prompts, held_out_prompts: numbers of prompts.
        rollouts: rollouts of the whole training.
        critic: what the critic starts from.
        first_rollout: scores and lengths of the reference's answers.
        hub_commits: the commit of each model of the Hub, by its name in the recipe.
    """

    threads: int | None = None
    device: Literal["cpu", "cuda", "mps"] | None = None
    accelerators: list[str] | None = None
    precision: Literal["fp32", "bf16"] | None = None
    compile: bool | None = None
    shard_weights: bool | None = None
    levers: dict[str, bool] | None = None
    steps: int | None = None
    micro_batch_examples: int | None = None
    stored_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    trainer: dict[str, Any] | None = None
    stop_tokens: dict[str, Any] | None = None
    chat_template_date: str | None = None
    prompts: int | None = None
    held_out_prompts: int | None = None
    rollouts: int | None = None
    critic: Literal["shared", "reward model", "policy"] | None = None
    first_rollout: dict[str, Any] | None = None
    hub_commits: dict[str, str] | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Decisions:
        """Return the decisions in the `facts` of a manifest; entries of other versions are left out."""
        return cls(**{name: value for name, value in facts.items() if name in NAMES})

    def applied_to(self, recipe: Recipe) -> Recipe:
        """Return a recipe with these decisions in place of `auto`, as a run needs for the same bits."""
        update: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("threads", "precision", "compile")
            if getattr(recipe, name, 0) in ("auto", None) and getattr(self, name) is not None
        }
        if recipe.device == "auto" and self.device == "cpu":
            update["device"] = "cpu"
        return recipe.model_copy(update=update)


NAMES = frozenset(field.name for field in dataclasses.fields(Decisions))
