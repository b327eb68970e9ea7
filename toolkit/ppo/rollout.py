"""From prompts to episodes: sampled, scored, read by policy, reference and critic, and given advantages.

What an episode is does not depend on the number of processes: its prompt, its random stream and its place
in the minibatches follow from its number alone. Processes sample and read their own share; then all gather
all episodes, and each computes advantages and whitening over the whole rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from toolkit.base.rng import derive
from toolkit.ppo import losses
from toolkit.ppo.config import PPOConfig

Messages = list[dict[str, str]]


@dataclass
class Episode:
    """One prompt and its sampled answer; arrays are fp32 (answer tokens,), end-of-text included.

    answer_ids end with end-of-text where `ended`. score: of the reward model, as it is. reward: what PPO
    maximizes, the normalised score less penalties, without KL. final_value: what the critic expects after the
    last token of an answer that was cut off, where that is not taken for its end. parts: of the score, by the
    names of the rewards. columns: what else the dataset says of the prompt.
    """

    place: int
    prompt: Messages | str
    prompt_ids: list[int]
    answer_ids: list[int]
    ended: bool
    text: str
    score: float = 0.0
    reward: float = 0.0
    final_value: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def kl(self) -> float:
        """Nats between policy and reference over the whole answer (k1)."""
        return float((self.arrays["logprobs"] - self.arrays["reference_logprobs"]).sum(dtype=np.float64))

    def shown(self) -> dict[str, Any]:
        """As people read it: the last turn of the prompt, the answer, and its numbers."""
        prompt = self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]
        numbers = {"ended": self.ended, "score": self.score, "kl": self.kl}
        return {"prompt": prompt, "answer": self.text, **numbers}


def minibatches(settings: PPOConfig, *, seed: int, rollout: int, epoch: int) -> list[np.ndarray]:
    """Places in the rollout of each minibatch of an epoch, shuffled: `minibatches` arrays of equal length."""
    generator = np.random.default_rng(derive(seed, "minibatches", rollout, epoch))
    return np.split(generator.permutation(settings.rollout_examples), settings.minibatches)


def micro_batches(episodes: Sequence[Episode], size: int) -> list[list[Episode]]:
    """Cut into forward passes of at most `size` answers of like length, the longest first."""
    by_length = sorted(
        episodes, key=lambda episode: (-len(episode.prompt_ids) - len(episode.answer_ids), episode.place)
    )
    return [by_length[start : start + size] for start in range(0, len(by_length), size)]


def gather(own: Sequence[Episode]) -> list[Episode]:
    """The episodes of all processes in the order of their places; the same list on each of them."""
    return sorted(gather_object(list(own)), key=lambda episode: episode.place)


@dataclass(frozen=True)
class ScoreScale:
    """Mean and standard deviation of the reference's scores."""

    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of(cls, scores: Sequence[float]) -> ScoreScale:
        """Of the first rollout's; scores that are all alike are only shifted."""
        std = float(np.std(scores))
        return cls(float(np.mean(scores)), std if std > 1e-8 else 1.0)


@dataclass
class Progression:
    """What a rollout leaves to the next, beside weights and optimizer. Random streams follow from it."""

    rollouts: int = 0
    """Done so far."""
    kl_coefficient: float = 0.0
    scale: ScoreScale = field(default_factory=ScoreScale)
    over: bool = False
    """An observer ended the training before its last rollout."""
    guard: dict[str, Any] = field(default_factory=dict)
    """What `guard.look` knows of the rollouts before."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What an observer wants back after an interruption; plain values of JSON."""


def outcome(episodes: Sequence[Episode]) -> dict[str, float]:
    """Means over the answers: score, and each of its parts where there are several; length and ended."""
    numbers = {
        "score": [episode.score for episode in episodes],
        "length": [len(episode.answer_ids) for episode in episodes],
        "ended": [episode.ended for episode in episodes],
    }
    names = episodes[0].parts if len(episodes[0].parts) > 1 else ()
    numbers |= {f"score_{name}": [episode.parts[name] for episode in episodes] for name in names}
    return {name: float(np.mean(values)) for name, values in numbers.items()}


def set_rewards(episodes: Sequence[Episode], scale: ScoreScale, *, missing_end_penalty: float) -> None:
    """reward = (score - mean) / std, less the penalty (in those units) of an answer that did not end."""
    for episode in episodes:
        penalty = 0.0 if episode.ended else missing_end_penalty
        episode.reward = (episode.score - scale.mean) / scale.std - penalty


def set_advantages(
    episodes: Sequence[Episode], settings: PPOConfig, *, kl_coefficient: float
) -> dict[str, float]:
    """Give each episode its `advantages` and `returns`; return the rollout's means for the log."""
    logprobs, values = _padded(episodes, "logprobs"), _padded(episodes, "values")
    lengths = torch.tensor([len(episode.answer_ids) for episode in episodes])
    mask = torch.arange(logprobs.shape[1]) < lengths[:, None]  # (rows, tokens)
    kl = losses.token_kl(logprobs, _padded(episodes, "reference_logprobs"))
    scores = torch.tensor([episode.reward for episode in episodes], dtype=torch.float32)
    in_reward = kl_coefficient if settings.kl_in == "reward" else 0.0
    rewards = losses.token_rewards(scores, kl, mask, kl_coefficient=in_reward)
    advantages = losses.generalized_advantages(
        losses.whiten(rewards, mask, keep_mean=True) if settings.whiten_rewards else rewards,
        values,
        mask,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        final_values=torch.tensor([episode.final_value for episode in episodes]),
    )
    returns = advantages + values
    if settings.whiten_advantages:
        advantages = losses.whiten(advantages, mask)
    for row, episode in enumerate(episodes):
        length = len(episode.answer_ids)
        episode.arrays["advantages"] = advantages[row, :length].numpy()
        episode.arrays["returns"] = returns[row, :length].numpy()
    return {
        **outcome(episodes),
        "reward": float(rewards.sum(dim=1).mean()),
        "kl": float(np.mean([episode.kl for episode in episodes])),
        "entropy": float(losses.masked_mean(_padded(episodes, "entropies"), mask)),
        "explained_variance": losses.explained_variance(values, returns, mask),
    }


def flat(episodes: Sequence[Episode], name: str, device: torch.device) -> torch.Tensor:
    """An array of all episodes, one after another: (scored,), as a forward pass returns it."""
    return torch.from_numpy(np.concatenate([episode.arrays[name] for episode in episodes])).to(device)


def store(episodes: Sequence[Episode], name: str, values: torch.Tensor) -> None:
    """Cut (scored,) into the episodes' arrays."""
    ends = np.cumsum([len(episode.answer_ids) for episode in episodes])[:-1]
    for episode, part in zip(episodes, np.split(values.float().cpu().numpy(), ends), strict=True):
        episode.arrays[name] = part


def _padded(episodes: Sequence[Episode], name: str) -> torch.Tensor:
    """(rows, tokens of the longest), 0 in the padding."""
    rows = [torch.from_numpy(episode.arrays[name]) for episode in episodes]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
