"""Estimates with bootstrap, Wilson and exact intervals.

Bootstrap intervals are expanded percentile intervals (Hesterberg, 2015, "What Teachers Should Know About
the Bootstrap", section 5.3): the plain percentile interval of a mean is too narrow by sqrt(n / (n - 1))
and by normal instead of t quantiles; at n = 10 it covers 90 % where 95 % was meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special  # not scipy.stats, which takes 0.7 s to import

from toolkit.base.rng import derive

CHUNK_DRAWS = 4_000_000  # resampled indices in memory: 32 MB


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; `low` and `high` are nan if a single unit gives no interval.

    `n` is the number of resampled units (documents, blocks, prompts), `samples` the number of bootstrap
    samples, 0 for an interval without resampling.
    """

    estimate: float
    low: float
    high: float
    n: int
    seed: int | None = None
    samples: int = 0
    level: float = 0.95

    @property
    def interval(self) -> list[float | None]:
        """Both ends, None if there is no interval (JSON has no nan)."""
        return [value if math.isfinite(value) else None for value in (self.low, self.high)]

    def as_json(self, key: str) -> dict[str, object]:
        """Return {key: estimate, key_interval: [low, high]}, None in place of nan."""
        value = self.estimate if math.isfinite(self.estimate) else None
        return {key: value, f"{key}_interval": self.interval}

    def as_dict(self) -> dict[str, object]:
        """Return every field, None in place of nan."""
        value = self.estimate if math.isfinite(self.estimate) else None
        return {**asdict(self), "estimate": value, "low": self.interval[0], "high": self.interval[1]}

    def excludes(self, value: float) -> bool:
        """Return whether there is an interval and `value` lies outside of it."""
        return bool(value < self.low or value > self.high)

    def minus(self, other: Estimate) -> Estimate:
        """Return the difference to another estimate, with an interval from both of theirs.

        The method of variance estimates recovery (Zou and Donner, 2008, equation 2); for two shares with
        Wilson's intervals it is Newcombe's (1998). It assumes independent estimates: for two means over the
        same units the interval is too wide, and `paired_difference` is better where the units are known.
        """
        difference = self.estimate - other.estimate
        low = math.hypot(self.estimate - self.low, other.high - other.estimate)
        high = math.hypot(self.high - self.estimate, other.estimate - other.low)
        n = min(self.n, other.n)
        return Estimate(difference, difference - low, difference + high, n, level=self.level)

    def map(self, function: Callable[[float], float]) -> Estimate:
        """Return the estimate of a monotone function of the quantity: exp of bits for a perplexity."""
        low, high = sorted((function(self.low), function(self.high)))
        return Estimate(function(self.estimate), low, high, self.n, self.seed, self.samples, self.level)


def estimate_text(estimate: Estimate | None, *, percent: bool = False, digits: int = 3) -> str:
    """Return `0.912 [0.897, 0.926]`, without the interval if there is none, `-` if it was not measured."""
    row = {} if estimate is None else estimate.as_json("value")
    return interval_text(row, "value", percent=percent, digits=digits)


def interval_of(row: Mapping[str, Any], key: str) -> list[float] | None:
    """Return `<key>_interval` of a row written with `Estimate.as_json`, None if there is none."""
    bounds = row.get(f"{key}_interval")
    return bounds if bounds and None not in bounds else None  # a single unit has no interval


def interval_text(row: Mapping[str, Any], key: str, *, percent: bool = False, digits: int = 3) -> str:
    """Return `0.912 [0.897, 0.926]` for a key with its `<key>_interval`, `-` if it was not measured."""
    value, bounds = row.get(key), interval_of(row, key)
    if value is None:
        return "-"
    scale, digits, sign = (100, 1, "%") if percent else (1, digits, "")
    text = f"{value * scale:.{digits}f}{sign}"
    return f"{text} [{bounds[0] * scale:.{digits}f}, {bounds[1] * scale:.{digits}f}]" if bounds else text


def kl_text(row: Mapping[str, Any], *, interval: bool = False) -> str:
    """Return the KL to the baseline, `<=0.64` if only a bound is known, `-` if there is neither."""
    if row.get("kl_to_baseline_at_most") is not None:
        return f"<={row['kl_to_baseline_at_most']:.2f}"
    text = interval_text(row, "kl_to_baseline", digits=2)
    return text if interval else text.partition(" ")[0]


def bootstrap_mean(values: ArrayLike, *, seed: int, samples: int = 2000, level: float = 0.95) -> Estimate:
    """Estimate the mean of independent units with a bootstrap interval.

    Args:
        values: one number per unit, shape (n,).
        seed: root of the stream `bootstrap`; the same seed and n resample the same units.
    Raises:
        ValueError: no values, or one is not finite.
    """
    values = as_units(values)
    return ratio_bootstrap(values, np.ones(len(values)), seed=seed, samples=samples, level=level)


def bootstrap_share(values: ArrayLike, *, seed: int, samples: int = 2000, level: float = 0.95) -> Estimate:
    """Estimate the mean of numbers in [0, 1], such as win 1, tie 0.5, loss 0.

    Resampled means stay inside [0, 1]. If all units are equal, the bootstrap interval would have no width;
    the exact binomial (Clopper-Pearson) interval replaces it: [0.40, 1] for 4 wins of 4.
    """
    values = as_units(values)
    if values.min() < 0 or values.max() > 1:
        raise ValueError("a share is made of values between 0 and 1")
    if np.ptp(values) == 0 and values[0] != 0.5:
        low, high = _exact_interval(float(values.sum()), len(values), level)
        return Estimate(float(values.mean()), low, high, len(values), seed, 0, level)
    if np.ptp(values) == 0:  # nothing but ties: no comparison decided anything
        return Estimate(0.5, 0.0, 1.0, len(values), seed, 0, level)
    return bootstrap_mean(values, seed=seed, samples=samples, level=level)


def student_mean(values: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Estimate the mean of a few independent units, such as trainings of several seeds, by Student's t.

    Args:
        values: one number per unit, shape (n,).

    Raises:
        ValueError: no values, or one is not finite.
    """
    values = as_units(values)
    mean, units = float(values.mean()), len(values)
    if units == 1:
        return Estimate(mean, math.nan, math.nan, 1, level=level)
    reach = -float(special.stdtrit(units - 1, (1 - level) / 2) * values.std(ddof=1) / math.sqrt(units))
    return Estimate(mean, mean - reach, mean + reach, units, level=level)


def ratio_bootstrap(
    numerators: ArrayLike, denominators: ArrayLike, *, seed: int, samples: int = 2000, level: float = 0.95
) -> Estimate:
    """Estimate sum(numerators) / sum(denominators), with units (documents) resampled as pairs.

    Bits per byte is `ratio_bootstrap(nats / ln 2, bytes)`. The paired difference of two models on the same
    documents is `ratio_bootstrap(nats_a - nats_b, bytes)`, since the denominators are the same.
    """
    top, bottom = as_units(numerators), as_units(denominators)
    if len(top) != len(bottom):
        raise ValueError(f"{len(top)} numerators and {len(bottom)} denominators")
    if bottom.sum() <= 0:
        raise ValueError("the denominators sum to zero")
    n, generator = len(top), bootstrap_generator(seed)
    ratios = np.empty(samples)
    step = max(1, CHUNK_DRAWS // n)
    for start in range(0, samples, step):
        drawn = generator.integers(n, size=(min(step, samples - start), n))  # (resamples, n)
        ratios[start : start + len(drawn)] = _divide(top[drawn].sum(1), bottom[drawn].sum(1))
    return percentile_interval(float(top.sum() / bottom.sum()), ratios, units=n, seed=seed, level=level)


def block_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    block: int,
    seed: int,
    samples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Estimate sum / sum over one long text, whose neighbouring units depend on each other.

    Circular block bootstrap (Politis and Romano, 1992): runs of `block` consecutive units are drawn from
    the text closed to a ring, up to its length. `n` of the result counts blocks.

    Args:
        numerators: one number per consecutive unit (token, chunk) of the text, in order, shape (n,).
        block: units in one block, longer than the dependence; at most half of the units is used.
    """
    top, bottom = as_units(numerators), as_units(denominators)
    if len(top) != len(bottom):
        raise ValueError(f"{len(top)} numerators and {len(bottom)} denominators")
    n = len(top)
    block = max(1, min(block, n // 2))
    blocks = -(-n // block)
    starts_top, starts_bottom = (_ring_sums(values, block) for values in (top, bottom))
    generator, ratios = bootstrap_generator(seed), np.empty(samples)
    step = max(1, CHUNK_DRAWS // blocks)
    for start in range(0, samples, step):
        drawn = generator.integers(n, size=(min(step, samples - start), blocks))
        ratios[start : start + len(drawn)] = _divide(starts_top[drawn].sum(1), starts_bottom[drawn].sum(1))
    return percentile_interval(float(top.sum() / bottom.sum()), ratios, units=blocks, seed=seed, level=level)


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, seed: int, samples: int = 2000, level: float = 0.95
) -> Estimate:
    """Estimate the mean of first - second over the same units, whose shared difficulty cancels out."""
    first, second = as_units(first), as_units(second)
    if len(first) != len(second):
        raise ValueError(f"pairs need the same units, got {len(first)} and {len(second)}")
    return bootstrap_mean(first - second, seed=seed, samples=samples, level=level)


def wilson(successes: float, n: float, *, level: float = 0.95) -> Estimate:
    """Estimate the share of successes with Wilson's score interval (1927), which also holds at 0 and n."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    z, share = float(special.ndtri((1 + level) / 2)), successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Estimate(share, low if successes else 0.0, high if successes < n else 1.0, int(n), level=level)


def wilson_of_units(values: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Estimate the mean of units in [0, 1] with Wilson's interval at their effective number.

    With ties or several samples per prompt a share varies less than a binomial share; n units then count as
    n p (1 - p) / variance (Korn and Graubard, 1998). With only wins and losses this is `wilson`.
    """
    values = as_units(values)
    if values.min() < 0 or values.max() > 1:
        raise ValueError("a share is made of values between 0 and 1")
    n, share, variance = len(values), float(values.mean()), float(values.var())
    effective = n * share * (1 - share) / variance if variance else n
    interval = wilson(share * effective, effective, level=level)
    return replace(interval, estimate=share, n=n)


def resampled_counts(units: int, *, seed: int, samples: int) -> Iterator[np.ndarray]:
    """Yield how often each unit is drawn in each bootstrap sample, in chunks of shape (resamples, units)."""
    generator, step = bootstrap_generator(seed), max(1, CHUNK_DRAWS // units)
    for start in range(0, samples, step):
        rows = min(step, samples - start)
        drawn = generator.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float64)


def bootstrap_of(
    statistic: Callable[[np.ndarray], np.ndarray],
    units: int,
    *,
    seed: int,
    samples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Estimate a statistic of weighted units.

    Args:
        statistic: weights of shape (resamples, units) -> (resamples,); nan if undefined for a resample.
    """
    estimate = float(statistic(np.ones((1, units)))[0])
    counts = resampled_counts(units, seed=seed, samples=samples)
    resampled = np.concatenate([statistic(weights) for weights in counts])
    return percentile_interval(estimate, resampled, units=units, seed=seed, level=level)


def groups_of(names: Sequence[Hashable] | None, units: int) -> np.ndarray:
    """Return the group index of each unit in order of appearance, (units,); None: one group per unit.

    Raises:
        ValueError: the numbers of names and units differ.
    """
    if names is None:
        return np.arange(units)
    if len(names) != units:
        raise ValueError(f"{units} units and the groups of {len(names)}")
    indices: dict[Hashable, int] = {}
    return np.array([indices.setdefault(name, len(indices)) for name in names])


def as_units(values: ArrayLike) -> np.ndarray:
    """Return units as float64, shape (n,); raises ValueError if there are none, or one is not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"expected a non-empty list of units, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of {len(array)} values are not finite")
    return array


def bootstrap_generator(seed: int) -> np.random.Generator:
    """Return the generator of all bootstrap samples of a seed."""
    return np.random.default_rng(derive(seed, "bootstrap"))


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Divide; a resample of empty units only has no ratio and becomes nan."""
    return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)


def _ring_sums(values: np.ndarray, block: int) -> np.ndarray:
    """Sum the `block` units that start at each position of the ring, shape (n,)."""
    total = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[:block]]))])
    return total[block : block + len(values)] - total[: len(values)]


def percentile_interval(
    estimate: float, resampled: np.ndarray, *, units: int, seed: int, level: float = 0.95
) -> Estimate:
    """Return the expanded percentile interval of a statistic from its bootstrap samples without nan."""
    samples = len(resampled)
    if units < 2 or np.isnan(resampled).all():
        return Estimate(estimate, math.nan, math.nan, units, seed, samples, level)
    t = special.stdtrit(units - 1, (1 - level) / 2)
    tail = float(special.ndtr(t * math.sqrt(units / (units - 1))))
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return Estimate(estimate, float(low), float(high), units, seed, samples, level)


def _exact_interval(successes: float, n: int, level: float) -> tuple[float, float]:
    """Return the Clopper-Pearson interval for an integer number of successes or n times one value."""
    tail = (1 - level) / 2
    low = 0.0 if successes <= 0 else float(special.betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes >= n else float(special.betaincinv(successes + 1, n - successes, 1 - tail))
    return low, high
