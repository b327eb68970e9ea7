"""Rewards that a recipe names: storyworld's utility, reward models, and functions in a file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

import torch

from toolkit import storyworld
from toolkit.base import files
from toolkit.base.errors import ToolkitError
from toolkit.config.schema import PpoRecipe
from toolkit.data import files as data_files
from toolkit.models.loading import load_reward_model
from toolkit.ppo.rewards import Reward, RewardFunction, build, distinct
from toolkit.runs.run import Run


def gold(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """Storyworld's known utility of each answer, at most 13.5."""
    return [
        storyworld.utility(prompt, completion[-1]["content"]).total
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def of_recipe(recipe: PpoRecipe, run: Run, *, device: torch.device) -> list[Reward]:
    """The reward model with weight 1, and the further rewards with theirs.

    Raises:
        ToolkitError: a model or a function that cannot be loaded.
    """
    named = [(recipe.reward_model, None, 1.0)]
    named += [(each.reward_model, each.function, each.weight) for each in recipe.rewards]
    found = []
    for model, function, weight in named:
        judge, tokenizer = load(model, run, device=device) if model else (load_function(function), None)
        [reward] = build(judge, tokenizer, [weight], device=device)
        reward.name = (model or function).rpartition("/")[2].rpartition(":")[2]
        found.append(reward)
    return distinct(found)


def load(reference: str, run: Run, *, device: torch.device) -> tuple[Any, Any]:
    """A reward model and its tokenizer, or `gold`, which needs none."""
    if reference == "gold":
        return gold, None
    return load_reward_model(run.model_reference(reference), device=device)


def load_function(reference: str) -> RewardFunction:
    """FILE.py:NAME; the file's digest is one of the run's inputs, for its results depend on it.

    Raises:
        ToolkitError: no such file, a file that fails when it is imported, or no such function in it.
    """
    name, _, attribute = reference.rpartition(":")
    path = data_files.function_file(reference)
    spec = importlib.util.spec_from_file_location(f"reward_{files.sha256_file(path)[:12]}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        text = f"cannot be imported: {type(error).__name__}: {error}"
        raise ToolkitError(text, where=name, fix="mend the file") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ToolkitError(f"has no function {attribute}", where=name, fix="write FILE.py:NAME")
    return function
