"""Win rates match hand-computed values and other libraries."""

from __future__ import annotations

import json

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize
from statsmodels.stats.proportion import proportion_confint

from toolkit import stats
from toolkit.stats import intervals, win_rates


def test_tie_counts_half_and_is_reported():
    result = win_rates.win_rate([1, 0.5, 0, 1], seed=0)
    assert result.bootstrap.estimate == 0.625 and result.wilson.estimate == 0.625
    assert (result.wins, result.ties, result.losses, result.comparisons) == (2, 1, 1, 4)
    row = result.as_dict()
    assert row["tie_share"] == 0.25 and row["n"] == 4 and row["p_value"] == 1.0
    json.dumps(row, allow_nan=False)


def test_samples_of_one_prompt_are_one_unit():
    outcomes, prompts = [1, 1, 0, 0.5, 1, 0], ["a", "a", "a", "b", "c", "c"]
    result = win_rates.win_rate(outcomes, prompts, seed=0)
    assert result.bootstrap.n == 3 and result.comparisons == 6
    assert result.bootstrap.estimate == pytest.approx((2 / 3 + 0.5 + 0.5) / 3)
    assert result.p_value == 1.0  # one prompt won, two tied


def test_repeated_samples_do_not_narrow_the_interval():
    outcomes = np.random.default_rng(0).integers(0, 2, size=100).astype(float)
    once = win_rates.win_rate(outcomes, seed=1)
    twice = win_rates.win_rate(np.repeat(outcomes, 2), np.repeat(np.arange(100), 2).tolist(), seed=1)
    assert twice.bootstrap == once.bootstrap and twice.wilson == once.wilson
    assert twice.p_value == once.p_value


def test_cancelling_votes_are_a_tie():
    result = win_rates.win_rate([0.2, 0.8], ["a", "a"], seed=0)
    assert result.p_value == 1.0 and result.bootstrap.estimate == 0.5


def test_wilson_matches_statsmodels_without_ties():
    outcomes = [1] * 37 + [0] * 63
    result = intervals.wilson_of_units(outcomes)
    assert result.interval == pytest.approx(proportion_confint(37, 100, method="wilson"))
    assert result == stats.wilson(37, 100)


def test_wilson_with_ties_follows_the_outcome_variance():
    outcomes = [1] * 150 + [0.5] * 700 + [0] * 150
    result = intervals.wilson_of_units(outcomes)
    half = 1.96 * np.std(outcomes) / np.sqrt(1000)
    assert result.interval == pytest.approx([0.5 - half, 0.5 + half], abs=2e-4)
    assert intervals.wilson_of_units([1.0] * 10).low == stats.wilson(10, 10).low


@pytest.mark.parametrize("wrong", [[], [1.5], [-0.1], [np.nan]])
def test_outcomes_are_between_zero_and_one(wrong):
    with pytest.raises(ValueError):
        win_rates.win_rate(wrong, seed=0)


def lengths_and_wins(n=300, intercept=0.3, slope=0.8, seed=0):
    generator = np.random.default_rng(seed)
    longer = generator.normal(30, 80, n)
    chance = 1 / (1 + np.exp(-intercept - slope * np.tanh(longer / 80)))
    return (generator.random(n) < chance).astype(float), longer


def test_length_controlled_matches_statsmodels_logistic_regression(monkeypatch):
    outcomes, longer = lengths_and_wins()
    outcomes[::7] = 0.5
    monkeypatch.setattr(win_rates, "RIDGE", 0.0)
    rate, effect = win_rates.length_controlled(outcomes, longer, seed=0, samples=10)
    design = sm.add_constant(np.tanh(longer / longer.std()))
    intercept, slope = sm.GLM(outcomes, design, family=sm.families.Binomial()).fit().params
    assert rate.estimate == pytest.approx(1 / (1 + np.exp(-intercept)), abs=1e-7)
    assert effect.estimate == pytest.approx(slope, abs=1e-6)


def test_ridge_matches_the_normal_prior():
    outcomes, longer = lengths_and_wins(60)
    rate, effect = win_rates.length_controlled(outcomes, longer, seed=0, samples=10)
    x = np.tanh(longer / longer.std())

    def loss(result):
        logits = result[0] + result[1] * x
        return (np.logaddexp(0, logits) - outcomes * logits).sum() + 0.05 * (result**2).sum()

    intercept, slope = optimize.minimize(loss, [0, 0], tol=1e-12).x
    assert rate.estimate == pytest.approx(1 / (1 + np.exp(-intercept)), abs=1e-5)
    assert effect.estimate == pytest.approx(slope, abs=1e-4)


def test_length_controlled_interval_is_close_to_the_regression_interval():
    outcomes, longer = lengths_and_wins(600)
    rate, _ = win_rates.length_controlled(outcomes, longer, seed=0)
    design = sm.add_constant(np.tanh(longer / longer.std()))
    low, high = sm.GLM(outcomes, design, family=sm.families.Binomial()).fit().conf_int()[0]
    assert rate.interval == pytest.approx([1 / (1 + np.exp(-low)), 1 / (1 + np.exp(-high))], abs=0.006)


def test_length_control_removes_wins_due_to_length():
    outcomes, longer = lengths_and_wins(2000, intercept=0.0, slope=2.0)
    raw = win_rates.win_rate(outcomes, seed=0).bootstrap
    controlled, effect = win_rates.length_controlled(outcomes, longer, seed=0, samples=400)
    assert raw.low > 0.52 and not controlled.excludes(0.5)
    assert effect.low > 1.5
    plain, _ = win_rates.length_controlled(outcomes, np.full(2000, 40.0), seed=0, samples=10)
    # A constant length difference explains nothing.
    assert plain.estimate == pytest.approx(raw.estimate, abs=1e-4)


def test_separated_outcomes_give_finite_estimates():
    longer = np.concatenate([np.arange(1, 51), -np.arange(1, 51)]).astype(float)
    controlled, effect = win_rates.length_controlled((longer > 0).astype(float), longer, seed=0, samples=200)
    assert controlled.estimate == pytest.approx(0.5, abs=1e-6) and 3 < effect.estimate < 30
    assert np.isfinite([controlled.low, controlled.high, effect.low, effect.high]).all()
    always, _ = win_rates.length_controlled(np.ones(20), longer[:20], seed=0, samples=200)
    assert always.estimate == 1.0 and always.low == pytest.approx(0.025 ** (1 / 20))


def test_length_control_resamples_prompts():
    outcomes, longer = lengths_and_wins(80)
    prompts = np.repeat(np.arange(80), 3).tolist()
    once = win_rates.length_controlled(outcomes, longer, seed=0, samples=100)
    thrice = win_rates.length_controlled(
        np.repeat(outcomes, 3), np.repeat(longer, 3), prompts, seed=0, samples=100
    )
    for one, other in zip(once, thrice, strict=True):
        assert [other.estimate, *other.interval] == pytest.approx([one.estimate, *one.interval], abs=1e-6)
        assert one.n == other.n == 80
