"""Anytime-valid intervals: false alarm rates in simulated experiments."""

from __future__ import annotations

import json

import numpy as np
import pytest

from toolkit.stats import sequential, wilson

DRAWS = {
    "coin": lambda generator, n: generator.integers(0, 2, n).astype(float),
    "with ties": lambda generator, n: generator.choice([0, 0.5, 1], p=[0.3, 0.4, 0.3], size=n),
    "rare and large": lambda generator, n: generator.choice([0, 5 / 9], p=[0.1, 0.9], size=n),
}


@pytest.mark.parametrize("name", DRAWS)
def test_false_alarm_rate_stays_below_five_percent_with_continuous_looks(name):
    draws = [DRAWS[name](np.random.default_rng(seed), 1000) for seed in range(400)]
    alarms = np.mean([sequential.log_capital(outcomes, 0.5).max() >= np.log(20) for outcomes in draws])
    assert alarms < 0.05
    if name == "coin":  # repeated looks at a fixed-n interval
        peeks = [range(100, 1001, 100) for _ in draws]
        seen = [any(wilson(outcomes[:n].sum(), n).excludes(0.5) for n in each)
                for outcomes, each in zip(draws, peeks, strict=True)]  # fmt: skip
        assert np.mean(seen) > 0.12


def test_sequential_test_stops_early_for_a_clear_difference():
    runs = [(np.random.default_rng(seed).random(1000) < 0.6).astype(float) for seed in range(100)]
    result = [sequential.anytime(outcomes) for outcomes in runs]
    assert all(each.decided_at for each in result)
    assert np.median([each.decided_at for each in result]) < 400


def test_interval_contains_values_with_capital_below_twenty():
    outcomes = np.random.default_rng(1).choice([0, 0.5, 1], p=[0.2, 0.2, 0.6], size=300)
    result = sequential.anytime(outcomes)
    low, high = result.rate.interval
    assert low < outcomes.mean() < high and result.rate.n == 300
    for share, side in ((low, 1), (high, -1)):
        capital = np.mean([np.prod(1 + side * stake * (outcomes - share)) for stake in sequential.STAKES]) / 2
        assert capital == pytest.approx(20, rel=1e-3)
    both = np.concatenate([sequential.STAKES, -sequential.STAKES])
    expected = np.mean([np.prod(1 + stake * (outcomes - 0.5)) for stake in both])
    assert result.e_value == pytest.approx(expected, rel=1e-9)
    before = result.decided_at - 1
    assert sequential.anytime(outcomes[: result.decided_at]).e_value >= 20
    assert sequential.anytime(outcomes[:before]).e_value < 20
    json.dumps(result.as_json(), allow_nan=False)


def test_few_outcomes_are_undecided():
    assert sequential.anytime([1.0, 1.0, 1.0]).decided_at is None
    with pytest.raises(ValueError):
        sequential.anytime([2.0])
