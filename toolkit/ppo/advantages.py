"""From scores, log-probabilities and values of a rollout to the advantages and returns of each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from toolkit.ppo import losses
from toolkit.ppo.config import PPOConfig
from toolkit.ppo.episode import Episode, mean_outcome, padded


@dataclass(frozen=True)
class ScoreScale:
    """Mean and standard deviation of the reference's scores."""

    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of(cls, scores: Sequence[float]) -> ScoreScale:
        """Measure the scores of the first rollout; the scale of equal scores has a deviation of 1."""
        std = float(np.std(scores))
        return cls(float(np.mean(scores)), std if std > 1e-8 else 1.0)


def set_rewards(episodes: Sequence[Episode], scale: ScoreScale, *, missing_end_penalty: float) -> None:
    """Set reward = (score - mean) / std, less the penalty of an answer without its end."""
    for episode in episodes:
        penalty = 0.0 if episode.ended else missing_end_penalty
        episode.reward = (episode.score - scale.mean) / scale.std - penalty


def set_advantages(
    episodes: Sequence[Episode], args: PPOConfig, *, kl_coefficient: float
) -> dict[str, float]:
    """Give each episode its `advantages` and `returns`; return the rollout's means for the log."""
    logprobs, values = padded(episodes, "logprobs"), padded(episodes, "values")
    lengths = torch.tensor([len(episode.answer_ids) for episode in episodes])
    mask = torch.arange(logprobs.shape[1]) < lengths[:, None]  # (rows, tokens)
    kl = losses.token_kl(logprobs, padded(episodes, "reference_logprobs"))
    scores = torch.tensor([episode.reward for episode in episodes], dtype=torch.float32)
    in_reward = kl_coefficient if args.kl_in == "reward" else 0.0
    rewards = losses.token_rewards(scores, kl, mask, kl_coefficient=in_reward)
    advantages = losses.generalized_advantages(
        losses.whiten(rewards, mask, keep_mean=True) if args.whiten_rewards else rewards,
        values,
        mask,
        gamma=args.gamma,
        gae_lambda=args.gae_lambda,
        final_values=torch.tensor([episode.final_value for episode in episodes]),
    )
    returns = advantages + values
    if args.whiten_advantages:
        advantages = losses.whiten(advantages, mask)
    for row, episode in enumerate(episodes):
        length = len(episode.answer_ids)
        episode.arrays["advantages"] = advantages[row, :length].numpy()
        episode.arrays["returns"] = returns[row, :length].numpy()
    return {
        **mean_outcome(episodes),
        "reward": float(rewards.sum(dim=1).mean()),
        "kl": float(np.mean([episode.kl for episode in episodes])),
        "entropy": float(losses.masked_mean(padded(episodes, "entropies"), mask)),
        "explained_variance": losses.explained_variance(values, returns, mask),
    }
