"""Rewards that a recipe names: storyworld's utility, reward models, and functions in a file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from toolkit.base import files
from toolkit.base.errors import ToolkitError
from toolkit.config import inputs
from toolkit.config.schema import PpoRecipe
from toolkit.data.data_sources import world_of
from toolkit.models.loading import load_reward_model
from toolkit.ppo.episode import Messages
from toolkit.ppo.rewards import Reward, RewardFunction, Tokenizer, build, with_distinct_names
from toolkit.runs.run import Run
from toolkit.storyworld import World


def gold_reward(world: World) -> RewardFunction:
    """Return the function `gold`: a world's known utility of each answer."""

    def gold(prompts: Sequence[Messages], completions: Sequence[Messages], **columns: object) -> list[float]:
        return [
            world.utility(prompt, completion[-1]["content"]).total
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    return gold


def of_recipe(recipe: PpoRecipe, run: Run, *, device: torch.device) -> list[Reward]:
    """Return the reward model with weight 1, and the further rewards with theirs.

    Raises:
        ToolkitError: a model or a function cannot be loaded.
    """
    terms = [(recipe.reward_model, None, 1.0)]
    terms += [(settings.reward_model, settings.function, settings.weight) for settings in recipe.rewards]
    rewards = []
    for model, function, weight in terms:
        judge, tokenizer = (
            load(model, recipe, run, device=device) if model else (load_function(function), None)
        )
        [reward] = build(judge, tokenizer, [weight], device=device)
        reward.name = (model or function).rpartition("/")[2].rpartition(":")[2]
        rewards.append(reward)
    return with_distinct_names(rewards)


def load(
    reference: str, recipe: PpoRecipe, run: Run, *, device: torch.device
) -> tuple[PreTrainedModel | RewardFunction, Tokenizer]:
    """Return a reward model and its tokenizer, or `gold` and None."""
    if reference == "gold":
        return gold_reward(world_of(recipe.data)), None
    return load_reward_model(run.model_reference(reference), device=device)


def load_function(reference: str) -> RewardFunction:
    """Return the function of FILE.py:NAME; the digest of the file is one of the run's inputs.

    Raises:
        ToolkitError: the file does not exist, cannot be imported, or has no such function.
    """
    name, _, attribute = reference.rpartition(":")
    path = inputs.function_file(reference)
    spec = importlib.util.spec_from_file_location(f"reward_{files.sha256_file(path)[:12]}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        text = f"cannot be imported: {type(error).__name__}: {error}"
        raise ToolkitError(text, where=name, fix="correct the file") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ToolkitError(f"has no function {attribute}", where=name, fix="write FILE.py:NAME")
    return function
