"""Trainings that overrides make shorter: warm-ups of the recipe that are longer then are shortened, too."""

from __future__ import annotations

from typing import Any

from toolkit.config import trl_checks
from toolkit.config.schema import PretrainRecipe, StageRecipe, TrainerRecipe
from toolkit.config.yaml_source import Key, Tree, dotted

WARMUP_SHARE = 0.1
"""The share of a shorter training that is its warm-up."""


def shorten_warmup(recipe: StageRecipe, tree: Tree, *, command_line: str) -> list[str]:
    """Shorten a warm-up that is longer than the training, unless it is an override itself.

    Args:
        recipe: what `tree` says, with overrides.
        tree: is changed.
        command_line: the position of overrides.

    Returns:
        A notice for each setting that was changed.
    """
    notices = []
    for key, value, words in _shorter(recipe):
        position = tree.positions.get(key, command_line)
        if position == command_line:
            continue
        old, settings = tree.at(key), tree.at(key[:-1])
        settings[key[-1]] = value
        notices.append(
            f"{position}: {dotted(key)}: {old} is longer than this training; replaced by {words} of it"
        )
    return notices


def _shorter(recipe: StageRecipe) -> list[tuple[Key, Any, str]]:
    """Return (key, value, the value as a share of the training) of each setting to change."""
    if isinstance(recipe, PretrainRecipe):
        schedule = recipe.schedule
        if schedule.warmup_tokens + (schedule.decay_tokens or 0) <= recipe.train_tokens:
            return []
        warmup = int(WARMUP_SHARE * recipe.train_tokens)
        found: list[tuple[Key, Any, str]] = [(("schedule", "warmup_tokens"), warmup, "a tenth")]
        if schedule.decay_tokens is not None:
            found.append((("schedule", "decay_tokens"), None, "a fifth"))
        return found
    if isinstance(recipe, TrainerRecipe) and not trl_checks.check(recipe.stage, recipe.trainer):
        steps, warmup = recipe.planned_steps(), recipe.trainer.get("warmup_steps", 0)
        if steps is not None and warmup > max(1, steps):
            return [(("trainer", "warmup_steps"), WARMUP_SHARE, "a tenth")]
    return []
