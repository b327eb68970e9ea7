"""The order of training rows is a pure function that visits every row once per epoch."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.base.errors import DataError
from toolkit.data.text.batch_order import Order, permute


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 1000])
def test_permutation(size):
    sent = permute(np.arange(size), size, key=9)
    assert sorted(sent) == list(range(size))
    if size >= 64:
        assert (sent != np.arange(size)).mean() > 0.9
        assert (sent != permute(np.arange(size), size, key=10)).mean() > 0.9


def test_permutation_mixes():
    size = 1000
    sent = permute(np.arange(size), size, key=1)
    assert abs(np.corrcoef(np.arange(size), sent)[0, 1]) < 0.1
    assert abs(np.corrcoef(sent[:-1], sent[1:])[0, 1]) < 0.1


def test_order_is_stable_across_versions():
    order = Order(total_tokens=1000, sequence_length=16, seed=3, digest="abc")
    assert order.starts(5, 4).tolist() == PINNED


PINNED = [930, 962, 338, 98]


def test_each_row_occurs_once_per_epoch():
    order = Order(total_tokens=1000, sequence_length=16, seed=0, digest="x")
    rows = order.rows_per_epoch
    assert rows == 61
    for epoch in range(3):
        starts = order.starts(epoch, rows)
        assert len(set(starts.tolist())) == rows
        assert starts.min() >= 0 and starts.max() + 16 + 1 <= 1000
        assert len(set((starts % 16).tolist())) == 1
    assert set(order.starts(0, rows)) != set(order.starts(1, rows))  # other batch boundaries


def test_order_does_not_depend_on_batch_size():
    order = Order(total_tokens=5000, sequence_length=8, seed=1, digest="x")
    whole = np.concatenate([order.starts(step, 64) for step in range(3)])
    parts = np.concatenate([order.starts(step, 16) for step in range(12)])
    assert (whole == parts).all()


def test_seed_and_corpus_change_the_order():
    base = Order(5000, 8, seed=1, digest="x").starts(0, 64)
    assert (base != Order(5000, 8, seed=2, digest="x").starts(0, 64)).any()
    assert (base != Order(5000, 8, seed=1, digest="y").starts(0, 64)).any()


def test_smallest_corpus():
    assert Order(9, 8, seed=0).starts(0, 3).tolist() == [0, 0, 0]
    with pytest.raises(DataError, match="less than one row"):
        Order(8, 8, seed=0)
