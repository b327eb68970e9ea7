"""Calibration: whether events of stated probability p happen in a share p of all cases.

The expected calibration error of n cases is positive even if every probability is right, and its bootstrap
interval does not cover near zero (docs/EVALUATION.md). It is therefore reported beside its value under
correct probabilities. The slope and every point of the reliability diagram have intervals.

Shapes: n = cases; bins of equal size.
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
"""Probabilities of 0 and 1 are moved by this amount, to have finite log-odds."""


@dataclass(frozen=True)
class Calibration:
    """The calibration of probabilities.

    Attributes:
        error: expected calibration error in bins of equal mass (Nixon et al., 2019).
        expected, usual: mean and 95 % quantile of the error if all probabilities were right.
        p_value: probability of an error at least as large in that case.
        slope: fitted slope of the log-odds; 1 is calibrated, below 1 overconfident, above 1 underconfident.
        bins: points of the reliability diagram.
    """

    error: float
    expected: float
    usual: float
    p_value: float
    slope: Estimate
    bins: list[dict[str, object]]

    def as_json(self) -> dict[str, object]:
        """Return the keys of the JSON form."""
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
    """Compare probabilities with outcomes.

    For a judge of pairs, pass the probability of its preferred answer (0.5 or more) and whether it was right.

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
        raise ValueError("probabilities and outcomes lie between 0 and 1")
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
    """Return the edges of the bins among sorted cases; few cases have fewer bins."""
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
    """Estimate the slope of outcomes on stated log-odds by logistic regression without intercept (Cox, 1958).

    RIDGE shrinks the slope towards 1: a normal prior of standard deviation 3.2.
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
            # Far from the maximum the curvature vanishes and Newton's method oscillates: bisect instead.
            nearer = np.where((nearer > low) & (nearer < high), nearer, (low + high) / 2)
            moved, slopes = np.abs(nearer - slopes).max(), nearer
            if moved < SMALLEST_STEP:
                break
        return slopes

    return bootstrap_of(fit, len(odds), seed=seed, samples=samples)
