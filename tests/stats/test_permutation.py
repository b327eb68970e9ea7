"""The permutation test equals a count by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from toolkit.stats import permutation
from toolkit.stats.permutation import group_test


def by_hand(matrix, first):
    """within, across, and the difference of every division."""
    members = range(len(matrix))
    found = {}
    for chosen in combinations(members, first):
        same = [matrix[i][j] for i in members for j in range(i) if (i in chosen) == (j in chosen)]
        other = [matrix[i][j] for i in members for j in range(i) if (i in chosen) != (j in chosen)]
        found[chosen] = (sum(same) / len(same), sum(other) / len(other))
    return found


def similar(seed, count=7):
    matrix = np.random.default_rng(seed).random((count, count))
    return (matrix + matrix.T) / 2


def test_means_and_p_values_are_those_of_all_divisions():
    matrices = [similar(seed) for seed in range(4)]
    result = group_test(matrices, 3)
    assert (result.divisions, result.exact) == (35, True)
    differences = []
    for matrix, found in zip(matrices, result.differences, strict=True):
        divisions = by_hand(matrix, 3)
        assert (found.within, found.across) == pytest.approx(divisions[0, 1, 2])
        differences.append({chosen: within - across for chosen, (within, across) in divisions.items()})
        own = differences[-1][0, 1, 2]
        assert found.p_value == pytest.approx(sum(d >= own - 1e-9 for d in differences[-1].values()) / 35)
    largest = [max(one[chosen] for one in differences) for chosen in differences[0]]
    own = max(one[0, 1, 2] for one in differences)
    assert result.p_value == pytest.approx(sum(d >= own - 1e-9 for d in largest) / 35)


def test_groups_that_differ_have_the_smallest_p_value_that_is_possible():
    matrix = np.kron(np.eye(2), np.ones((4, 4)))
    result = group_test([matrix], 4)
    (found,) = result.differences
    assert (found.within, found.across) == (1, 0)
    assert found.p_value == result.p_value == 2 / 70  # the division and its mirror image


def test_equal_members_have_p_value_1():
    result = group_test([np.full((8, 8), 0.3)], 4)
    assert result.p_value == 1


def test_many_members_are_tested_by_a_seeded_sample():
    matrix = similar(3, count=18)
    first, again, other = (group_test([matrix], 9, seed=seed) for seed in (1, 1, 2))
    assert (first.divisions, first.exact) == (5001, False)
    assert first.p_value == again.p_value
    assert first.p_value == pytest.approx(other.p_value, abs=0.03)
    assert group_test([np.kron(np.eye(2), np.ones((9, 9)))], 9).p_value == pytest.approx(1 / 5001)


def test_a_sample_is_close_to_all_divisions(monkeypatch):
    matrix = similar(5, count=10)
    exact = group_test([matrix], 5)
    monkeypatch.setattr(permutation, "EXACT", 200)
    sampled = group_test([matrix], 5)
    assert (exact.divisions, sampled.divisions) == (252, 201)
    assert sampled.p_value == pytest.approx(exact.p_value, abs=0.12)
