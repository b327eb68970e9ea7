"""Agreement of judges with each other and with people, and their biases by position and length.

Intervals resample items, or groups of dependent items, such as those of one prompt.

Shapes: items = rated things; raters; categories = possible ratings; resamples = bootstrap samples.
`groups` is the group of each item, (items,); by default every item is its own group.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from toolkit.stats.intervals import (
    Estimate,
    as_units,
    bootstrap_of,
    bootstrap_share,
    groups_of,
    ratio_bootstrap,
)

MISSING = -1


Groups = Sequence[Hashable] | None


def accuracy(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    seed: int,
    samples: int = 2000,
    groups: Groups = None,
) -> Estimate:
    """Estimate the share of items that both rate the same."""
    codes, _ = _codes([first, second])
    return _mean((codes[:, 0] == codes[:, 1]).astype(float), groups, seed, samples)


def cohen_kappa(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    seed: int,
    samples: int = 2000,
    groups: Groups = None,
) -> Estimate:
    """Estimate the agreement of two raters beyond chance, Cohen's kappa (1960): 1 is full, 0 is chance.

    nan if both give the same single rating to all items.

    Raises:
        ValueError: no items, different numbers of them, or a rating that is None.
    """
    codes, categories = _codes([first, second])
    if (codes == MISSING).any():
        raise ValueError("kappa compares items that both raters rated")
    cells = np.zeros((len(codes), categories, categories))
    cells[np.arange(len(codes)), codes[:, 0], codes[:, 1]] = 1
    cells = _by_group(cells, groups)

    def kappa(weights: np.ndarray) -> np.ndarray:
        table = (weights @ cells.reshape(len(cells), -1)).reshape(-1, categories, categories)
        table /= table.sum((1, 2), keepdims=True)
        same = np.trace(table, axis1=1, axis2=2)
        chance = (table.sum(1) * table.sum(2)).sum(1)
        return _beyond(same, chance)

    return bootstrap_of(kappa, len(cells), seed=seed, samples=samples)


def krippendorff_alpha(
    ratings: Sequence[Sequence[Hashable | None]], *, seed: int, samples: int = 2000, groups: Groups = None
) -> Estimate:
    """Estimate nominal agreement beyond chance, Krippendorff's alpha (2011); None is a missing rating.

    Args:
        ratings: one list of ratings for each rater, (raters, items).
    Raises:
        ValueError: no item has two ratings, or lists differ in length.
    """
    codes, categories = _codes(ratings)
    rating_counts = np.stack([(codes == category).sum(1) for category in range(categories)], axis=1).astype(
        float
    )
    paired = rating_counts.sum(1) >= 2  # a single rating cannot agree
    if not paired.any():
        raise ValueError("no item was rated twice")
    rating_counts, group_indices = rating_counts[paired], groups_of(groups, len(codes))[paired]
    same = (rating_counts * (rating_counts - 1)).sum(1) / (rating_counts.sum(1) - 1)
    cells = _by_group(np.column_stack([rating_counts, same]), group_indices.tolist())

    def alpha(weights: np.ndarray) -> np.ndarray:
        sums = weights @ cells
        totals, n = sums[:, :-1], sums[:, :-1].sum(1)
        chance = (totals * (totals - 1)).sum(1) / (n * (n - 1))
        return _beyond(sums[:, -1] / n, chance)

    return bootstrap_of(alpha, len(cells), seed=seed, samples=samples)


def position_bias(
    first: ArrayLike, second: ArrayLike, *, seed: int, samples: int = 2000, groups: Groups = None
) -> dict[str, object]:
    """Estimate the advantage of the first position from items that were judged in both orders.

    Args:
        first, second: outcome of the same answer in the first and in the second position, (items,).
    Returns:
        `bias`: gain of the first position, 0 for none, 1 if only the position decides; `inconsistent`: share
        of items whose two orders have different winners; `n`.
    """
    first, second = as_units(first), as_units(second)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} items in one order and {len(second)} in the other")
    differs = (np.sign(first - 0.5) != np.sign(second - 0.5)).astype(float)
    gain = _by_group(np.column_stack([first - second, np.ones(len(first))]), groups)
    return {
        **ratio_bootstrap(gain[:, 0], gain[:, 1], seed=seed, samples=samples).as_json("bias"),
        **_mean(differs, groups, seed, samples).as_json("inconsistent"),
        "n": len(first),
    }


def length_bias(
    outcomes: ArrayLike, longer: ArrayLike, *, seed: int, samples: int = 2000, groups: Groups = None
) -> dict[str, object] | None:
    """Estimate how often the longer of two answers wins; None if all have equal lengths.

    Args:
        outcomes: outcome of one answer, between 0 and 1, (items,).
        longer: its length minus the other's, (items,); items of equal length do not count.
    """
    outcomes, sign = as_units(outcomes), np.sign(as_units(longer))
    if len(outcomes) != len(sign):
        raise ValueError(f"{len(outcomes)} outcomes and {len(sign)} differences of length")
    differs = sign != 0
    if not differs.any():
        return None
    wins = 0.5 + (outcomes - 0.5)[differs] * sign[differs]
    group_indices = groups_of(groups, len(outcomes))[differs].tolist()
    return {**_mean(wins, group_indices, seed, samples).as_json("longer_wins"), "n": int(differs.sum())}


def _codes(ratings: Sequence[Sequence[Hashable | None]]) -> tuple[np.ndarray, int]:
    """Return ratings as codes from 0 (None is MISSING), (items, raters), and the number of categories."""
    lengths = {len(rater) for rater in ratings}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"every rater rates the same items, got {sorted(len(rater) for rater in ratings)}")
    codes: dict[Hashable | None, int] = {None: MISSING}
    rows = [[codes.setdefault(value, len(codes) - 1) for value in rater] for rater in ratings]
    return np.array(rows).T, len(codes) - 1


def _by_group(cells: np.ndarray, groups: Groups) -> np.ndarray:
    """Sum the cells of the items of each group, (groups, ...)."""
    group_indices = groups_of(groups, len(cells))
    sums = np.zeros((group_indices.max() + 1, *cells.shape[1:]))
    np.add.at(sums, group_indices, cells)
    return sums


def _mean(values: np.ndarray, groups: Groups, seed: int, samples: int) -> Estimate:
    """Estimate the mean of a share over items; if all are equal, with the exact interval of the groups."""
    sums = _by_group(np.column_stack([values, np.ones(len(values))]), groups)
    if np.ptp(values) == 0 or len(sums) == len(values):
        return bootstrap_share(sums[:, 0] / sums[:, 1], seed=seed, samples=samples)
    return ratio_bootstrap(sums[:, 0], sums[:, 1], seed=seed, samples=samples)


def _beyond(same: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Return (same - chance) / (1 - chance), nan if chance agreement is complete."""
    left = 1 - chance
    return np.divide(same - chance, left, out=np.full(len(same), np.nan), where=left > 1e-12)
