"""Win rates of two models on the same prompts, raw and length-controlled.

The unit is the prompt: several samples, annotators or orders of one prompt are averaged first, because they
share its difficulty. A tie counts one half and is also counted separately.

Shapes: comparisons = all outcomes; prompts = units; resamples = bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from toolkit.stats.intervals import (
    Estimate,
    as_units,
    bootstrap_share,
    groups_of,
    percentile_interval,
    resampled_counts,
    wilson_of_units,
)
from toolkit.stats.significance import sign_test

RIDGE = 0.1
"""Penalty of fitted log-odds: a normal prior of standard deviation 3.2. At 200 prompts it moves a share by
less than a tenth of its standard error; if one side always wins, it keeps the odds finite."""
NEWTON_STEPS = 50
LONGEST_STEP = 2.0
SMALLEST_STEP = 1e-6
"""Newton's method converges quadratically: the remaining error is then below 1e-11."""


@dataclass(frozen=True)
class WinRateEstimate:
    """The win rate of one side.

    Attributes:
        bootstrap: mean over prompts with a bootstrap interval.
        wilson: the same with Wilson's interval at the effective number of prompts.
        wins, ties, losses: numbers of comparisons.
        p_value: exact sign test on prompts without tied prompts.
    """

    bootstrap: Estimate
    wilson: Estimate
    wins: int
    ties: int
    losses: int
    p_value: float

    @property
    def comparisons(self) -> int:
        """The number of outcomes of all prompts."""
        return self.wins + self.ties + self.losses

    def as_dict(self) -> dict[str, object]:
        """Return the keys of the JSON form."""
        return {
            **self.bootstrap.as_dict(),
            "wilson_interval": self.wilson.interval,
            "comparisons": self.comparisons,
            "wins": self.wins,
            "ties": self.ties,
            "losses": self.losses,
            "tie_share": self.ties / self.comparisons,
            "p_value": self.p_value,
        }


def win_rate(
    outcomes: ArrayLike, prompts: Sequence[Hashable] | None = None, *, seed: int, samples: int = 2000
) -> WinRateEstimate:
    """Estimate the win rate from outcomes between 0 (a loss) and 1 (a win).

    Args:
        outcomes: outcome of each comparison; 0.5 is a tie, (comparisons,).
        prompts: prompt of each comparison; by default every comparison has its own.
    Raises:
        ValueError: no outcomes, or one outside of [0, 1].
    """
    outcomes = as_units(outcomes)
    means, _ = by_prompt(outcomes, prompts)
    return WinRateEstimate(
        bootstrap=bootstrap_share(means, seed=seed, samples=samples),
        wilson=wilson_of_units(means),
        wins=int((outcomes > 0.5).sum()),
        ties=int((outcomes == 0.5).sum()),
        losses=int((outcomes < 0.5).sum()),
        p_value=sign_test(int((means > 0.5).sum()), int((means < 0.5).sum())),
    )


def by_prompt(values: np.ndarray, prompts: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return means by prompt in order of appearance, (prompts,), and each row's prompt, (comparisons,)."""
    prompt_indices = groups_of(prompts, len(values))
    sums = np.bincount(prompt_indices, weights=values)
    # Rounded, so that the mean of 0.2 and 0.8 is a tie.
    return (sums / np.bincount(prompt_indices)).round(12), prompt_indices


def length_controlled(
    outcomes: ArrayLike,
    longer: ArrayLike,
    prompts: Sequence[Hashable] | None = None,
    *,
    seed: int,
    samples: int = 2000,
) -> tuple[Estimate, Estimate]:
    """Estimate the win rate at equal lengths, and the log-odds that a longer answer gains.

    Logistic regression of the outcome on tanh(length difference / its standard deviation), read at a
    difference of zero: AlpacaEval 2 (Dubois et al., 2024) without its difficulty of each instruction. Ties
    are outcomes of one half (Papke and Wooldridge, 1996), prompts weigh alike, RIDGE keeps both coefficients
    finite. The interval resamples prompts and fits everything again, the standard deviation too.

    Args:
        outcomes: between 0 and 1, (comparisons,).
        longer: length of this side's answer less the other's, (comparisons,).
    """
    outcomes, longer = as_units(outcomes), as_units(longer)
    if len(longer) != len(outcomes):
        raise ValueError(f"{len(outcomes)} outcomes and {len(longer)} differences of length")
    means, prompt_indices = by_prompt(outcomes, prompts)
    shares = 1.0 / np.bincount(prompt_indices)[prompt_indices]

    def fit(counts: np.ndarray, start: np.ndarray) -> np.ndarray:
        return _logistic(outcomes, longer, counts[:, prompt_indices] * shares, start)

    whole = fit(np.ones((1, len(means))), np.zeros(2))[0]
    intercept, slope = whole
    drawn = resampled_counts(len(means), seed=seed, samples=samples)
    resampled = np.concatenate([fit(counts, whole) for counts in drawn])
    resampling = {"units": len(means), "seed": seed}
    effect = percentile_interval(float(slope), resampled[:, 1], **resampling)
    if np.ptp(means) == 0:  # nothing for the length to explain
        return bootstrap_share(means, seed=seed, samples=samples), effect
    share = float(_sigmoid(intercept))
    return percentile_interval(share, _sigmoid(resampled[:, 0]), **resampling), effect


def _logistic(outcomes: np.ndarray, longer: np.ndarray, weights: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Fit intercept and slope of each resample by Newton's method from `start`, (resamples, 2).

    Weights are (resamples, comparisons).
    """
    total = weights.sum(1)
    centred = longer - longer.mean()
    mean = weights @ centred / total
    spread = np.sqrt(np.maximum(weights @ centred**2 / total - mean**2, 0.0))
    spread[spread <= 1e-9 * np.abs(longer).max()] = np.inf  # a constant difference explains nothing
    slope = np.tanh(longer / spread[:, None])
    parameters = np.tile(start, (len(weights), 1))
    for _ in range(NEWTON_STEPS):
        chance = _sigmoid(parameters[:, :1] + parameters[:, 1:] * slope)
        error, steep = weights * (outcomes - chance), weights * chance * (1 - chance)
        gradient = np.stack([error.sum(1), (error * slope).sum(1)], axis=1) - RIDGE * parameters
        a, b, d = steep.sum(1) + RIDGE, (steep * slope).sum(1), (steep * slope**2).sum(1) + RIDGE
        step = np.stack(
            [d * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]], axis=1
        )
        step = np.clip(step / (a * d - b * b)[:, None], -LONGEST_STEP, LONGEST_STEP)
        parameters += step
        if np.abs(step).max() < SMALLEST_STEP:
            break
    return parameters


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))
