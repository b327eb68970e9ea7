"""Anytime-valid win rates, which may be checked after every comparison.

Betting against a win rate of m: after n outcomes x the capital is the product of 1 + b (x - m), whose mean is
1 if the win rate is m. The mean over many stakes b is such a capital, too (a mixture; Robbins, 1970), and
exceeds 20 at any time with a probability of at most 5 % (Ville, 1939). All m whose capital stays below that
form a confidence sequence: an interval that holds at all times simultaneously (Waudby-Smith and Ramdas,
2024).

Shapes: n = outcomes in their order; stakes = bets of either side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from toolkit.stats.intervals import Estimate, as_units

STAKES = np.geomspace(0.02, 0.98, 40)
"""Below 1, so that the capital stays positive for every outcome between 0 and 1 and every m."""
BISECTIONS = 40


@dataclass(frozen=True)
class Anytime:
    """An anytime-valid win rate.

    Attributes:
        rate: mean of the outcomes with an interval that holds at all n simultaneously.
        e_value: capital of bets against one half; 20 corresponds to p = 0.05 and needs no correction.
        decided_at: the first n that excluded one half; None if none did.
    """

    rate: Estimate
    e_value: float
    decided_at: int | None

    def as_json(self) -> dict[str, object]:
        """Return the keys of the JSON form."""
        test = {"e_value": self.e_value, "decided_at": self.decided_at, "n": self.rate.n}
        return {**self.rate.as_json("win_rate"), **test, "level": self.rate.level}


def anytime(outcomes: ArrayLike, *, level: float = 0.95) -> Anytime:
    """Estimate the win rate of outcomes in [0, 1], one per prompt, in the order of judging.

    Raises:
        ValueError: no outcomes, or one outside of [0, 1].
    """
    outcomes = as_units(outcomes)
    if outcomes.min() < 0 or outcomes.max() > 1:
        raise ValueError("outcomes lie between 0 and 1")
    capital = log_capital(outcomes, 0.5)
    limit = -np.log(1 - level)
    decided = np.flatnonzero(capital >= limit)
    values, counts = np.unique(outcomes, return_counts=True)
    low = _end(values, counts, limit, side=1)
    high = _end(values, counts, limit, side=-1)
    return Anytime(
        rate=Estimate(float(outcomes.mean()), low, high, len(outcomes), level=level),
        e_value=float(np.exp(min(capital[-1], 700.0))),
        decided_at=int(decided[0]) + 1 if len(decided) else None,
    )


def log_capital(outcomes: np.ndarray, share: float) -> np.ndarray:
    """Return the logarithm of the capital of bets on both sides against `share` after each outcome, (n,)."""
    stakes = np.concatenate([STAKES, -STAKES])
    growth = np.cumsum(np.log1p(stakes * (outcomes[:, None] - share)), axis=0)
    return special.logsumexp(growth, axis=1) - np.log(len(stakes))


def is_decided(outcomes: ArrayLike, *, level: float = 0.95) -> bool:
    """Return whether the interval of `anytime` excludes one half, so that judging may stop."""
    values, counts = np.unique(as_units(outcomes), return_counts=True)
    limit = -np.log(1 - level)
    return any(_log_capital_of_side(values, counts, 0.5, side=side) >= limit for side in (1, -1))


def _log_capital_of_side(values: np.ndarray, counts: np.ndarray, share: float, *, side: int) -> float:
    """Return the `log_capital` of the bets on one side, which have half of the capital."""
    growth = counts @ np.log1p(side * STAKES * (values[:, None] - share))
    return float(special.logsumexp(growth) - np.log(2 * len(STAKES)))


def _end(values: np.ndarray, counts: np.ndarray, limit: float, *, side: int) -> float:
    """Return the lowest (side 1) or highest (-1) share whose capital is below the limit, by bisection.

    The capital of one side is monotone in the share; the interval is slightly conservative.
    """
    inside, outside = float(values @ counts / counts.sum()), 0.5 - 0.5 * side
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        below = _log_capital_of_side(values, counts, middle, side=side) < limit
        inside, outside = (middle, outside) if below else (inside, middle)
    return outside
