"""Coverage of 95% intervals in simulated experiments: python -m benchmarks.coverage

Each case draws data with a known true value and computes its interval with one function of toolkit.stats. The
table is in docs/EVALUATION.md; tests/benchmarks/test_coverage.py requires 93 to 97 % for every case.

Legend: n = units of an experiment; samples = bootstrap samples per interval.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter
from scipy.special import ndtr

from toolkit import stats
from toolkit.stats import agreement, calibration, rankings, sequential, win_rates
from toolkit.stats.rankings import PairedComparison

EXPERIMENTS = 2000
SAMPLES = 500
UNITS = 200
"""Of every experiment: prompts, items, documents."""
HABITS = [0.5, 0.3, 0.2]
Generator = np.random.Generator


@dataclass(frozen=True)
class Case:
    """One interval for one data distribution.

    Attributes:
        experiment: (stream, seed of the bootstrap) -> the interval.
        truth: the true value.
        experiments: number of experiments, smaller for slow cases.
        at_least: whether the coverage may be higher, because the interval is valid for all n.
    """

    name: str
    n: str
    experiment: Callable[[Generator, int], stats.Estimate]
    truth: float
    experiments: int = EXPERIMENTS
    at_least: bool = False

    def coverage(self, experiments: int | None = None) -> float:
        """Return the share of experiments whose interval contains the truth; experiment i uses stream i."""
        held = 0
        count = experiments or self.experiments
        for seed in range(count):
            interval = self.experiment(np.random.default_rng([seed, 7]), seed)
            held += interval.low <= self.truth <= interval.high
        return held / count


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def ties_and_wins(generator: Generator, n: int) -> np.ndarray:
    """A win rate of 0.6 with 50 % wins and 20 % ties."""
    return generator.choice([0, 0.5, 1], p=[0.3, 0.2, 0.5], size=n)


def several_samples(generator: Generator) -> tuple[np.ndarray, list[int]]:
    """Prompts with one to four correlated samples; the mean is 0.5475."""
    easy = generator.beta(0.73, 0.6033333333, size=UNITS)
    counts = generator.integers(1, 5, size=UNITS)
    prompts = np.repeat(np.arange(UNITS), counts)
    return (generator.random(len(prompts)) < easy[prompts]).astype(float), prompts.tolist()


def lengths(generator: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Answers that are 40 tokens longer, with a length effect; the win rate at equal lengths is 57.4 %."""
    longer = generator.normal(40, 80, size=UNITS)
    chance = sigmoid(0.3 + 0.8 * np.tanh(longer / 80))
    return (generator.random(UNITS) < chance).astype(float), longer


def three_models(generator: Generator) -> list[PairedComparison]:
    """All pairs of a, b and c on every prompt, with ties and dependence within a prompt."""
    strengths, rows = {"a": 0.5, "b": 0.0, "c": -0.5}, []
    shared = generator.normal(size=UNITS)
    for first, second in (("a", "b"), ("b", "c"), ("a", "c")):
        luck = ndtr(0.6 * shared + 0.8 * generator.normal(size=UNITS))
        half = (strengths[first] - strengths[second]) / 2
        odds = np.array([np.exp(half), 0.5, np.exp(-half)])
        won, tied, _ = np.cumsum(odds / odds.sum())
        outcomes = np.where(luck < won, 1.0, np.where(luck < tied, 0.5, 0.0))
        rows += [
            PairedComparison(first, second, float(value), prompt) for prompt, value in enumerate(outcomes)
        ]
    return rows


def ratings(generator: Generator, raters: int) -> np.ndarray:
    """Raters who know the answer in 70 % of cases and otherwise guess with equal rates; alpha is 0.49."""
    truth = generator.choice(3, p=HABITS, size=UNITS)
    guesses = generator.choice(3, p=HABITS, size=(raters, UNITS))
    return np.where(generator.random((raters, UNITS)) < 0.7, truth, guesses)


def kappa(generator: Generator, seed: int) -> stats.Estimate:
    return agreement.cohen_kappa(*ratings(generator, 2).tolist(), seed=seed, samples=SAMPLES)


def kappa_of_groups(generator: Generator, seed: int) -> stats.Estimate:
    """Three items per prompt; a rater knows the answers to all of them or to none."""
    truth = generator.choice(3, p=HABITS, size=(UNITS, 3))
    knows = generator.random((2, UNITS, 1)) < 0.7
    labels = np.where(knows, truth, generator.choice(3, p=HABITS, size=(2, UNITS, 3)))
    first, second = labels.reshape(2, -1).tolist()
    prompts = np.repeat(np.arange(UNITS), 3).tolist()
    return agreement.cohen_kappa(first, second, seed=seed, samples=SAMPLES, groups=prompts)


def alpha(generator: Generator, seed: int) -> stats.Estimate:
    rated = ratings(generator, 3)
    missing = generator.random(rated.shape) < 0.2
    rows = [[None if gone else int(value) for value, gone in zip(*row, strict=True)]
            for row in zip(rated, missing, strict=True)]  # fmt: skip
    return agreement.krippendorff_alpha(rows, seed=seed, samples=SAMPLES)


def documents(generator: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Bits and bytes of documents with very different lengths; long ones have fewer bits per byte."""
    size = np.exp(generator.normal(6, 0.8, size=UNITS))
    bits = size * (1.2 - 0.1 * (np.log(size) - 6) + 0.3 * generator.normal(size=UNITS))
    return bits, size


def paired(generator: Generator, seed: int) -> stats.Estimate:
    """Two models whose losses per byte share the difficulty of a document; the difference is 0.02."""
    bits, size = documents(generator)
    other = bits - size * (0.02 + 0.05 * generator.normal(size=UNITS))
    return stats.ratio_bootstrap(bits - other, size, seed=seed, samples=SAMPLES)


def one_text(blocks: int) -> Callable[[Generator, int], stats.Estimate]:
    """Bits of tokens with autocorrelation 0.9, in blocks of 256."""

    def experiment(generator: Generator, seed: int) -> stats.Estimate:
        noise = generator.normal(size=256 * blocks + 500)
        bits = 5 + lfilter([1.0], [1.0, -0.9], noise)[500:]
        return stats.block_ratio(bits, np.ones(len(bits)), block=256, seed=seed, samples=SAMPLES)

    return experiment


def positions(generator: Generator, seed: int) -> stats.Estimate:
    """Two orders of each item; a quarter of the verdicts follow the position."""
    biased = generator.random(UNITS) < 0.25
    better = generator.choice([0, 0.5, 1], p=[0.3, 0.2, 0.5], size=UNITS)
    orders = np.where(biased, 1, better), np.where(biased, 0, better)
    result = agreement.position_bias(*orders, seed=seed, samples=SAMPLES)
    return stats.Estimate(result["bias"], *result["bias_interval"], UNITS)


def slope(generator: Generator, seed: int) -> stats.Estimate:
    odds = generator.normal(0, 1.5, size=UNITS)
    happened = generator.random(UNITS) < sigmoid(0.7 * odds)
    return calibration.slope_of(sigmoid(odds), happened, seed=seed, samples=SAMPLES)


def looked_at_all_the_time(generator: Generator, seed: int) -> stats.Estimate:
    """Return the worst of the intervals after each of 1,000 prompts; the true value is 0.6."""
    outcomes = ties_and_wins(generator, 1000)
    worst = int(np.argmax(sequential.log_capital(outcomes, 0.6)))
    return sequential.anytime(outcomes[: worst + 1]).rate


def win_rate_of(which: str, draw: Callable[[Generator], tuple]) -> Callable[[Generator, int], stats.Estimate]:
    """Return the `wilson` or `bootstrap` interval of a win rate."""
    samples = SAMPLES if which == "bootstrap" else 1
    return lambda generator, seed: getattr(
        win_rates.win_rate(*draw(generator), seed=seed, samples=samples), which
    )


def plain(share: float) -> Callable[[Generator], tuple]:
    """Wins and losses without ties."""
    return lambda generator: ((generator.random(UNITS) < share).astype(float),)


def with_ties(generator: Generator) -> tuple:
    return (ties_and_wins(generator, UNITS),)


def controlled(generator: Generator, seed: int) -> stats.Estimate:
    return win_rates.length_controlled(*lengths(generator), seed=seed, samples=SAMPLES)[0]


def gain_of_length(generator: Generator, seed: int) -> stats.Estimate:
    return win_rates.length_controlled(*lengths(generator), seed=seed, samples=SAMPLES)[1]


def strength(generator: Generator, seed: int) -> stats.Estimate:
    ranking = rankings.bradley_terry(three_models(generator), seed=seed, samples=SAMPLES)
    return ranking.strengths["a"]


def bits_per_byte(generator: Generator, seed: int) -> stats.Estimate:
    return stats.ratio_bootstrap(*documents(generator), seed=seed, samples=SAMPLES)


SEVERAL = 0.73 / (0.73 + 0.6033333333)
CASES = [
    Case("win rate 53%, Wilson", "200 prompts", win_rate_of("wilson", plain(0.53)), 0.53),
    Case("win rate 53%, bootstrap", "200 prompts", win_rate_of("bootstrap", plain(0.53)), 0.53),
    Case("win rate 90%, Wilson", "200 prompts", win_rate_of("wilson", plain(0.9)), 0.9),
    Case("win rate 90%, bootstrap", "200 prompts", win_rate_of("bootstrap", plain(0.9)), 0.9),
    Case("20% ties, Wilson", "200 prompts", win_rate_of("wilson", with_ties), 0.6),
    Case("20% ties, bootstrap", "200 prompts", win_rate_of("bootstrap", with_ties), 0.6),
    Case("1 to 4 samples per prompt, Wilson", "200 prompts", win_rate_of("wilson", several_samples), SEVERAL),
    Case(
        "1 to 4 samples per prompt, bootstrap",
        "200 prompts",
        win_rate_of("bootstrap", several_samples),
        SEVERAL,
    ),
    Case("length-controlled win rate", "200 prompts", controlled, float(sigmoid(0.3)), 1000),
    Case("log-odds that length gains", "200 prompts", gain_of_length, 0.8, 500),
    Case("Bradley-Terry strength, ties", "200 prompts, 3 models", strength, 0.5, 1000),
    Case("Cohen's kappa", "200 items, 2 raters", kappa, 0.49),
    Case("Cohen's kappa, 3 items per prompt", "200 prompts, 2 raters", kappa_of_groups, 0.49),
    Case("Krippendorff's alpha, a fifth missing", "200 items, 3 raters", alpha, 0.49),
    Case("position bias", "200 items", positions, 0.25),
    Case("slope of calibration", "200 cases", slope, 0.7, 1000),
    Case("bits per byte", "200 documents", bits_per_byte, 1.2 - 0.1 * 0.64),
    Case("paired difference of bits per byte", "200 documents", paired, 0.02),
    Case("bits per token of one text", "200 blocks of 256", one_text(200), 5.0, 1000),
    Case("bits per token of one text", "20 blocks of 256", one_text(20), 5.0),
    Case("win rate at any time", "1 to 1,000 prompts", looked_at_all_the_time, 0.6, 500, at_least=True),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__.split(":")[0])
    parser.add_argument("--experiments", type=int, help="experiments per case; default: as in the tests")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    print("| interval | n | coverage | standard error | experiments |\n|---|---|---|---|---|")
    for case in CASES:
        count = options.experiments or case.experiments
        share = case.coverage(count)
        error = (0.95 * 0.05 / count) ** 0.5
        print(f"| {case.name} | {case.n} | {share:.1%} | {error:.1%} | {count:,} |", flush=True)
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
