"""Reading metrics.jsonl while it grows, and thinning curves."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from toolkit.runs.live_metrics import Follower, thinned
from toolkit.runs.metrics import Metrics


def lines(*rows: dict) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_only_what_was_appended_is_read(path, monkeypatch):
    path.write_bytes(lines({"step": 1, "time": 1.0, "loss": 3.0}))
    follower = Follower(path)
    assert follower.update()
    parsed = []
    monkeypatch.setattr(
        Follower, "_add", lambda self, line, add=Follower._add: (parsed.append(line), add(self, line))
    )
    assert not follower.update()
    with path.open("ab") as handle:
        handle.write(lines({"step": 2, "time": 2.5, "loss": 2.0}))
    assert follower.update()
    assert len(parsed) == 1
    x, y = follower.series("loss")
    assert (x.tolist(), y.tolist(), follower.last) == ([1, 2], [3, 2], {"step": 2, "time": 2.5})
    assert follower.seconds_per_step() == 1.5


def test_a_half_written_last_line_waits_for_its_end(path):
    whole = lines({"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0})
    path.write_bytes(whole[:-5])
    follower = Follower(path)
    follower.update()
    assert (follower.rows, follower.damaged) == (1, 0)
    path.write_bytes(whole)
    follower.update()
    assert (follower.rows, follower.damaged) == (2, 0)


def test_a_file_that_does_not_exist_yet_is_empty(path):
    follower = Follower(path)
    assert not follower.update()
    path.write_bytes(lines({"step": 1, "loss": 3.0}))
    assert follower.update()


def test_damaged_lines_are_counted_and_the_first_is_named(path):
    path.write_bytes(lines({"step": 1, "loss": 3.0}) + b"{half\n[1]\n" + lines({"step": 2, "loss": 1.0}))
    follower = Follower(path)
    follower.update()
    assert (follower.rows, follower.damaged, follower.first_damaged) == (2, 2, 2)


def test_a_resumed_run_is_read_again_from_the_beginning(path):
    metrics = Metrics(path)
    for step in range(6):
        metrics.log(step, loss=float(step))
    follower = Follower(path)
    follower.update()
    metrics.truncate(3)
    metrics.log(4, loss=40.0)
    metrics.log(5, loss=50.0)
    metrics.log(6, loss=60.0)
    metrics.close()
    assert follower.update()
    assert follower.series("loss")[1].tolist() == [0, 1, 2, 3, 40, 50, 60]


def test_a_file_that_was_started_over_in_place_is_read_again(path):
    path.write_bytes(lines({"step": 1, "loss": 3.0}))
    follower = Follower(path)
    follower.update()
    path.write_bytes(lines({"step": 1, "loss": 7.0}, {"step": 2, "loss": 6.0}))
    follower.update()
    assert follower.series("loss")[1].tolist() == [7, 6]


def test_values_that_are_not_finite_are_counted_and_not_drawn(path):
    metrics = Metrics(path)
    metrics.log(1, loss=math.nan, tokens=10)
    metrics.log(2, loss=2.0, tokens=20)
    metrics.log(3, accuracy=0.5)
    metrics.close()
    follower = Follower(path)
    follower.update()
    assert [part.tolist() for part in follower.series("loss", "tokens")] == [[20], [2]]
    assert [part.tolist() for part in follower.series("accuracy", "tokens")] == [[], []]
    assert (follower.not_finite("loss"), follower.not_finite("accuracy")) == (1, 0)


def test_the_last_samples_stay(path):
    path.write_bytes(
        lines(
            {"step": 1, "samples": [{"prompt": "a"}]}, {"step": 2, "samples": [{"prompt": "b"}]}, {"step": 3}
        )
    )
    follower = Follower(path)
    follower.update()
    assert follower.samples == (2, [{"prompt": "b"}])


def test_thinning_keeps_the_ends_and_every_bucket_s_extremes():
    random = np.random.default_rng(0)
    y = random.normal(size=100_000)
    y[61_234], y[77_777] = 40.0, -40.0
    kept = thinned(y, 500)
    assert len(kept) <= 500
    assert (kept[0], kept[-1]) == (0, len(y) - 1)
    assert (np.diff(kept) > 0).all()
    assert {61_234, 77_777} <= set(kept.tolist())
    edges = np.linspace(0, len(y), 250).astype(int)
    for start, stop in pairwise(edges):  # by a sort instead of argmin and argmax
        ordered = sorted(range(start, stop), key=y.__getitem__)
        assert {ordered[0], ordered[-1]} <= set(kept.tolist())


@pytest.mark.parametrize("count", [0, 1, 3, 500])
def test_a_short_curve_stays_whole(count):
    assert thinned(np.zeros(count), 500).tolist() == list(range(count))
