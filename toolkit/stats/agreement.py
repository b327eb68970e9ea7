"""How far judges agree, with each other and with people, and what else than the answers they listen to.

Intervals resample items, or groups of items that hang together, such as those of one prompt.

Shapes: items = what was rated; raters; categories = what they may say; resamples = bootstrap samples.
`groups` is what each item belongs to, (items,); by default each is its own.
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
    """Share of items of which both say the same."""
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
    """Agreement of two raters beyond what their habits give by chance (Cohen, 1960): 1 full, 0 chance.

    nan where both say one and the same thing throughout.

    Raises:
        ValueError: no items, different numbers of them, or a rating that is None.
    """
    codes, categories = _codes([first, second])
    if (codes == MISSING).any():
        raise ValueError("kappa compares items that both have rated")
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
    """Agreement of any number of raters beyond chance, nominal (Krippendorff, 2011); None was not rated.

    Args:
        ratings: one list of items a rater, (raters, items).
    Raises:
        ValueError: no item has two ratings, or lists differ in length.
    """
    codes, categories = _codes(ratings)
    rating_counts = np.stack([(codes == category).sum(1) for category in range(categories)], axis=1).astype(
        float
    )
    paired = rating_counts.sum(1) >= 2  # one rating agrees with nothing
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
    """What it is worth to stand first, from items that were judged in both orders.

    Args:
        first, second: outcome of one and the same answer where it stands first, and second, (items,).
    Returns:
        `bias`: how much more is won by standing first, 0 for none, 1 where the place decides all;
        `inconsistent`: share of items whose two orders name different winners.
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
    """How often the longer of two answers wins; None where none is longer.

    Args:
        outcomes: of one answer, between 0 and 1, (items,).
        longer: its length less the other's, (items,); items of equal length say nothing.
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
    """Ratings as numbers from 0 on, MISSING for None, (items, raters), and how many categories there are."""
    lengths = {len(rater) for rater in ratings}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"every rater rates the same items, got {sorted(len(rater) for rater in ratings)}")
    codes: dict[Hashable | None, int] = {None: MISSING}
    rows = [[codes.setdefault(value, len(codes) - 1) for value in rater] for rater in ratings]
    return np.array(rows).T, len(codes) - 1


def _by_group(cells: np.ndarray, groups: Groups) -> np.ndarray:
    """Sums of the cells of the items of each group, (groups, ...)."""
    group_indices = groups_of(groups, len(cells))
    sums = np.zeros((group_indices.max() + 1, *cells.shape[1:]))
    np.add.at(sums, group_indices, cells)
    return sums


def _mean(values: np.ndarray, groups: Groups, seed: int, samples: int) -> Estimate:
    """Mean over items of a share; where all are alike the exact interval of the groups."""
    sums = _by_group(np.column_stack([values, np.ones(len(values))]), groups)
    if np.ptp(values) == 0 or len(sums) == len(values):
        return bootstrap_share(sums[:, 0] / sums[:, 1], seed=seed, samples=samples)
    return ratio_bootstrap(sums[:, 0], sums[:, 1], seed=seed, samples=samples)


def _beyond(same: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """(same - chance) / (1 - chance), nan where chance alone agrees on everything."""
    left = 1 - chance
    return np.divide(same - chance, left, out=np.full(len(same), np.nan), where=left > 1e-12)
