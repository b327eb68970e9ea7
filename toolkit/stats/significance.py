"""Significance tests, and the power and sample size that a comparison needs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import special

COIN = 0.5
"""Standard deviation of one comparison without ties between equal models."""
UNREACHABLE = 1_000_000


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value of `wins` against `losses` if both were equally likely; ties are left out."""
    return min(1.0, 2.0 * float(special.bdtr(min(wins, losses), wins + losses, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple comparisons (Holm, 1979), in their order.

    Rejecting at 0.05 keeps the probability of any false rejection at most 5 %.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(low: float | None, high: float | None, p_value: float, *, level: float = 0.95) -> str:
    """Return better or worse if both the interval and the adjusted test exclude one half, else no verdict."""
    if low is None or high is None or low <= 0.5 <= high or p_value >= 1 - level:
        return "no verdict"
    return "better" if low > 0.5 else "worse"


def detectable_share(n: int, *, power: float = 0.8, level: float = 0.95, deviation: float = COIN) -> float:
    """Return the win rate that n prompts distinguish from one half with the given power (0.60 at n = 200)."""
    return float(min(1.0, 0.5 + _quantiles(power, level) * deviation / math.sqrt(n)))


def prompts_needed(
    share: float, *, power: float = 0.8, level: float = 0.95, deviation: float = COIN
) -> float:
    """Return how many prompts distinguish a win rate from one half with the given power; inf at 0.5.

    Args:
        deviation: standard deviation of a prompt's outcome; ties and several samples per prompt lower it.
    """
    if share == 0.5:
        return math.inf
    return math.ceil((_quantiles(power, level) * deviation / abs(share - 0.5)) ** 2)


def power_text(n: int, share: float | None = None) -> str:
    """Describe the power of n prompts, and how many more the observed win rate would need.

    "n = 200 can tell 60% from 50%; to tell 53% you need about 1,980 more": in 80 % of experiments, at the
    95 % level, without ties.
    """
    text = f"n = {n:,} can tell {detectable_share(n):.0%} from 50%"
    if share is None:
        return text
    needed = prompts_needed(share)
    if needed <= n or not math.isfinite(needed):
        return text
    more = needed - n
    about = "more than a million" if more > UNREACHABLE else f"about {_round(more):,}"
    return f"{text}; to tell {_percent(share)} you need {about} more"


def _quantiles(power: float, level: float) -> float:
    return float(special.ndtri((1 + level) / 2) + special.ndtri(power))


def _round(count: float) -> int:
    """Round to three digits."""
    unit = 10 ** max(0, len(str(int(count))) - 3)
    return round(count / unit) * unit


def _percent(share: float) -> str:
    """Format as 53%, or as 50.4% if 50% would show no difference."""
    return f"{share:.0%}" if abs(share - 0.5) >= 0.01 else f"{share:.2%}"
