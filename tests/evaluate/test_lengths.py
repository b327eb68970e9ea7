"""Wins by length, against counts by hand."""

import numpy as np
import pytest

from toolkit.evaluate.lengths import wins_by_length


def test_bins_hold_as_many_prompts_each_and_every_prompt_once():
    longer = np.arange(-25, 25)
    rows = wins_by_length((longer >= 0).astype(float), longer)
    assert [row.longer for row in rows] == [[-25, -16], [-15, -6], [-5, 4], [5, 14], [15, 24]]
    assert [row.n for row in rows] == [10] * 5
    assert [row.win_rate.estimate for row in rows] == [0, 0, 0.5, 1, 1]
    assert rows[2].mean_longer == pytest.approx(-0.5)
    assert rows[0].win_rate.high < 0.5 < rows[4].win_rate.low


def test_equal_differences_are_not_torn_apart():
    longer = np.array([0] * 45 + [7] * 5)
    rows = wins_by_length(np.full(50, 0.5), longer)
    assert sum(row.n for row in rows) == 50
    assert [row.longer for row in rows] == [[0, 0], [7, 7]]


def test_few_prompts_are_one_bin():
    [row] = wins_by_length(np.array([1.0, 0.0, 1.0]), np.array([3, -2, 9]))
    assert (row.longer, row.n, row.win_rate.estimate) == ([-2, 9], 3, pytest.approx(2 / 3))
