"""The correlation of two measurements, with its interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from toolkit.stats.intervals import Estimate, as_units, bootstrap_of


def correlation(first: ArrayLike, second: ArrayLike, *, seed: int, samples: int = 2000) -> Estimate:
    """Estimate Pearson's correlation of paired values, with a bootstrap interval over the pairs.

    nan where one of them does not vary; resamples in which one does not vary do not count.

    Args:
        first, second: (units,).

    Raises:
        ValueError: different numbers of values, none, or values that are not finite.
    """
    x, y = as_units(first), as_units(second)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} values")
    x, y = _scaled(x), _scaled(y)
    columns = np.column_stack([np.ones(len(x)), x, y, x * x, y * y, x * y])

    def pearson(weights: np.ndarray) -> np.ndarray:
        n, sum_x, sum_y, xx, yy, xy = (weights @ columns).T
        covariance = xy / n - sum_x * sum_y / n**2
        variances = (xx / n - (sum_x / n) ** 2) * (yy / n - (sum_y / n) ** 2)
        varies = variances > 1e-12  # values have variance 1 over all units: what is below is rounding
        found = np.full(len(weights), np.nan)
        found[varies] = covariance[varies] / np.sqrt(variances[varies])
        return found

    return bootstrap_of(pearson, len(x), seed=seed, samples=samples)


def _scaled(values: np.ndarray) -> np.ndarray:
    """Return values with mean 0 and variance 1, or all 0 where they do not vary."""
    centred = values - values.mean()
    deviation = centred.std()
    return (
        centred / deviation if deviation > 1e-12 * max(1.0, np.abs(values).max()) else np.zeros(len(values))
    )
