"""Episodes (a prompt, its sampled answer, and arrays over the answer's tokens), and their batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from toolkit.base.rng import derive
from toolkit.ppo.config import PPOConfig

Messages = list[dict[str, str]]


@dataclass
class Episode:
    """One prompt and its sampled answer.

    Attributes:
        index: position in the rollout.
        answer_ids: the sampled stop token is the last where `ended`.
        unfinished: the answer ends within its thought, so that it is no answer: rewards read nothing.
        score: weighted sum of the rewards, as they return it.
        reward: what PPO maximizes: the normalised score less penalties, without KL.
        final_value: the critic's value after the last token of a truncated answer; 0 where truncation
            counts as the end.
        parts: the rewards that `score` is the sum of, by their names.
        columns: the other columns of the dataset.
        arrays: fp32 (answer tokens,), the stop token included; by name: `logprobs`, `values` ...
    """

    index: int
    prompt: Messages | str
    prompt_ids: list[int]
    answer_ids: list[int]
    ended: bool
    text: str
    unfinished: bool = False
    score: float = 0.0
    reward: float = 0.0
    final_value: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def judged(self) -> str:
        """The text that rewards read."""
        return "" if self.unfinished else self.text

    @property
    def kl(self) -> float:
        """KL between policy and reference, summed over the answer (k1), in nats."""
        return float((self.arrays["logprobs"] - self.arrays["reference_logprobs"]).sum(dtype=np.float64))

    def as_sample(self) -> dict[str, Any]:
        """Return what samples show: the last turn of the prompt, the answer, and its numbers."""
        prompt = self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]
        numbers = {"ended": self.ended, "score": self.score, "kl": self.kl}
        return {"prompt": prompt, "answer": self.text, **numbers}


def minibatches(args: PPOConfig, *, seed: int, rollout: int, epoch: int) -> list[np.ndarray]:
    """Return the episodes' indices in each minibatch of an epoch, shuffled; arrays of equal length."""
    generator = np.random.default_rng(derive(seed, "minibatches", rollout, epoch))
    return np.split(generator.permutation(args.rollout_examples), args.minibatches)


def micro_batches(episodes: Sequence[Episode], size: int) -> list[list[Episode]]:
    """Split into forward passes of at most `size` answers of similar length, the longest first."""
    by_length = sorted(
        episodes, key=lambda episode: (-len(episode.prompt_ids) - len(episode.answer_ids), episode.index)
    )
    return [by_length[start : start + size] for start in range(0, len(by_length), size)]


def gather(own_episodes: Sequence[Episode]) -> list[Episode]:
    """Return the episodes of all processes, sorted by index; the same list on each process."""
    return sorted(gather_object(list(own_episodes)), key=lambda episode: episode.index)


def mean_outcome(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return means over the answers: score (and its parts, if there are several), length, ended."""
    values = {
        "score": [episode.score for episode in episodes],
        "length": [len(episode.answer_ids) for episode in episodes],
        "ended": [episode.ended for episode in episodes],
    }
    names = episodes[0].parts if len(episodes[0].parts) > 1 else ()
    values |= {f"score_{name}": [episode.parts[name] for episode in episodes] for name in names}
    return {name: float(np.mean(row)) for name, row in values.items()}


def concatenated(episodes: Sequence[Episode], name: str, device: torch.device) -> torch.Tensor:
    """Return an array of all episodes as (scored,), in the order of a forward pass."""
    return torch.from_numpy(np.concatenate([episode.arrays[name] for episode in episodes])).to(device)


def padded(episodes: Sequence[Episode], name: str) -> torch.Tensor:
    """Return an array of all episodes as (rows, tokens of the longest), 0 in the padding."""
    rows = [torch.from_numpy(episode.arrays[name]) for episode in episodes]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def store(episodes: Sequence[Episode], name: str, values: torch.Tensor) -> None:
    """Split (scored,) into an array of each episode."""
    ends = np.cumsum([len(episode.answer_ids) for episode in episodes])[:-1]
    for episode, part in zip(episodes, np.split(values.float().cpu().numpy(), ends), strict=True):
        episode.arrays[name] = part
