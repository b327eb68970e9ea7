"""Pearson's chi-squared test of counts against probabilities that are known beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import special

SMALLEST_EXPECTED = 5.0
"""Expected count below which a cell is pooled with others (Cochran, 1954, Biometrics 10: 417-451)."""


@dataclass(frozen=True)
class GoodnessOfFit:
    """A chi-squared test.

    Attributes:
        statistic: sum of (observed - expected) ** 2 / expected over the cells.
        p_value: probability of a statistic as large if the counts follow the probabilities.
    """

    statistic: float
    degrees_of_freedom: int
    p_value: float


def chi_squared(observed: np.ndarray, probabilities: np.ndarray) -> GoodnessOfFit | None:
    """Test counts, (cells,), against probabilities, (cells,), that sum to 1.

    Cells with an expected count below 5 are pooled; if the pool's is below 5, it joins the smallest other
    cell. None if fewer than two cells are left.
    """
    counts, expected = np.asarray(observed, dtype=np.float64), observed.sum() * np.asarray(probabilities)
    large = expected >= SMALLEST_EXPECTED
    order = np.flatnonzero(large)[np.argsort(expected[large], kind="stable")]
    cells, means = list(counts[order]), list(expected[order])
    pooled, pooled_mean = counts[~large].sum(), expected[~large].sum()
    if pooled_mean >= SMALLEST_EXPECTED:
        cells.append(pooled)
        means.append(pooled_mean)
    elif cells:
        cells[0] += pooled
        means[0] += pooled_mean
    if len(cells) < 2:
        return None
    statistic = float(sum((count - mean) ** 2 / mean for count, mean in zip(cells, means, strict=True)))
    return _of(statistic, len(cells) - 1)


def together(tests: Iterable[GoodnessOfFit | None]) -> GoodnessOfFit | None:
    """Return the sum of independent tests, None if there is none."""
    made = [test for test in tests if test is not None]
    if not made:
        return None
    return _of(sum(test.statistic for test in made), sum(test.degrees_of_freedom for test in made))


def _of(statistic: float, degrees: int) -> GoodnessOfFit:
    return GoodnessOfFit(statistic, degrees, float(special.chdtrc(degrees, statistic)))
