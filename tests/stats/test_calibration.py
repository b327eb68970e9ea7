"""Calibration of calibrated and overconfident probabilities."""

from __future__ import annotations

import json

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize

from toolkit.stats.calibration import calibration, slope_of


def stated_and_happened(n, sharpness=1.0, seed=0):
    generator = np.random.default_rng(seed)
    odds = generator.normal(0, 1.5, n)
    happened = generator.random(n) < 1 / (1 + np.exp(-sharpness * odds))
    return 1 / (1 + np.exp(-odds)), happened.astype(float)


def test_calibration_error_matches_hand_computed_value():
    stated = np.repeat([0.2, 0.7], 10)
    happened = np.array([1] * 4 + [0] * 6 + [1] * 6 + [0] * 4)
    result = calibration(stated, happened, seed=0)
    assert result.error == pytest.approx(0.5 * 0.2 + 0.5 * 0.1)
    assert [(row["stated"], row["happened"], row["n"]) for row in result.bins] == [
        (pytest.approx(0.2), 0.4, 10),
        (pytest.approx(0.7), 0.6, 10),
    ]
    json.dumps(result.as_json(), allow_nan=False)


def test_bins_have_equal_counts():
    result = calibration(*stated_and_happened(205), seed=0)
    assert {row["n"] for row in result.bins} <= {20, 21} and len(result.bins) == 10
    assert len(calibration(*stated_and_happened(15), seed=0).bins) == 1


def test_calibrated_predictions_are_rejected_at_the_nominal_rate():
    result = [calibration(*stated_and_happened(200, seed=seed), seed=0, samples=2) for seed in range(80)]
    assert np.mean([each.p_value < 0.1 for each in result]) == pytest.approx(0.1, abs=0.09)
    assert np.mean([each.error for each in result]) == pytest.approx(result[0].expected, abs=0.005)


def test_overconfident_predictions_have_a_slope_below_one():
    result = calibration(*stated_and_happened(1000, sharpness=0.5), seed=0)
    assert result.p_value < 0.01 and result.error > result.usual > result.expected
    assert result.slope.high < 1 and result.slope.low < 0.5 < result.slope.high


def test_slope_matches_statsmodels():
    stated, happened = stated_and_happened(800)
    result = calibration(stated, happened, seed=0, samples=2)
    odds = np.log(stated / (1 - stated))
    expected = sm.GLM(happened, odds, family=sm.families.Binomial()).fit().params[0]
    assert result.slope.estimate == pytest.approx(expected, abs=1e-3)


def test_certain_and_invalid_probabilities():
    assert np.isfinite(calibration([0.0, 1.0] * 10, [0, 1] * 10, seed=0).slope.estimate)
    for stated, happened in (([1.2], [1]), ([0.5], [2]), ([0.5, 0.5], [1]), ([], [])):
        with pytest.raises(ValueError):
            calibration(stated, happened, seed=0)


def test_slope_of_a_very_confident_model_converges():
    """With all probabilities near 1 the curvature vanishes; the slope still matches a search."""
    random = np.random.default_rng(5)
    odds = 6 * np.abs(random.normal(0, 1.5, 600))
    happened = (random.random(600) < 1 / (1 + np.exp(-odds / 6))).astype(float)
    slope = slope_of(1 / (1 + np.exp(-odds)), happened, seed=0, samples=200)
    near = np.clip(1 / (1 + np.exp(-odds)), 1e-12, 1 - 1e-12)
    given = np.log(near) - np.log1p(-near)

    def loss(b):
        return np.logaddexp(0, b * given).sum() - b * (given @ happened) + 0.05 * (b - 1) ** 2

    assert slope.estimate == pytest.approx(optimize.minimize_scalar(loss).x, abs=1e-5)
    assert slope.low < 1 / 6 < slope.high < 0.3
