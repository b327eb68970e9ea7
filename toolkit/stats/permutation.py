"""A permutation test of two groups by the similarities of their members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from toolkit.base.rng import derive

EXACT = 5_000
"""Up to as many divisions into groups are all counted; of more, as many are drawn."""
ROUNDING = 1e-9
"""Differences of means that are equal up to rounding count as equal."""


@dataclass(frozen=True)
class GroupDifference:
    """How much more similar the members of one group are than those of different groups.

    Attributes:
        within: mean similarity of pairs in the same group.
        across: of pairs in different groups.
        p_value: probability of a difference `within - across` at least as large if the groups were random.
    """

    within: float
    across: float
    p_value: float


@dataclass(frozen=True)
class GroupTest:
    """Differences in several matrices of the same members.

    Attributes:
        differences: of each matrix.
        p_value: probability that the largest of all differences is at least as large as the largest observed
            if the groups were random, which holds for any number of matrices (Westfall and Young, 1993).
        divisions: how many were compared, the given one among them.
        exact: all of them, not a sample.
    """

    differences: list[GroupDifference]
    p_value: float
    divisions: int
    exact: bool


def group_test(similarities: Sequence[np.ndarray], first: int, *, seed: int = 0) -> GroupTest:
    """Compare the similarities within two groups with those across, by all divisions into such groups.

    A division keeps the sizes of the groups. In a sample the p-value is (1 + as large) / (1 + drawn) (Phipson
    and Smyth, 2010).

    Args:
        similarities: (members, members), symmetric; the diagonal is not used.
        first: members of the first group, which come first; at least one group has two.
    """
    count = len(similarities[0])
    exact = comb(count, first) <= EXACT
    if exact:
        chosen = np.array(list(combinations(range(count), first)))
    else:
        generator = np.random.default_rng(derive(seed, "permutation"))
        drawn = [generator.permutation(count)[:first] for _ in range(EXACT)]
        chosen = np.array([np.arange(first), *drawn])
    groups = np.zeros((len(chosen), count))
    np.put_along_axis(groups, chosen, 1.0, axis=1)  # the first row is the given division
    pairs = comb(first, 2) + comb(count - first, 2)
    found, all_differences = [], []
    for matrix in similarities:
        off = np.array(matrix, dtype=np.float64)
        np.fill_diagonal(off, 0.0)
        across = ((groups @ off) * (1 - groups)).sum(axis=1)
        within = (off.sum() / 2 - across) / pairs
        across = across / (first * (count - first))
        differences = within - across
        found.append(GroupDifference(float(within[0]), float(across[0]), _share(differences)))
        all_differences.append(differences)
    return GroupTest(found, _share(np.max(all_differences, axis=0)), len(chosen), exact)


def _share(differences: np.ndarray) -> float:
    """Return the share of differences that are at least as large as the first."""
    return float((differences >= differences[0] - ROUNDING).mean())
