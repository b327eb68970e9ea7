"""Pearson's chi-squared test, against scipy.stats."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from toolkit.stats.goodness_of_fit import chi_squared, together


def test_the_test_is_that_of_scipy_where_every_cell_is_large():
    observed, probabilities = np.array([43, 31, 19, 7]), np.array([0.4, 0.3, 0.2, 0.1])
    expected = stats.chisquare(observed, 100 * probabilities)
    found = chi_squared(observed, probabilities)
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.degrees_of_freedom == 3


def test_small_cells_are_one_cell():
    observed = np.array([50, 30, 8, 6, 4, 2, 0])
    probabilities = np.array([0.5, 0.3, 0.06, 0.04, 0.04, 0.03, 0.03])
    expected = stats.chisquare([50, 30, 8, 12], [50, 30, 6, 14])
    found = chi_squared(observed, probabilities)
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)


def test_a_pool_that_is_small_itself_joins_the_smallest_cell():
    observed, probabilities = np.array([20, 61, 17, 2]), np.array([0.2, 0.6, 0.18, 0.02])
    expected = stats.chisquare([20, 61, 19], [20, 60, 20])
    assert chi_squared(observed, probabilities).statistic == pytest.approx(expected.statistic)


def test_too_few_counts_are_not_tested():
    assert chi_squared(np.array([3, 4]), np.array([0.5, 0.5])) is None
    assert chi_squared(np.array([20, 0]), np.array([1.0, 0.0])) is None


def test_a_count_that_was_impossible_is_counted():
    found = chi_squared(np.array([40, 50, 10]), np.array([0.5, 0.5, 0.0]))
    assert found.statistic == pytest.approx(0.0)  # 40 + 10 of 50 and 50 of 50: the pool joins the first cell
    assert chi_squared(np.array([40, 40, 20]), np.array([0.5, 0.5, 0.0])).p_value < 0.05


def test_independent_tests_are_added():
    one, other = (
        chi_squared(np.array([12, 8]), np.ones(2) / 2),
        chi_squared(np.array([9, 21]), np.ones(2) / 2),
    )
    both = together([one, None, other])
    assert both.statistic == pytest.approx(one.statistic + other.statistic)
    assert both.p_value == pytest.approx(stats.chi2.sf(both.statistic, 2), rel=1e-9)
    assert together([None]) is None
