"""The distribution from which the sampler draws the next token, and what its settings removed.

`toolkit.inference.sampling` divides the logits by the temperature, keeps the k most probable tokens (top-k),
of these the smallest set with at least a given probability (top-p), and renormalises. Padding is never drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from toolkit.inference.next_token import entropy_bits
from toolkit.inference.sampling import restrict

REASONS = ("", "top_k", "top_p", "greedy")
"""Why a token cannot be drawn, by the numbers in `Restricted.removed`."""


@dataclass(frozen=True)
class Restricted:
    """A distribution before and after top-k and top-p.

    Attributes:
        softened: probabilities at the temperature, (vocabulary,); at temperature 0 those at 1.
        probabilities: that the sampler draws from, (vocabulary,).
        removed: why a token cannot be drawn, an index of `REASONS`, (vocabulary,).
    """

    softened: np.ndarray
    probabilities: np.ndarray
    removed: np.ndarray

    @property
    def entropy_bits(self) -> float:
        """Entropy of `probabilities`."""
        return entropy_bits(self.probabilities)


@dataclass(frozen=True)
class Draw:
    """A token and its interval of the cumulative probabilities, which holds the uniform number."""

    token: int
    low: float
    high: float


def restricted(
    logprobs: np.ndarray, *, allowed: np.ndarray, temperature: float, top_k: int, top_p: float
) -> Restricted:
    """Apply sampling settings to log-probabilities of the next token, (vocabulary,).

    Args:
        allowed: tokens that can be drawn at all, (vocabulary,) bool.
        temperature: 0 leaves the most probable token.
    """
    logits = torch.from_numpy(np.where(allowed, logprobs.astype(np.float64), -np.inf))[None]
    softened = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
    removed = np.zeros(len(logprobs), dtype=np.int8)
    if temperature == 0:
        kept = torch.full_like(softened, -torch.inf)
        kept[0, int(softened.argmax())] = 0.0
        removed[~np.isfinite(kept[0].numpy())] = 3
    else:
        by_top_k = restrict(softened, top_k=top_k, top_p=1.0)
        kept = restrict(softened, top_k=top_k, top_p=top_p)
        removed[~np.isfinite(kept[0].numpy())] = 2
        removed[~np.isfinite(by_top_k[0].numpy())] = 1
    return Restricted(softened.exp()[0].numpy(), torch.softmax(kept, dim=-1)[0].numpy(), removed)


def draw(probabilities: np.ndarray, *, order: np.ndarray, uniform: float) -> Draw:
    """Return the first token in `order` whose cumulative probability exceeds a number in [0, 1)."""
    cumulative = probabilities[order].cumsum()
    below = np.nextafter(cumulative[-1], 0)  # uniform * total may round up to the total
    place = int(np.searchsorted(cumulative, min(uniform * cumulative[-1], below), "right"))
    token = int(order[place])
    return Draw(token, float(cumulative[place] - probabilities[token]), float(cumulative[place]))
