"""Significance tests and power, against statsmodels and simulations."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from toolkit.stats import intervals, significance


@pytest.mark.parametrize("seed", range(5))
def test_holm_matches_statsmodels(seed):
    values = np.random.default_rng(seed).random(7) ** 3
    assert significance.holm(values.tolist()) == pytest.approx(multipletests(values, method="holm")[1])


def test_holm_matches_hand_computed_values():
    assert significance.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert significance.holm([0.6, 0.9]) == [1.0, 1.0] and significance.holm([]) == []


@pytest.mark.parametrize(
    ("low", "high", "p_value", "expected"),
    [(0.51, 0.6, 0.01, "better"), (0.3, 0.49, 0.01, "worse"), (0.51, 0.6, 0.06, "no verdict"),
     (0.49, 0.6, 0.01, "no verdict"), (None, None, 0.01, "no verdict")],
)  # fmt: skip
def test_verdict_requires_interval_and_test(low, high, p_value, expected):
    assert significance.verdict(low, high, p_value) == expected


def test_power_message():
    text = "n = 200 can tell 60% from 50%; to tell 53% you need about 1,980 more"
    assert significance.power_text(200, 0.53) == text
    assert significance.power_text(200, 0.47).endswith("to tell 47% you need about 1,980 more")
    assert significance.power_text(200, 0.62) == significance.power_text(200, 0.5)
    assert significance.power_text(200) == "n = 200 can tell 60% from 50%"
    assert "50.10% you need more than a million more" in significance.power_text(200, 0.501)


@pytest.mark.parametrize(("n", "share"), [(200, 0.599), (2180, 0.53)])
def test_power_matches_simulated_experiments(n, share):
    wins = np.random.default_rng(0).binomial(n, share, size=4000)
    observed = np.mean([intervals.wilson(int(count), n).low > 0.5 for count in wins])
    assert observed == pytest.approx(0.80, abs=0.025)  # standard error 0.006; wins come in whole numbers
    assert significance.prompts_needed(share) == pytest.approx(n, rel=0.02)
