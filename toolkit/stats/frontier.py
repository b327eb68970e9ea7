"""The alignment frontier: the best mean utility that a policy can reach at a given KL from its reference.

The policy that maximises E[r] - beta KL(policy || reference) for a prompt x is
reference(y | x) exp(r(x, y) / beta) / Z(x) (Peters and Schaal, 2007; Korbak, Perez and Buckley, 2022;
Rafailov et al., 2023). With one beta for all prompts, mean utility is maximal at the mean KL that results:
beta is the price of a nat, and a nat is spent on the prompt where it gains the most. By duality

    frontier(KL) = min over beta of beta KL + mean over x of beta log Z(x),  Z(x) = E_reference[exp(r / beta)]

(Peters, Mülling and Altun, 2010). The expectations are those over n answers that were sampled from the
reference, with self-normalised importance weights w = softmax(r / beta): utility = sum of w r,
KL = sum of w log(n w), effective sample size = 1 / sum of w^2 (Kong, 1992).

Bias. The estimate lies below the frontier in expectation: log is concave, and so is the minimum over beta.
A policy may therefore exceed the estimate. To first order log Z(x) is too small by
(1 / effective sample size - 1 / n) / 2, which `FrontierPoint.bias` reports as utility. No weights on n
answers have a KL above log n, so that a KL of 7 needs well over exp(7) = 1,100 answers per prompt. Answers of
high utility that the reference gives less than once in n are usually missing from the sample, and the
effective sample size cannot show that.

Shapes: prompts = units that are resampled; answers = samples of the reference per prompt. KL is in nats per
answer, utility in its own unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from toolkit.stats.intervals import Estimate, as_units, bootstrap_mean, ratio_bootstrap

FEWEST_EFFECTIVE = 10.0
"""Effective answers per prompt below which a point is unreliable.

At 10, log Z(x) is 0.05 nats too small to first order. The gain over the reference of normal utilities, which
is sqrt(2 KL), came out 1.2 % to 2.2 % too small there (64 to 1,024 answers), up to twice the first order.
"""
BISECTIONS = 40
NEAREST_TO_LARGEST = 1e-9
"""Relative distance from the largest KL, at which beta would be zero."""


@dataclass(frozen=True)
class FrontierPoint:
    """One point of the frontier.

    Attributes:
        beta: coefficient of the KL, in units of utility per nat; also the slope of the frontier.
        kl: mean KL over the prompts, nats.
        utility: best mean utility at this KL; the interval resamples prompts and does not include `bias`.
        effective_sample_size: harmonic mean over prompts, which determines the bias; the arithmetic mean
            would hide prompts that rest on a single answer.
        least_effective_sample_size: minimum over prompts.
        bias: bias of the utility to first order, zero or negative; larger in truth if not `reliable`.
    """

    beta: float
    kl: float
    utility: Estimate
    effective_sample_size: float
    least_effective_sample_size: float
    bias: float

    @property
    def reliable(self) -> bool:
        """Whether the effective sample size is at least FEWEST_EFFECTIVE."""
        return self.effective_sample_size >= FEWEST_EFFECTIVE

    def as_json(self) -> dict[str, object]:
        """Return the keys of the JSON form."""
        return {
            "beta": self.beta,
            "kl": self.kl,
            **self.utility.as_json("utility"),
            "effective_sample_size": self.effective_sample_size,
            "least_effective_sample_size": self.least_effective_sample_size,
            "bias": self.bias,
            "reliable": self.reliable,
        }


@dataclass(frozen=True)
class Frontier:
    """The frontier at several KLs.

    Attributes:
        reference: mean utility of the reference, at a KL of zero.
        points: in the order in which they were asked for.
        largest_kl: mean KL of the policy that always gives the best of the answers, nats.
        answers: number of answers per prompt.
    """

    reference: Estimate
    points: list[FrontierPoint]
    largest_kl: float
    answers: int

    def as_json(self) -> dict[str, object]:
        """Return the keys of the JSON form, with one row per point."""
        return {
            **self.reference.as_json("reference"),
            "points": [point.as_json() for point in self.points],
            "largest_kl": self.largest_kl,
            "prompts": self.reference.n,
            "answers": self.answers,
            "seed": self.reference.seed,
            "level": self.reference.level,
        }


@dataclass(frozen=True)
class BestOfN:
    """Best-of-n sampling from the reference.

    Attributes:
        n: number of answers among which one is chosen.
        kl: upper bound of the mean KL in nats that counts tied answers as one; see `best_of_n_kl`.
        kl_bound: log n - (n - 1) / n, an upper bound whatever the ties.
        utility: expected utility of the chosen answer.
    """

    n: int
    kl: float
    kl_bound: float
    utility: Estimate

    def as_json(self) -> dict[str, object]:
        """Return the keys of the JSON form."""
        return {"n": self.n, "kl": self.kl, "kl_bound": self.kl_bound, **self.utility.as_json("utility")}


@dataclass(frozen=True)
class MethodPoint:
    """A method (PPO, DPO, best-of-n) beside the frontier at its KL.

    Attributes:
        kl: mean KL to the reference, nats; without an interval if only the mean was given.
        utility: mean utility of its answers.
        fraction: (utility - reference) / (frontier - reference); 0 is the reference, 1 the frontier.
        frontier: the frontier at this KL.
    """

    kl: Estimate
    utility: Estimate
    fraction: Estimate
    frontier: FrontierPoint

    def as_json(self) -> dict[str, object]:
        """Return the keys of the JSON form."""
        return {
            **self.kl.as_json("kl"),
            **self.utility.as_json("utility"),
            **self.fraction.as_json("fraction"),
            "frontier": self.frontier.as_json(),
        }


@dataclass(frozen=True)
class _Tilted:
    """The optimal policy at one beta; every field has shape (prompts,)."""

    kl: np.ndarray
    effective: np.ndarray
    dual: np.ndarray  # beta log Z, which is utility - beta KL


def frontier(
    utilities: ArrayLike,
    *,
    kls: Iterable[float] | None = None,
    betas: Iterable[float] | None = None,
    seed: int,
    samples: int = 2000,
    level: float = 0.95,
) -> Frontier:
    """Estimate the frontier at given KLs or at given betas.

    Args:
        utilities: utility of each answer of the reference, (prompts, answers); temperature 1, no truncation.
        kls: mean KLs in nats, each between zero and `largest_kl`.
        betas: positive coefficients instead of KLs.
        seed: root of the stream `bootstrap`.
    Raises:
        ValueError: not a matrix with at least two columns, a value that is not finite, neither or both of
            `kls` and `betas`, a beta that is not positive, or a KL out of range.
    """
    utilities = _as_matrix(utilities)
    if (kls is None) == (betas is None):
        raise ValueError("pass either kls or betas")
    if kls is not None:
        betas = [beta_at_kl(utilities, kl) for kl in kls]
    resampling: dict[str, Any] = {"seed": seed, "samples": samples, "level": level}
    return Frontier(
        reference=bootstrap_mean(utilities.mean(1), **resampling),
        points=[_point(utilities, beta, **resampling) for beta in betas or ()],
        largest_kl=largest_kl(utilities),
        answers=utilities.shape[1],
    )


def frontier_at(
    utilities: ArrayLike, kl: float, *, seed: int, samples: int = 2000, level: float = 0.95
) -> FrontierPoint:
    """Estimate the best mean utility at a mean KL; arguments and errors are those of `frontier`."""
    utilities = _as_matrix(utilities)
    return _point(utilities, beta_at_kl(utilities, kl), seed=seed, samples=samples, level=level)


def beta_at_kl(utilities: ArrayLike, kl: float) -> float:
    """Return the beta whose optimal policies have a mean KL of `kl` nats, by bisection of log beta.

    Raises:
        ValueError: wrong utilities as in `frontier`, or a KL that is not between zero and `largest_kl`.
    """
    utilities = _as_matrix(utilities)
    largest = largest_kl(utilities)
    if not 0 < kl < largest * (1 - NEAREST_TO_LARGEST):
        raise ValueError(
            f"a KL of {kl:g} nats is not between 0 and {largest:.4g}, the largest KL of policies on the "
            f"{utilities.shape[1]} answers per prompt; a larger KL needs more answers"
        )
    # KL <= range^2 / (8 beta^2), from Hoeffding's lemma, gives a beta that is large enough.
    high = low = float(np.ptp(utilities, axis=1).max()) / math.sqrt(8 * kl)
    while _tilted(utilities, low).kl.mean() < kl:
        high, low = low, low / 2
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        if not low < middle < high:
            break
        low, high = (middle, high) if _tilted(utilities, middle).kl.mean() > kl else (low, middle)
    return high


def largest_kl(utilities: ArrayLike) -> float:
    """Return the mean KL of choosing one of the best answers of each prompt, log(answers / ties), in nats."""
    utilities = _as_matrix(utilities)
    best = (utilities == utilities.max(1, keepdims=True)).sum(1)
    return float(np.log(utilities.shape[1] / best).mean())


def best_of_n_kl_bound(n: int) -> float:
    """Return log n - (n - 1) / n, an upper bound of the KL of best-of-n sampling (Beirami et al., 2024)."""
    return math.log(n) - (n - 1) / n


def best_of_n(
    utilities: ArrayLike,
    counts: Iterable[int],
    *,
    scores: ArrayLike | None = None,
    seed: int,
    samples: int = 2000,
    level: float = 0.95,
) -> list[BestOfN]:
    """Estimate utility and KL of best-of-n sampling for each n of `counts`.

    Args:
        utilities: utility of each answer of the reference, (prompts, answers).
        counts: numbers of answers to choose from, each between 1 and `answers`. Near `answers` the utility
            remains unbiased while that of the frontier does not: compare them at n well below `answers`.
        scores: scores of a reward model that chooses, (prompts, answers); None: utility itself chooses.
        seed: root of the stream `bootstrap`.
    Raises:
        ValueError: wrong utilities as in `frontier`, scores of another shape, or an n out of range.
    """
    utilities = _as_matrix(utilities)
    points = []
    for n in counts:
        best = expected_best(utilities, n, scores=scores)
        points.append(
            BestOfN(
                n=int(n),
                kl=float(best_of_n_kl(utilities if scores is None else scores, n).mean()),
                kl_bound=best_of_n_kl_bound(n),
                utility=bootstrap_mean(best, seed=seed, samples=samples, level=level),
            )
        )
    return points


def expected_best(utilities: ArrayLike, n: int, *, scores: ArrayLike | None = None) -> np.ndarray:
    """Return the expected utility of the best of n answers per prompt, (prompts,).

    The mean over all subsets of n of the N answers, unbiased (Nakano et al., 2021, appendix I): the i-th
    smallest of the N is the largest of C(i - 1, n - 1) of the C(N, n) subsets. Ties are broken at random.
    Arguments and errors are those of `best_of_n`.
    """
    utilities = _as_matrix(utilities)
    chosen_by = utilities if scores is None else _as_matrix(scores)
    if chosen_by.shape != utilities.shape:
        raise ValueError(f"utilities of shape {utilities.shape} and scores of shape {chosen_by.shape}")
    answers = utilities.shape[1]
    _require_count(n, answers)
    rank = np.arange(
        answers, n, -1
    )  # from the largest downwards: share(i - 1) / share(i) = (i - n) / (i - 1)
    shares = n / answers * np.concatenate([[1.0], np.cumprod((rank - n) / (rank - 1))])
    if scores is not None:
        utilities = _mean_of_ties(utilities, chosen_by)
    order = np.argsort(-chosen_by, axis=1, kind="stable")[:, : len(shares)]
    return np.take_along_axis(utilities, order, axis=1) @ shares


def best_of_n_kl(scores: ArrayLike, n: int) -> np.ndarray:
    """Return an upper bound of the KL of best-of-n sampling per prompt in nats, (prompts,).

    The density of the best of n at the quantile q is n q^(n - 1), whose KL is log n - (n - 1) / n
    (Stiennon et al., 2020; Hilton and Gao, 2022). That is an upper bound if several samples may be the same
    answer or have the same score (Beirami et al., 2024): with ties broken at random, scores between the
    quantiles a and b have the mass m = b^n - a^n and contribute m log(m / (b - a)), which is less. Scores
    that occur once count as continuous, so that the result is the bound without ties and 0 if all are tied.

    Args:
        scores: scores, or utilities, by which the best is chosen, (prompts, answers).
    Raises:
        ValueError: wrong scores as the utilities in `frontier`, or n not between 1 and `answers`.
    """
    scores = _as_matrix(scores)
    _require_count(n, scores.shape[1])
    return np.array([_best_of_n_kl(np.unique(row, return_counts=True)[1], n) for row in scores])


def compare_with_frontier(
    utilities: ArrayLike,
    method: ArrayLike,
    kl: ArrayLike,
    *,
    seed: int,
    samples: int = 2000,
    level: float = 0.95,
) -> MethodPoint:
    """Estimate the fraction of the frontier that a method reaches at its KL.

    All intervals resample the same prompts. That of the fraction lets KL and frontier vary along with
    the utility; it does not include `FrontierPoint.bias`, which makes the fraction too large.

    Args:
        utilities: utility of each answer of the reference, (prompts, answers).
        method: utilities of the method on the same prompts, (prompts,) or, with several answers per prompt,
            (prompts, any).
        kl: KL(method || reference) in nats, (prompts,) or its mean, which then counts as exact.
        seed: root of the stream `bootstrap`.
    Raises:
        ValueError: wrong utilities as in `frontier`, other prompts, or a mean KL that is not between zero and
            `largest_kl`.
    """
    utilities, method, kl = _as_matrix(utilities), np.asarray(method, dtype=np.float64), np.asarray(kl)
    reached = as_units(method.mean(1) if method.ndim == 2 and method.shape[1] else method)
    spent = as_units(np.full(len(utilities), kl) if kl.ndim == 0 else kl)
    if not len(utilities) == len(reached) == len(spent):
        raise ValueError(
            f"{len(utilities)} prompts of the reference, {len(reached)} of the method and {len(spent)} KLs"
        )
    resampling: dict[str, Any] = {"seed": seed, "samples": samples, "level": level}
    mean_kl = float(spent.mean())
    beta, reference = beta_at_kl(utilities, mean_kl), utilities.mean(1)
    # As in `_point`; a prompt's own KL moves a resample along the frontier, whose slope is beta.
    best = _tilted(utilities, beta).dual + beta * spent
    exact = Estimate(mean_kl, math.nan, math.nan, len(spent), level=level)
    return MethodPoint(
        kl=bootstrap_mean(spent, **resampling) if kl.ndim else exact,
        utility=bootstrap_mean(reached, **resampling),
        fraction=ratio_bootstrap(reached - reference, best - reference, **resampling),
        frontier=_point(utilities, beta, **resampling),
    )


def _point(utilities: np.ndarray, beta: float, *, seed: int, samples: int, level: float) -> FrontierPoint:
    """Estimate the point of one beta.

    A resample of prompts has another best beta. The minimum over beta in the duality makes that a
    second-order effect (envelope theorem): the frontier of a resample at this KL is its mean of
    beta KL + beta log Z(x).
    """
    tilted = _tilted(utilities, beta)
    kl, inverse = float(tilted.kl.mean()), float((1 / tilted.effective).mean())
    return FrontierPoint(
        beta=float(beta),
        kl=kl,
        utility=bootstrap_mean(tilted.dual + beta * kl, seed=seed, samples=samples, level=level),
        effective_sample_size=1 / inverse,
        least_effective_sample_size=float(tilted.effective.min()),
        bias=min(0.0, -beta / 2 * (inverse - 1 / utilities.shape[1])),
    )


def _tilted(utilities: np.ndarray, beta: float) -> _Tilted:
    if not (beta > 0 and math.isfinite(beta)):
        raise ValueError(f"beta must be positive and finite, got {beta:g}")
    log_answers, best = math.log(utilities.shape[1]), utilities.max(1)
    scaled = (utilities - best[:, None]) / beta
    total = np.log(np.exp(scaled).sum(1))
    log_weights = scaled - total[:, None]
    weights = np.exp(log_weights)
    return _Tilted(
        kl=np.maximum(0.0, log_answers + (weights * log_weights).sum(1)),
        effective=1 / (weights**2).sum(1),
        dual=best + beta * (total - log_answers),
    )


def _mean_of_ties(utilities: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Replace the utility of each answer by the mean over the answers of the same prompt and score."""
    means = np.empty_like(utilities)
    for row, (values, keys) in enumerate(zip(utilities, scores, strict=True)):
        group = np.unique(keys, return_inverse=True)[1]
        means[row] = (np.bincount(group, values) / np.bincount(group))[group]
    return means


def _best_of_n_kl(ties: np.ndarray, n: int) -> float:
    """Return the bound for one prompt; `ties` holds how often each score occurs, in ascending order."""
    quantiles = np.concatenate([[0], np.cumsum(ties)]) / ties.sum()
    below = quantiles**n  # probability that all n are at most there
    # The integral of n q^(n - 1) log(n q^(n - 1)) from 0 to each quantile.
    integral = below * math.log(n) + (n - 1) * (special.xlogy(below, quantiles) - below / n)
    mass = np.diff(below)
    tied = special.xlogy(mass, mass / np.diff(quantiles))
    return max(0.0, float(np.where(ties > 1, tied, np.diff(integral)).sum()))


def _require_count(n: int, answers: int) -> None:
    if not 1 <= n <= answers:
        raise ValueError(f"best of {n}: n must be between 1 and {answers}, the number of answers per prompt")


def _as_matrix(values: ArrayLike) -> np.ndarray:
    """Return utilities as float64, (prompts, answers)."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or len(array) == 0 or array.shape[1] < 2:
        raise ValueError(f"expected (prompts, answers) with two answers or more, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of {array.size} values are not finite")
    return array
