"""Whether what is said to happen with probability p happens in a share p of all cases.

The expected calibration error of n cases is never zero, not even where every probability is right, and no
bootstrap interval of it covers near zero (docs/EVALUATION.md). So it stands beside what it would be if all
probabilities were right; what has an interval is the slope, and every point of the reliability diagram.

Shapes: n = cases; bins of as many cases each.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from toolkit.base.rng import derive
from toolkit.stats.intervals import (
    Estimate,
    as_units,
    bootstrap_of,
    wilson,
)
from toolkit.stats.win_rates import NEWTON_STEPS, RIDGE, SMALLEST_STEP

BINS = 10
FEWEST_IN_A_BIN = 10
SIMULATIONS = 2000
STEEPEST = 1000.0
FARTHEST = 1e-12
"""A probability of 0 or 1 is moved by so much, for its log-odds."""


@dataclass(frozen=True)
class Calibration:
    """What is known of probabilities.

    Attributes:
        error: expected calibration error in bins of equal mass (Nixon et al., 2019).
        expected, usual: mean and 95 % quantile of the error if all probabilities were right.
        p_value: how often an error as large happens then.
        slope: of the log-odds, fitted; 1 is calibrated, below 1 too sure, above 1 not sure enough.
        bins: points of the reliability diagram.
    """

    error: float
    expected: float
    usual: float
    p_value: float
    slope: Estimate
    bins: list[dict[str, object]]

    def as_json(self) -> dict[str, object]:
        """As it goes into a JSON file."""
        return {
            "calibration_error": self.error,
            "calibration_error_if_calibrated": self.expected,
            "calibration_error_usual": self.usual,
            "p_value": self.p_value,
            **self.slope.as_json("slope"),
            "n": self.slope.n,
            "bins": self.bins,
        }


def calibration(
    probabilities: ArrayLike, happened: ArrayLike, *, seed: int, bins: int = BINS, samples: int = 2000
) -> Calibration:
    """Compare probabilities with what happened.

    Of a judge of pairs give the probability of what it prefers, from 0.5 on, and whether it was right.

    Args:
        probabilities: between 0 and 1, (n,).
        happened: 1 or 0, (n,); 0.5 where neither did.
    Raises:
        ValueError: no cases, different numbers, or values outside of [0, 1].
    """
    stated, happened = as_units(probabilities), as_units(happened)
    if len(stated) != len(happened):
        raise ValueError(f"{len(stated)} probabilities and {len(happened)} outcomes")
    if min(stated.min(), happened.min()) < 0 or max(stated.max(), happened.max()) > 1:
        raise ValueError("probabilities and what happened lie between 0 and 1")
    order = np.argsort(stated, kind="stable")
    stated, happened = stated[order], happened[order]
    edges = _edges(len(stated), bins)
    error = float(_error(stated - happened, edges))
    random = np.random.default_rng(derive(seed, "calibration"))
    if_right = np.array(
        [_error(stated - (random.random(len(stated)) < stated), edges) for _ in range(SIMULATIONS)]
    )
    return Calibration(
        error=error,
        expected=float(if_right.mean()),
        usual=float(np.quantile(if_right, 0.95)),
        p_value=float((1 + (if_right >= error - 1e-12).sum()) / (1 + SIMULATIONS)),
        slope=slope_of(stated, happened, seed=seed, samples=samples),
        bins=_points(stated, happened, edges),
    )


def _edges(n: int, bins: int) -> np.ndarray:
    """Where bins begin and end among sorted cases: fewer bins where there are few cases."""
    return np.linspace(0, n, max(1, min(bins, n // FEWEST_IN_A_BIN)) + 1).round().astype(int)


def _error(difference: np.ndarray, edges: np.ndarray) -> float:
    return np.abs(np.add.reduceat(difference, edges[:-1])).sum() / len(difference)


def _points(stated: np.ndarray, happened: np.ndarray, edges: np.ndarray) -> list[dict[str, object]]:
    rows = []
    for start, end in pairwise(edges):
        share = wilson(float(happened[start:end].sum()), int(end - start))
        ends = {"stated": float(stated[start:end].mean()), "n": share.n}
        rows.append(
            {**ends, "range": [float(stated[start]), float(stated[end - 1])], **share.as_json("happened")}
        )
    return rows


def slope_of(stated: np.ndarray, happened: np.ndarray, *, seed: int, samples: int = 2000) -> Estimate:
    """Logistic regression of what happened on the stated log-odds, without intercept (Cox, 1958).

    RIDGE draws the slope to 1, a normal prior of standard deviation 3.2.
    """
    near = np.clip(stated, FARTHEST, 1 - FARTHEST)
    odds = np.log(near) - np.log1p(-near)

    seen = happened * odds

    def fit(weights: np.ndarray) -> np.ndarray:
        slopes, total = np.ones(len(weights)), weights @ seen
        low, high = np.full_like(slopes, -STEEPEST), np.full_like(slopes, STEEPEST)
        for _ in range(NEWTON_STEPS):
            chance = 0.5 * (1 + np.tanh(0.5 * slopes[:, None] * odds))
            expected = weights * chance
            gradient = total - expected @ odds - RIDGE * (slopes - 1)
            low, high = np.where(gradient > 0, slopes, low), np.where(gradient > 0, high, slopes)
            nearer = slopes + gradient / ((expected - expected * chance) @ odds**2 + RIDGE)
            # far from the top the curvature vanishes: Newton's step leaps over it, back and forth for ever
            nearer = np.where((nearer > low) & (nearer < high), nearer, (low + high) / 2)
            moved, slopes = np.abs(nearer - slopes).max(), nearer
            if moved < SMALLEST_STEP:
                break
        return slopes

    return bootstrap_of(fit, len(odds), seed=seed, samples=samples)
