"""What answers are worth: reward models, Python functions, or a weighted sum of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.base.errors import ToolkitError
from toolkit.inference.reward_scores import reward_scores
from toolkit.models.loading import load_reward_model
from toolkit.ppo.rollout import Episode, ScoreScale

RewardFunction = Callable[..., Sequence[float]]
"""(prompts, completions, completion_ids, **columns of the dataset) -> a number an answer, as TRL's."""


@dataclass
class Reward:
    """One of the parts: a reward model with its tokenizer, or a function."""

    name: str
    weight: float
    judge: PreTrainedModel | RewardFunction
    tokenizer: PreTrainedTokenizerBase | None = None


def build(
    given: Any, tokenizers: Any = None, weights: Sequence[float] | None = None, *, device: torch.device
) -> list[Reward]:
    """From what `PPOTrainer` takes: a folder or hub id, a model, a function, or a list of these.

    Raises:
        ToolkitError: numbers of parts that differ, or a reward model without its tokenizer.
    """
    given = list(given) if isinstance(given, (list, tuple)) else [given]
    if given and all(isinstance(each, Reward) for each in given) and weights is None:
        return given
    tokenizers = list(tokenizers) if isinstance(tokenizers, (list, tuple)) else [tokenizers] * len(given)
    weights = [1.0] * len(given) if weights is None else list(weights)
    if not np.isfinite(weights).all():
        raise ToolkitError(f"{weights} are not all numbers", where="reward_weights", fix="mend them")
    if not given or not len(given) == len(tokenizers) == len(weights):
        raise ToolkitError(
            f"{len(given)} rewards, {len(tokenizers)} tokenizers and {len(weights)} weights",
            where="reward_funcs",
            fix="give one tokenizer (None for functions) and one weight for each reward",
        )
    built = [_build(*each, device=device) for each in zip(given, tokenizers, weights, strict=True)]
    return distinct(built)


def distinct(rewards: Sequence[Reward]) -> list[Reward]:
    """Number the names that come again: each part of a score is logged under its own."""
    names: list[str] = []
    for reward in rewards:
        before = names.count(reward.name)
        names.append(reward.name)
        if before:
            reward.name = f"{reward.name}_{before + 1}"
    return list(rewards)


def _build(
    judge: Any, tokenizer: PreTrainedTokenizerBase | None, weight: float, *, device: torch.device
) -> Reward:
    if isinstance(judge, str):
        name = judge.rstrip("/").rpartition("/")[2]
        judge, own = load_reward_model((judge, None), device=device)
        tokenizer = tokenizer or own
    else:
        name = getattr(judge, "__name__", type(judge).__name__)  # a model, a partial function: their class
    if isinstance(judge, nn.Module):
        if tokenizer is None:
            raise ToolkitError(
                "a reward model needs its tokenizer",
                where="reward_funcs",
                fix="give it in reward_processing_classes, or name the model's folder",
            )
        if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
            raise ToolkitError(
                "the padding token of a reward model must differ from end-of-text, or it does not see an end",
                where="reward_processing_classes",
                fix="load it with toolkit.models.loading.load_reward_model, which adds one",
            )
        judge.config.pad_token_id = tokenizer.pad_token_id
        judge = judge.to(device).requires_grad_(False).eval()
    return Reward(name, weight, judge, tokenizer)


def score(rewards: Sequence[Reward], episodes: list[Episode]) -> list[Episode]:
    """Give each episode its `score`, the weighted sum of its `parts`, and return them.

    Raises:
        ToolkitError: a function that returns another number of rewards than there are answers, or a reward
            that is NaN or infinite.
    """
    if not episodes:
        return episodes
    columns = {name: [each.columns[name] for each in episodes] for name in episodes[0].columns}
    values = np.array([_values(reward, episodes, columns) for reward in rewards])  # (rewards, episodes)
    totals = np.array([reward.weight for reward in rewards]) @ values
    for place, episode in enumerate(episodes):
        episode.parts = dict(zip([reward.name for reward in rewards], values[:, place].tolist(), strict=True))
        episode.score = float(totals[place])
    return episodes


def value_model(
    given: PreTrainedModel | None, rewards: Sequence[Reward]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None] | None:
    """What the critic may begin as, and its tokenizer: the only reward, where no weight scales it."""
    if given is not None:
        return given, None
    only = rewards[0]
    alone = len(rewards) == 1 and only.weight == 1 and only.tokenizer is not None
    return (only.judge, only.tokenizer) if alone else None


def known_scale(rewards: Sequence[Reward]) -> ScoreScale:
    """What a reward run has kept in the config of the only reward, a reward model.

    Raises:
        ToolkitError: there are other rewards, or its config says nothing.
    """
    config = getattr(rewards[0].judge, "config", None)
    mean, std = (getattr(config, name, None) for name in ("score_mean", "score_std"))
    if len(rewards) != 1 or rewards[0].weight != 1 or mean is None or not std:
        raise ToolkitError(
            "needs one reward model whose config has score_mean and score_std", where="score_scale",
            fix="take score_scale: first_rollout, or a reward run that was made with held-out preferences",
        )  # fmt: skip
    return ScoreScale(float(mean), float(std))


def _values(reward: Reward, episodes: Sequence[Episode], columns: Mapping[str, list]) -> np.ndarray:
    prompts, texts = [each.prompt for each in episodes], [each.text for each in episodes]
    if isinstance(reward.judge, nn.Module):
        ended = [each.ended for each in episodes]
        values = reward_scores(reward.judge, reward.tokenizer, prompts, answers=texts, ended=ended)
        return _finite(values, reward)
    completions = [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    ids = [each.answer_ids for each in episodes]
    values = reward.judge(prompts=prompts, completions=completions, completion_ids=ids, **columns)
    values = np.asarray(list(values), dtype=np.float64)
    if values.shape != (len(episodes),):
        raise ToolkitError(
            f"returned {values.shape} for {len(episodes)} answers", where=f"reward function {reward.name}",
            fix="return one number for each completion",
        )  # fmt: skip
    return _finite(values, reward)


def _finite(values: np.ndarray, reward: Reward) -> np.ndarray:
    broken = int((~np.isfinite(values)).sum())
    if broken:
        raise ToolkitError(
            f"{broken} of {len(values)} answers have a score that is NaN or infinite",
            where=f"reward {reward.name}", fix="give every answer a finite number, an empty one too",
        )  # fmt: skip
    return values
