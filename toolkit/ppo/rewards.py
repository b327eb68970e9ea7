"""Rewards of answers: reward models, Python functions, or a weighted sum of them."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.base.errors import ToolkitError
from toolkit.inference.reward_scores import reward_scores
from toolkit.models.loading import load_reward_model
from toolkit.ppo.advantages import ScoreScale
from toolkit.ppo.episode import Episode

RewardFunction = Callable[..., Sequence[float]]
"""(prompts, completions, completion_ids, **columns of the dataset) -> one number per answer, as in TRL."""
Tokenizer = PreTrainedTokenizerBase | None
"""Of a reward model; None for functions."""


@dataclass
class Reward:
    """One term of the score: a reward model with its tokenizer, or a function."""

    name: str
    weight: float
    judge: PreTrainedModel | RewardFunction
    tokenizer: Tokenizer = None


RewardLike = str | PreTrainedModel | RewardFunction | Reward
"""A folder or hub id of a reward model, a reward model, a function, or a reward that is built already."""


def build(
    judges: RewardLike | Sequence[RewardLike],
    tokenizers: Tokenizer | Sequence[Tokenizer] = None,
    weights: Sequence[float] | None = None,
    *,
    device: torch.device,
) -> list[Reward]:
    """Return the rewards of `PPOTrainer`'s arguments.

    Raises:
        ToolkitError: numbers of rewards, tokenizers and weights that differ; a reward model without its
            tokenizer, or with one whose padding is end-of-text.
    """
    judges = list(judges) if isinstance(judges, (list, tuple)) else [judges]
    if judges and all(isinstance(judge, Reward) for judge in judges) and weights is None:
        return judges
    tokenizers = list(tokenizers) if isinstance(tokenizers, (list, tuple)) else [tokenizers] * len(judges)
    weights = [1.0] * len(judges) if weights is None else list(weights)
    if not np.isfinite(weights).all():
        raise ToolkitError(f"{weights} are not all finite", where="reward_weights", fix="correct them")
    if not judges or not len(judges) == len(tokenizers) == len(weights):
        raise ToolkitError(
            f"{len(judges)} rewards, {len(tokenizers)} tokenizers and {len(weights)} weights",
            where="reward_funcs",
            fix="give one tokenizer (None for functions) and one weight for each reward",
        )
    terms = zip(judges, tokenizers, weights, strict=True)
    return with_distinct_names([_build(*term, device=device) for term in terms])


def with_distinct_names(rewards: Sequence[Reward]) -> list[Reward]:
    """Number the repeated names in place: each part of a score is logged under its own name."""
    names: list[str] = []
    for reward in rewards:
        before = names.count(reward.name)
        names.append(reward.name)
        if before:
            reward.name = f"{reward.name}_{before + 1}"
    return list(rewards)


def _build(
    judge: str | PreTrainedModel | RewardFunction,
    tokenizer: Tokenizer,
    weight: float,
    *,
    device: torch.device,
) -> Reward:
    if isinstance(judge, str):
        name = judge.rstrip("/").rpartition("/")[2]
        judge, own = load_reward_model((judge, None), device=device)
        tokenizer = tokenizer or own
    else:
        name = getattr(judge, "__name__", type(judge).__name__)  # models and partial functions have none
    if isinstance(judge, nn.Module):
        if tokenizer is None:
            raise ToolkitError(
                "a reward model needs its tokenizer",
                where="reward_funcs",
                fix="give it in reward_processing_classes, or name the model's folder",
            )
        if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
            raise ToolkitError(
                "the padding token of a reward model must differ from end-of-text, or it ignores the end",
                where="reward_processing_classes",
                fix="load it with toolkit.models.loading.load_reward_model, which adds one",
            )
        judge.config.pad_token_id = tokenizer.pad_token_id
        judge = judge.to(device).requires_grad_(False).eval()
    return Reward(name, weight, judge, tokenizer)


def score(rewards: Sequence[Reward], episodes: list[Episode]) -> list[Episode]:
    """Set `parts` and `score`, their weighted sum, of each episode, and return the episodes.

    Raises:
        ToolkitError: a function does not return one number per answer, or a reward is NaN or infinite.
    """
    if not episodes:
        return episodes
    columns = {name: [episode.columns[name] for episode in episodes] for name in episodes[0].columns}
    values = np.array([_values(reward, episodes, columns) for reward in rewards])  # (rewards, episodes)
    totals = np.array([reward.weight for reward in rewards]) @ values
    names = [reward.name for reward in rewards]
    for column, episode in enumerate(episodes):
        episode.parts = dict(zip(names, values[:, column].tolist(), strict=True))
        episode.score = float(totals[column])
    return episodes


def value_model(
    explicit: PreTrainedModel | None, rewards: Sequence[Reward]
) -> tuple[PreTrainedModel, Tokenizer] | None:
    """Return the model to initialise the critic from, and its tokenizer: `explicit`, or the only reward if it
    is a reward model of weight 1."""
    if explicit is not None:
        return explicit, None
    reward = rewards[0]
    usable = len(rewards) == 1 and reward.weight == 1 and reward.tokenizer is not None
    return (reward.judge, reward.tokenizer) if usable else None


def score_scale(rewards: Sequence[Reward]) -> ScoreScale:
    """Return the scale that a reward run recorded in its model's config.

    Raises:
        ToolkitError: several rewards, or one whose config has no scale.
    """
    config = getattr(rewards[0].judge, "config", None)
    mean, std = (getattr(config, name, None) for name in ("score_mean", "score_std"))
    if len(rewards) != 1 or rewards[0].weight != 1 or mean is None or not std:
        raise ToolkitError(
            "needs one reward model whose config has score_mean and score_std", where="score_scale",
            fix="set score_scale: first_rollout, or use a reward run that had held-out preferences",
        )  # fmt: skip
    return ScoreScale(float(mean), float(std))


def _values(reward: Reward, episodes: Sequence[Episode], columns: Mapping[str, list]) -> np.ndarray:
    prompts = [episode.prompt for episode in episodes]
    texts = [episode.judged for episode in episodes]
    if isinstance(reward.judge, nn.Module):
        ended = [episode.ended and not episode.unfinished for episode in episodes]
        values = reward_scores(reward.judge, reward.tokenizer, prompts, answers=texts, ended=ended)
        return _finite(values, reward)
    completions = [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    ids = [episode.answer_ids for episode in episodes]
    where, fix = f"reward function {reward.name}", "return one number for each completion"
    try:
        returned = reward.judge(prompts=prompts, completions=completions, completion_ids=ids, **columns)
    except SystemExit as stop:  # it would end the training without a word, and with its own status
        raise ToolkitError(f"called exit({stop.code!r})", where=where, fix="raise an error instead") from stop
    try:
        values = np.asarray([float(value) for value in _numbers(returned)], dtype=np.float64)
    except (TypeError, ValueError):
        raise ToolkitError(f"returned {reprlib.repr(returned)}", where=where, fix=fix) from None
    if values.shape != (len(episodes),):
        raise ToolkitError(
            f"returned {len(values)} numbers for {len(episodes)} answers", where=where, fix=fix
        )
    return _finite(values, reward)


def _numbers(returned: object) -> Iterable[float]:
    """Return what a reward function returned, unless it is text, whose digits would be numbers.

    Raises:
        TypeError: it is text, or holds text, or is not iterable.
    """
    numbers = [] if isinstance(returned, (str, bytes)) else list(returned)  # type: ignore[call-overload]
    if isinstance(returned, (str, bytes)) or any(isinstance(value, (str, bytes)) for value in numbers):
        raise TypeError
    return numbers


def _finite(values: np.ndarray, reward: Reward) -> np.ndarray:
    invalid = int((~np.isfinite(values)).sum())
    if invalid:
        raise ToolkitError(
            f"{invalid} of {len(values)} answers have a score that is NaN or infinite",
            where=f"reward {reward.name}", fix="return a finite number for every answer, also an empty one",
        )  # fmt: skip
    return values
