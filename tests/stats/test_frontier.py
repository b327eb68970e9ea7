"""The frontier where it is known: normal and binary utilities; best-of-n by enumeration; coverage."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
from scipy import special

from toolkit.stats import frontier as frontiers
from toolkit.stats.intervals import resampled_counts


def normal(prompts: int, answers: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(prompts, answers))


def mixed(prompts: int, answers: int, seed: int) -> np.ndarray:
    """Normal utilities whose mean and standard deviation (0.5 or 1.5) depend on the prompt."""
    generator = np.random.default_rng(seed)
    mean, deviation = generator.normal(size=(prompts, 1)), generator.choice([0.5, 1.5], size=(prompts, 1))
    return mean + deviation * generator.normal(size=(prompts, answers))


def binary(ones: list[int], answers: int) -> np.ndarray:
    return np.array([[1.0] * count + [0.0] * (answers - count) for count in ones])


def binary_kl(chance: float, reference: float) -> float:
    return chance * math.log(chance / reference) + (1 - chance) * math.log((1 - chance) / (1 - reference))


def in_sample(weights: np.ndarray, utilities: np.ndarray) -> tuple[float, float]:
    """Return KL and utility of the policy that gives the sampled answers with these weights."""
    terms = weights * np.log(np.maximum(weights * weights.shape[1], 1e-300))
    return float(terms.sum(1).mean()), float((weights * utilities).sum(1).mean())


def softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values - values.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def test_normal_utilities_reach_the_root_of_twice_the_kl():
    quantiles = special.ndtri((np.arange(20_000) + 0.5) / 20_000)[None]
    result = frontiers.frontier(quantiles, kls=[0.1, 0.5, 1.0, 2.0], seed=0)
    for point in result.points:
        assert point.utility.estimate == pytest.approx(math.sqrt(2 * point.kl), abs=0.01)
        assert point.beta == pytest.approx(1 / math.sqrt(2 * point.kl), rel=0.02)
    # The relative effective sample size is exp(-1 / beta^2) = exp(-2 KL).
    assert result.points[1].effective_sample_size == pytest.approx(20_000 * math.exp(-1), rel=0.05)
    assert result.points[1].reliable
    assert result.reference.estimate == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_two_outcomes_in_closed_form(beta):
    (point,) = frontiers.frontier(binary([25], 100), betas=[beta], seed=0).points
    chance = 0.25 * math.exp(1 / beta) / (0.25 * math.exp(1 / beta) + 0.75)
    assert point.utility.estimate == pytest.approx(chance)
    assert point.kl == pytest.approx(binary_kl(chance, 0.25))
    assert point.effective_sample_size == pytest.approx(1 / (chance**2 / 25 + (1 - chance) ** 2 / 75))
    assert frontiers.beta_at_kl(binary([25], 100), point.kl) == pytest.approx(beta, rel=1e-9)


def test_two_prompts_share_the_kl_in_the_best_way():
    utilities, kl = binary([10, 50], 100), 0.3
    best = max(
        (first + second) / 2
        for first in np.linspace(0.1, 0.99, 400)
        for second in np.linspace(0.5, 0.99, 400)
        if (binary_kl(first, 0.1) + binary_kl(second, 0.5)) / 2 <= kl
    )
    assert frontiers.frontier_at(utilities, kl, seed=0).utility.estimate == pytest.approx(best, abs=2e-3)


def test_the_largest_kl_is_that_of_the_best_answers():
    utilities = binary([1, 25], 100)
    largest = frontiers.largest_kl(utilities)
    assert largest == pytest.approx((math.log(100) + math.log(4)) / 2)
    (point,) = frontiers.frontier(utilities, betas=[1e-3], seed=0).points
    assert (point.kl, point.utility.estimate) == (pytest.approx(largest), pytest.approx(1.0))
    assert not point.reliable and point.least_effective_sample_size == pytest.approx(1.0)
    assert frontiers.frontier_at(normal(3, 50), 0.999 * math.log(50), seed=0).kl == pytest.approx(
        0.999 * math.log(50)
    )
    for kl in (0.0, -1.0, largest, 5.0, math.nan):
        with pytest.raises(ValueError, match="nats is not between"):
            frontiers.beta_at_kl(utilities, kl)


def test_the_frontier_rises_and_is_concave_with_slope_beta():
    kls = np.linspace(0.05, 3.5, 40)
    points = frontiers.frontier(mixed(10, 60, 0), kls=kls, seed=0, samples=10).points
    assert [point.kl for point in points] == pytest.approx(kls)
    best = np.array([point.utility.estimate for point in points])
    assert (np.diff(best) > 0).all() and (np.diff(best, 2) < 0).all()
    slope, betas = np.diff(best) / np.diff(kls), [point.beta for point in points]
    assert (slope < betas[:-1]).all() and (slope > betas[1:]).all()


def test_shift_and_scale_of_the_utilities():
    utilities = mixed(8, 50, 1)
    plain = frontiers.frontier_at(utilities, 0.7, seed=0)
    moved = frontiers.frontier_at(3 * utilities - 40, 0.7, seed=0)
    assert moved.beta == pytest.approx(3 * plain.beta) and moved.kl == pytest.approx(plain.kl)
    for end in ("estimate", "low", "high"):
        assert getattr(moved.utility, end) == pytest.approx(3 * getattr(plain.utility, end) - 40)
    assert moved.effective_sample_size == pytest.approx(plain.effective_sample_size)


@pytest.mark.parametrize("seed", range(20))
def test_no_policy_on_the_same_answers_exceeds_the_frontier(seed):
    utilities, generator = mixed(6, 40, seed), np.random.default_rng(seed)
    temperature = generator.exponential(2.0, size=(6, 1))  # another trade-off for each prompt
    noise = generator.normal(size=utilities.shape) * generator.exponential(0.5)
    for preference in (temperature * utilities, utilities + noise, np.minimum(2 * utilities, 1) + noise):
        kl, reached = in_sample(softmax(preference), utilities)
        best = frontiers.frontier_at(utilities, kl, seed=0, samples=10).utility.estimate
        assert reached <= best + 1e-9
    for n in (2, 5, 20):
        quantiles = (np.argsort(np.argsort(utilities)) + np.array([[[1]], [[0]]])) / 40
        kl, reached = in_sample(quantiles[0] ** n - quantiles[1] ** n, utilities)
        assert reached < frontiers.frontier_at(utilities, kl, seed=0, samples=10).utility.estimate


def test_the_interval_is_that_of_solving_every_resample():
    # Prompts differ in what a nat gains: utilities at a fixed beta vary 1.9 times as much as at a fixed KL.
    utilities, kl = normal(20, 60) * np.linspace(0.5, 2, 20)[:, None], 0.4
    solved = []
    for counts in resampled_counts(20, seed=3, samples=300):
        for row in counts.astype(int):
            drawn = np.repeat(utilities, row, axis=0)
            weights = softmax(drawn / frontiers.beta_at_kl(drawn, kl))
            solved.append(in_sample(weights, drawn)[1])
    estimate = frontiers.frontier_at(utilities, kl, seed=3, samples=300).utility
    middle, spread = np.mean(solved), np.std(solved)
    assert estimate.estimate == pytest.approx(middle, abs=0.15 * spread)
    # The expanded percentile interval of 20 units lies at 2.15 standard deviations.
    assert estimate.high - estimate.low == pytest.approx(2 * 2.15 * spread, rel=0.12)


def test_the_bias_is_negative_and_known_to_first_order():
    point = frontiers.frontier_at(normal(4000, 64), 0.5, seed=0, samples=10)
    error = point.utility.estimate - 1.0
    assert point.bias == pytest.approx(-0.0123, abs=1e-3)
    assert error == pytest.approx(point.bias, abs=0.005) and error < -0.005


def test_easy_prompts_do_not_hide_that_others_rest_on_one_answer():
    utilities = np.concatenate([np.zeros((10, 1000)), binary([1] * 10, 1000)])
    (point,) = frontiers.frontier(utilities, betas=[0.05], seed=0).points
    assert point.effective_sample_size == pytest.approx(2.0, abs=0.01)  # the arithmetic mean is 500.5
    assert point.least_effective_sample_size == pytest.approx(1.0, abs=0.01)
    assert not point.reliable


def test_the_expected_best_of_uniform_utilities():
    utilities = np.arange(1, 1001)[None] / 1001
    for n in (1, 2, 7, 100, 1000):
        assert frontiers.expected_best(utilities, n) == pytest.approx(n / (n + 1))


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_expected_best_of_all_subsets(n):
    generator = np.random.default_rng(n)
    utilities, scores = generator.normal(size=(2, 6)), generator.integers(3, size=(2, 6))
    for chosen_by in (None, scores):
        keys = utilities if chosen_by is None else scores
        for row, result in enumerate(frontiers.expected_best(utilities, n, scores=chosen_by)):
            chosen = []
            for subset in combinations(range(6), n):
                top = max(keys[row, i] for i in subset)
                chosen.append(np.mean([utilities[row, i] for i in subset if keys[row, i] == top]))
            assert result == pytest.approx(np.mean(chosen))


def test_the_kl_of_the_best_of_n_counts_ties():
    untied, n = normal(2, 50), 8
    assert frontiers.best_of_n_kl(untied, n) == pytest.approx(math.log(8) - 7 / 8)
    assert frontiers.best_of_n_kl(np.zeros((1, 50)), n) == pytest.approx(0.0, abs=1e-12)
    # Two equally likely scores: the policy is binary, and its KL never exceeds log 2 (Beirami et al., 2024).
    assert frontiers.best_of_n_kl(binary([25], 50), n) == pytest.approx(binary_kl(1 - 0.5**8, 0.5))
    assert frontiers.best_of_n_kl(binary([1000], 2000), 1000) == pytest.approx(math.log(2))
    rounded = frontiers.best_of_n_kl(np.round(normal(20, 50), 1), n)
    assert (rounded < math.log(8) - 7 / 8).all() and (rounded > 0.5).all()


def test_best_of_n_of_normal_utilities_lies_below_the_frontier():
    utilities = normal(400, 400)
    one, four = frontiers.best_of_n(utilities, [1, 4], seed=0)
    assert one.kl == one.kl_bound == 0.0 and one.utility.estimate == pytest.approx(utilities.mean())
    assert four.utility.estimate == pytest.approx(1.0294, abs=0.01)  # expected maximum of four normals
    assert four.kl == pytest.approx(four.kl_bound) == pytest.approx(math.log(4) - 0.75)
    method = frontiers.compare_with_frontier(
        utilities, frontiers.expected_best(utilities, 4), four.kl, seed=0
    )
    assert method.fraction.estimate == pytest.approx(1.0294 / math.sqrt(2 * four.kl), abs=0.01)
    assert method.utility == four.utility
    assert method.fraction.high < 1


def test_a_reward_model_without_signal_chooses_like_the_reference():
    utilities = normal(50, 200)
    (point,) = frontiers.best_of_n(utilities, [16], scores=normal(50, 200, seed=1), seed=0)
    assert not point.utility.excludes(0.0) and point.kl == pytest.approx(math.log(16) - 15 / 16)


def test_the_optimal_policy_reaches_all_of_the_frontier_and_the_reference_nothing():
    utilities = mixed(30, 100, 0)
    weights = softmax(utilities / 0.8)
    reached = (weights * utilities).sum(1)
    kl = (weights * np.log(100 * weights)).sum(1)
    optimal = frontiers.compare_with_frontier(utilities, reached, kl, seed=0)
    for value in (optimal.fraction.estimate, optimal.fraction.low, optimal.fraction.high):
        assert value == pytest.approx(1.0)
    assert optimal.frontier.beta == pytest.approx(0.8)
    assert optimal.frontier.utility.estimate == pytest.approx(optimal.utility.estimate)
    reference = frontiers.compare_with_frontier(utilities, utilities, kl, seed=0)
    assert reference.fraction.estimate == pytest.approx(0.0, abs=1e-12)


def test_a_mean_kl_counts_as_exact():
    utilities, reached = mixed(30, 100, 0), mixed(30, 100, 0).max(1)
    point = frontiers.compare_with_frontier(utilities, reached, 2.0, seed=0)
    assert point.as_json()["kl"] == 2.0 and point.as_json()["kl_interval"] == [None, None]
    spread = frontiers.compare_with_frontier(utilities, reached, np.linspace(0, 4, 30), seed=0)
    assert spread.fraction.estimate == pytest.approx(point.fraction.estimate)
    assert spread.kl.estimate == pytest.approx(2.0) and spread.kl.low < 2.0 < spread.kl.high


def covered(measure, truth: float, repetitions: int) -> float:
    estimates = [measure(seed) for seed in range(repetitions)]
    return sum(estimate.low <= truth <= estimate.high for estimate in estimates) / repetitions


def frontier_of_mixed(seed: int):
    return frontiers.frontier_at(mixed(40, 200, seed), 0.3, seed=seed, samples=400).utility


def fraction_of_mixed(seed: int):
    """A method that moves each prompt by 0.6 of its standard deviation and wastes some of its KL."""
    generator = np.random.default_rng(seed)
    mean, deviation = generator.normal(size=(40, 1)), generator.choice([0.5, 1.5], size=(40, 1))
    utilities = mean + deviation * generator.normal(size=(40, 200))
    method = mean + deviation * (0.6 + generator.normal(size=(40, 2)))
    kl = 0.3 + 0.1 * generator.normal(size=40)
    return frontiers.compare_with_frontier(utilities, method, kl, seed=seed, samples=400).fraction


# The mean square of the deviations is 1.25; of normal utilities the gain is sqrt(2 KL mean square).
COVERAGE = {
    "frontier": (frontier_of_mixed, math.sqrt(2 * 0.3 * 1.25)),
    "fraction": (fraction_of_mixed, 0.6 / math.sqrt(2 * 0.3 * 1.25)),
}


@pytest.mark.parametrize("name", COVERAGE)
def test_coverage_is_near_the_level(name):
    measure, truth = COVERAGE[name]
    assert 0.90 <= covered(measure, truth, 200) <= 0.99  # standard error 0.015


@pytest.mark.slow
@pytest.mark.parametrize("name", COVERAGE)
def test_coverage_in_many_repetitions(name):
    measure, truth = COVERAGE[name]
    assert 0.93 <= covered(measure, truth, 2000) <= 0.97  # standard error 0.005


def test_results_are_seeded_and_json_has_no_nan():
    utilities = mixed(12, 30, 0)
    first, again, other = (frontiers.frontier(utilities, kls=[0.5], seed=seed) for seed in (1, 1, 2))
    assert first == again and first != other
    row = first.as_json()
    assert (row["prompts"], row["answers"], row["seed"], row["level"]) == (12, 30, 1, 0.95)
    assert row["points"][0]["reliable"] is True and len(row["points"][0]["utility_interval"]) == 2
    single = utilities[:1]  # a single prompt has no interval
    results = [
        frontiers.frontier(single, kls=[0.5], seed=0),
        *frontiers.best_of_n(single, [1, 4], seed=0),
        frontiers.compare_with_frontier(single, [1.0], 0.5, seed=0),
    ]
    for result in [first, *results]:
        json.dumps(result.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    "utilities",
    [[], [1.0, 2.0], [[1.0]], np.zeros((0, 5)), [[1.0, math.nan]], [[1.0, math.inf]], [[[1.0, 2.0]]]],
)
def test_unusable_utilities_are_refused(utilities):
    calls = [
        lambda: frontiers.frontier(utilities, betas=[1.0], seed=0),
        lambda: frontiers.frontier_at(utilities, 0.1, seed=0),
        lambda: frontiers.best_of_n(utilities, [1], seed=0),
        lambda: frontiers.best_of_n([[1.0, 2.0]], [1], scores=utilities, seed=0),
        lambda: frontiers.compare_with_frontier(utilities, [1.0], 0.1, seed=0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="expected|finite"):
            call()


def test_unusable_arguments_are_refused():
    utilities = normal(3, 5)
    for arguments in ({}, {"kls": [0.1], "betas": [1.0]}):
        with pytest.raises(ValueError, match="either kls or betas"):
            frontiers.frontier(utilities, seed=0, **arguments)
    for beta in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="beta must be positive"):
            frontiers.frontier(utilities, betas=[beta], seed=0)
    for n in (0, 6):
        with pytest.raises(ValueError, match=f"best of {n}"):
            frontiers.best_of_n(utilities, [n], seed=0)
    with pytest.raises(ValueError, match="scores of shape"):
        frontiers.best_of_n(utilities, [2], scores=normal(3, 4), seed=0)
    for method, kl in (([1.0] * 2, 0.1), ([1.0] * 3, [0.1] * 2), (np.zeros((3, 0)), 0.1)):
        with pytest.raises(ValueError, match="prompts|expected"):
            frontiers.compare_with_frontier(utilities, method, kl, seed=0)
    with pytest.raises(ValueError, match="finite"):
        frontiers.compare_with_frontier(utilities, [1.0, math.nan, 1.0], 0.1, seed=0)
    with pytest.raises(ValueError, match="more answers"):
        frontiers.compare_with_frontier(utilities, [1.0] * 3, 3.0, seed=0)
