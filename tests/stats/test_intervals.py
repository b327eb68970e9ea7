"""Intervals match hand-computed values and have their nominal coverage in simulations."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from toolkit import stats
from toolkit.stats import intervals


def test_bootstrap_mean_estimates_the_mean_and_is_seeded():
    values = [1.0, 2.0, 3.0, 4.0, 10.0]
    first, again, other = (stats.bootstrap_mean(values, seed=seed) for seed in (1, 1, 2))
    assert first.estimate == 4.0 and first.n == 5 and first.samples == 2000
    assert first == again and first != other
    assert first.low < 4.0 < first.high


def test_bootstrap_mean_agrees_with_the_t_interval_on_normal_data():
    values = np.random.default_rng(0).normal(5, 2, size=20)
    half = 2.093 * values.std(ddof=1) / math.sqrt(20)  # t quantile of 19 degrees of freedom
    result = stats.bootstrap_mean(values, seed=0, samples=20_000)
    assert result.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert result.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_student_mean_matches_scipy():
    values = [0.61, 0.7, 0.66, 0.72]
    result = stats.student_mean(values)
    low, high = scipy_stats.t.interval(0.95, 3, loc=np.mean(values), scale=scipy_stats.sem(values))
    assert (result.estimate, result.n) == (pytest.approx(0.6725), 4)
    assert (result.low, result.high) == (pytest.approx(low), pytest.approx(high))
    assert stats.student_mean([0.5]).interval == [None, None]


def test_chunked_resampling_gives_the_same_interval(monkeypatch):
    values = np.arange(30.0)
    whole = stats.bootstrap_mean(values, seed=3)
    monkeypatch.setattr(intervals, "CHUNK_DRAWS", 100)
    assert stats.bootstrap_mean(values, seed=3) == whole


def test_single_unit_has_no_interval_and_no_nan():
    result = stats.bootstrap_mean([2.5], seed=0)
    assert result.as_json("loss") == {"loss": 2.5, "loss_interval": [None, None]}
    json.dumps(result.as_dict(), allow_nan=False)
    assert not result.excludes(0.0)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0]]])
def test_unusable_values_are_refused(values):
    with pytest.raises(ValueError):
        stats.bootstrap_mean(values, seed=0)


def test_ratio_weights_documents_by_bytes():
    result = stats.ratio_bootstrap([10.0, 30.0], [10, 10], seed=0)
    assert result.estimate == 2.0
    assert stats.ratio_bootstrap([1.0, 90.0], [1, 30], seed=0).estimate == pytest.approx(91 / 31)  # not 2


def test_paired_difference_removes_shared_difficulty():
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 10, size=200)
    first, second = hard + 0.3 + generator.normal(0, 0.5, 200), hard
    paired = stats.paired_difference(first, second, seed=0)
    alone = stats.bootstrap_mean(first, seed=0)
    assert paired.excludes(0.0)
    assert (alone.high - alone.low) > 10 * (paired.high - paired.low)


def test_block_interval_is_wider_for_dependent_neighbours():
    generator = np.random.default_rng(0)
    slow = np.repeat(generator.normal(size=100), 50)  # dependence of 50 units
    ones = np.ones(len(slow))
    block = stats.block_ratio(slow, ones, block=100, seed=0)
    naive = stats.ratio_bootstrap(slow, ones, seed=0)
    assert block.estimate == pytest.approx(naive.estimate)
    assert (block.high - block.low) > 4 * (naive.high - naive.low)
    assert block.n == 50


def test_block_ratio_samples_ring_positions_uniformly():
    values = np.zeros(40)
    values[0] = 40.0  # the first unit is drawn as often as one in the middle
    result = stats.block_ratio(values, np.ones(40), block=10, seed=0, samples=4000)
    assert result.estimate == 1.0 and result.low == 0.0 and result.high >= 3.0


def test_all_wins_use_the_exact_interval():
    four = stats.bootstrap_share([1, 1, 1, 1], seed=0)
    # The lower bound is 0.398: four wins of four are not significant.
    assert four.low == pytest.approx(0.025**0.25) and four.high == 1.0
    assert not four.excludes(0.5)
    assert stats.bootstrap_share([1] * 6, seed=0).excludes(0.5)
    assert not stats.bootstrap_share([0.5] * 50, seed=0).excludes(0.5)


def test_difference_of_two_shares_is_newcombes():
    """Newcombe (1998, Statistics in Medicine 17), table II, method 10: 56/70 and 48/80, 9/10 and 3/10."""
    for first, second, low, high in (
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
    ):
        difference = stats.wilson(*first).minus(stats.wilson(*second))
        assert [difference.low, difference.high] == pytest.approx([low, high], abs=5e-5)
        assert difference.estimate == pytest.approx(first[0] / first[1] - second[0] / second[1])
        assert difference.excludes(0.0) and difference.n == min(first[1], second[1])
    unknown = stats.Estimate(0.5, math.nan, math.nan, 1)
    assert not stats.wilson(9, 10).minus(unknown).excludes(0.0)


def test_wilson_matches_hand_computed_values():
    result = stats.wilson(8, 10)  # (0.8 + 0.1921) / 1.3842 -+ 1.4160 * sqrt(0.016 + 0.0096)
    assert (result.low, result.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert stats.wilson(0, 10).low == 0.0 and stats.wilson(10, 10).high == 1.0
    with pytest.raises(ValueError):
        stats.wilson(3, 2)


def test_sign_test_matches_hand_computed_values():
    assert stats.sign_test(9, 1) == pytest.approx(2 * 11 / 1024)
    assert stats.sign_test(5, 5) == 1.0 and stats.sign_test(0, 0) == 1.0


def test_two_hundred_prompts_distinguish_60_percent_from_50():
    assert stats.detectable_share(200) == pytest.approx(0.599, abs=1e-3)
    assert stats.detectable_share(3) == 1.0


def coverage(measure, draw, truth: float, repetitions: int) -> float:
    results = [measure(draw(np.random.default_rng(i)), i) for i in range(repetitions)]
    return sum(r.low <= truth <= r.high for r in results) / repetitions


def documents(generator):
    bytes_ = generator.integers(20, 400, size=60)
    return bytes_ * generator.gamma(4, 0.5, size=60), bytes_


CASES = {
    "mean of 10": (
        lambda v, i: stats.bootstrap_mean(v, seed=i, samples=600),
        lambda g: g.normal(size=10),
        0.0,
    ),
    "win rate of 40": (
        lambda v, i: stats.bootstrap_share(v, seed=i, samples=600),
        lambda g: g.choice([0, 0.5, 1], p=[0.2, 0.2, 0.6], size=40),
        0.7,
    ),
    "ratio of 60": (lambda v, i: stats.ratio_bootstrap(*v, seed=i, samples=600), documents, 2.0),
    "wilson of 100": (lambda v, i: stats.wilson(int(v), 100), lambda g: g.binomial(100, 0.7), 0.7),
}


@pytest.mark.parametrize("name", CASES)
def test_coverage_is_near_the_level(name):
    measure, draw, truth = CASES[name]
    assert 0.90 <= coverage(measure, draw, truth, 300) <= 0.99  # standard error 0.013 at 300


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_coverage_in_many_repetitions(name):
    measure, draw, truth = CASES[name]
    assert 0.93 <= coverage(measure, draw, truth, 4000) <= 0.97  # standard error 0.003


@pytest.mark.slow
def test_block_coverage_of_a_dependent_text():
    def draw(generator):
        noise, values = generator.normal(size=4000), np.zeros(4000)
        for i in range(1, 4000):
            values[i] = 0.9 * values[i - 1] + noise[i]
        return values

    covered = coverage(
        lambda v, i: stats.block_ratio(v, np.ones(4000), block=100, seed=i, samples=400), draw, 0.0, 400
    )
    naive = coverage(lambda v, i: stats.bootstrap_mean(v, seed=i, samples=200), draw, 0.0, 100)
    assert covered >= 0.90 and naive < 0.5


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (0, 3), (5, 5), (7, 3), (60, 41), (208, 148)])
def test_sign_test_is_the_exact_binomial_test(wins, losses):
    expected = scipy_stats.binomtest(wins, wins + losses, 0.5).pvalue if wins + losses else 1.0
    assert stats.sign_test(wins, losses) == pytest.approx(expected, rel=1e-9)


def test_quantiles_match_scipy():
    low, high = intervals._exact_interval(3, 20, 0.95)
    assert low == pytest.approx(scipy_stats.beta.ppf(0.025, 3, 18), rel=1e-9)
    assert high == pytest.approx(scipy_stats.beta.ppf(0.975, 4, 17), rel=1e-9)
    z = scipy_stats.norm.ppf(0.975)
    assert stats.detectable_share(200) == pytest.approx(
        0.5 + (z + scipy_stats.norm.ppf(0.8)) / 2 / 200**0.5, rel=1e-9
    )
