"""Ranking of several models by the Bradley-Terry model (1952) with Davidson's ties (1970).

P(i beats j) : P(j beats i) : P(tie) = e^((s_i - s_j) / 2) : e^((s_j - s_i) / 2) : e^t, so that without ties
s_i - s_j is the log-odds that i wins. Strengths sum to zero.

Shapes: pairs = unordered pairs of models; resamples = bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from toolkit.stats.intervals import Estimate, percentile_interval, resampled_counts
from toolkit.stats.win_rates import LONGEST_STEP, NEWTON_STEPS, RIDGE, SMALLEST_STEP


@dataclass(frozen=True)
class PairedComparison:
    """A comparison of two models; outcome 1 if `first` is better, 0.5 for a tie, 0 if `second` is better."""

    first: str
    second: str
    outcome: float
    prompt: Hashable


@dataclass(frozen=True)
class Ranking:
    """Models ordered by strength.

    Attributes:
        strengths: log-odds against a model of mean strength by model, strongest first.
        win_rates: expected share of wins against all other models; a tie counts one half.
        tie: e^t, twice the odds of a tie between equal models; 0 without ties.
    """

    strengths: dict[str, Estimate]
    win_rates: dict[str, Estimate]
    tie: float

    def as_json(self) -> dict[str, object]:
        """Return the keys of the JSON form, with one row per model."""
        rows = [
            {"model": model, **strength.as_json("strength"), **self.win_rates[model].as_json("win_rate")}
            for model, strength in self.strengths.items()
        ]
        first = next(iter(self.strengths.values()))
        return {"models": rows, "tie": self.tie, "prompts": first.n, "seed": first.seed, "level": first.level}


def bradley_terry(comparisons: Sequence[PairedComparison], *, seed: int, samples: int = 2000) -> Ranking:
    """Fit the strengths of all models; the intervals resample prompts and refit.

    RIDGE keeps the strength of a model that never loses finite. An outcome other than 0, one half and 1, such
    as the mean of several annotators, counts partly as a tie: 0.8 is 0.6 wins and 0.4 ties.

    Raises:
        ValueError: fewer than two models, a model compared with itself, or groups of models without a
            comparison between them.
    """
    models = sorted({name for comparison in comparisons for name in (comparison.first, comparison.second)})
    _require_comparable(models, comparisons)
    pairs = list(combinations(range(len(models)), 2))
    counts = _by_prompt(models, pairs, comparisons)  # (prompts, 3 * pairs)
    whole = _fit(counts.sum(0)[None], pairs, np.zeros(len(models) + 1))
    drawn = resampled_counts(len(counts), seed=seed, samples=samples)
    resampled = np.concatenate([_fit(parameters @ counts, pairs, whole[0]) for parameters in drawn])
    strengths, rates = {}, {}
    whole_rates, resampled_rates = (_expected(parameters, len(models)) for parameters in (whole, resampled))
    resampling = {"units": len(counts), "seed": seed}
    for index in sorted(range(len(models)), key=lambda index: -whole[0, index]):
        name = models[index]
        strengths[name] = percentile_interval(float(whole[0, index]), resampled[:, index], **resampling)
        rates[name] = percentile_interval(
            float(whole_rates[0, index]), resampled_rates[:, index], **resampling
        )
    return Ranking(strengths, rates, float(np.exp(whole[0, -1])))


def _require_comparable(models: list[str], comparisons: Sequence[PairedComparison]) -> None:
    if len(models) < 2:
        raise ValueError("a ranking needs comparisons of at least two models")
    group = {name: {name} for name in models}
    for comparison in comparisons:
        if comparison.first == comparison.second:
            raise ValueError(f"{comparison.first} is compared with itself")
        if group[comparison.first] is not group[comparison.second]:
            joined = group[comparison.first] | group[comparison.second]
            group |= dict.fromkeys(joined, joined)
    groups = {min(members): sorted(members) for members in group.values()}
    if len(groups) > 1:
        names = "; ".join(", ".join(members) for members in groups.values())
        raise ValueError(f"these groups of models were never compared with each other: {names}")


def _by_prompt(
    models: list[str], pairs: list[tuple[int, int]], comparisons: Sequence[PairedComparison]
) -> np.ndarray:
    """Count wins of the first, wins of the second and ties of every pair of models, (prompts, 3 * pairs).

    Several comparisons of one pair on one prompt are averaged.
    """
    index = {name: number for number, name in enumerate(models)}
    column = {pair: number for number, pair in enumerate(pairs)}
    prompts: dict[Hashable, int] = {}
    for comparison in comparisons:
        prompts.setdefault(comparison.prompt, len(prompts))
    counts, seen = np.zeros((len(prompts), 3, len(pairs))), np.zeros((len(prompts), 1, len(pairs)))
    for comparison in comparisons:
        pair, outcome = (index[comparison.first], index[comparison.second]), comparison.outcome
        if pair not in column:
            pair, outcome = pair[::-1], 1 - outcome
        row, cell = prompts[comparison.prompt], column[pair]
        counts[row, :, cell] += max(0.0, 2 * outcome - 1), max(0.0, 1 - 2 * outcome), 1 - abs(2 * outcome - 1)
        seen[row, 0, cell] += 1
    return (counts / np.maximum(seen, 1)).reshape(len(prompts), -1)


def _fit(counts: np.ndarray, pairs: list[tuple[int, int]], start: np.ndarray) -> np.ndarray:
    """Fit strengths and t of each resample by Newton's method, (resamples, models + 1).

    Counts are (resamples, 3 * pairs); `start` is near the solution; the log-likelihood is concave. t is -inf
    without ties.
    """
    wins, losses, ties = counts.reshape(len(counts), 3, len(pairs)).transpose(1, 0, 2)
    design = np.zeros((len(pairs), pairs[-1][1] + 1))
    for row, (first, second) in enumerate(pairs):
        design[row, first], design[row, second] = 0.5, -0.5
    models, total = design.shape[1], wins + losses + ties
    parameters = np.tile(start, (len(counts), 1))
    has_ties = bool(ties.any())
    if not has_ties:
        parameters[:, -1] = -np.inf
    for _ in range(NEWTON_STEPS):
        won, lost, tied = _chances(parameters, design)
        gradient = np.zeros_like(parameters)
        gradient[:, :-1] = (wins - losses - total * (won - lost)) @ design - RIDGE * parameters[:, :-1]
        curvature = np.zeros((len(counts), models + 1, models + 1))
        spread = total * (won + lost - (won - lost) ** 2)
        curvature[:, :-1, :-1] = np.einsum("sp,pi,pj->sij", spread, design, design) + RIDGE * np.eye(models)
        curvature[:, -1, -1] = 1.0
        if has_ties:
            gradient[:, -1] = (ties - total * tied).sum(1) - RIDGE * parameters[:, -1]
            curvature[:, -1, -1] = (total * tied * (1 - tied)).sum(1) + RIDGE
            cross = -(total * tied * (won - lost)) @ design
            curvature[:, :-1, -1], curvature[:, -1, :-1] = cross, cross
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        parameters += np.clip(step, -LONGEST_STEP, LONGEST_STEP)
        if np.abs(step).max() < SMALLEST_STEP:
            break
    return parameters


def _chances(parameters: np.ndarray, design: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the probabilities of a win of the first, of the second and of a tie, (resamples, pairs) each."""
    half = parameters[:, :-1] @ design.T
    logits = np.stack([half, -half, np.broadcast_to(parameters[:, -1:], half.shape)])
    odds = np.exp(logits - logits.max(0))
    won, lost, tied = odds / odds.sum(0)
    return won, lost, tied


def _expected(parameters: np.ndarray, models: int) -> np.ndarray:
    """Return the mean share of wins of each model against the others, (resamples, models)."""
    half = (parameters[:, :models, None] - parameters[:, None, :models]) / 2
    tie = np.exp(parameters[:, -1])[:, None, None]
    share = (np.exp(half) + tie / 2) / (np.exp(half) + np.exp(-half) + tie)
    return (share.sum(2) - 0.5) / (models - 1)
