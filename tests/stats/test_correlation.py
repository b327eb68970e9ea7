"""Pearson's correlation with its interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from toolkit.stats.correlation import correlation


def test_it_equals_scipy_and_its_interval_is_near_the_known_one():
    random = np.random.default_rng(3)
    x = random.normal(size=400)
    y = 1e6 + 1e-3 * (0.6 * x + 0.8 * random.normal(size=400))  # neither scale nor offset matters
    found = correlation(x, y, seed=0)
    reference = scipy_stats.pearsonr(x, y)
    assert found.estimate == pytest.approx(reference.statistic, abs=1e-9)
    low, high = reference.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random, covered = np.random.default_rng(1), 0
    for number in range(100):
        x = random.normal(size=60)
        y = 0.5 * x + np.sqrt(0.75) * random.normal(size=60)
        found = correlation(x, y, seed=number, samples=300)
        covered += found.low <= 0.5 <= found.high
    assert 88 <= covered <= 99


def test_resamples_do_not_depend_on_the_order_of_the_two():
    x, y = [1.0, 2, 3, 5, 8], [2.0, 1, 4, 3, 9]
    first, second = correlation(x, y, seed=0), correlation(y, x, seed=0)
    assert (first.low, first.high) == pytest.approx((second.low, second.high))


def test_values_that_do_not_vary_have_none():
    assert np.isnan(correlation([1.0, 1, 1], [1.0, 2, 3], seed=0).estimate)
    with pytest.raises(ValueError, match="2 and 3 values"):
        correlation([1.0, 2], [1.0, 2, 3], seed=0)
