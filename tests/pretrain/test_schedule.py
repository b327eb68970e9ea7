"""Learning rates as functions of tokens."""

from __future__ import annotations

import pytest

from toolkit.config.schema import ScheduleSettings
from toolkit.pretrain.schedule import factor


def at(tokens, **settings):
    return factor(ScheduleSettings(**settings), tokens=tokens, total_tokens=1000)


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd", "constant"])
def test_warm_up(name):
    assert at(50, name=name, warmup_tokens=100) == 0.5
    assert at(100, name=name, warmup_tokens=100) == 1.0
    assert at(0, name=name) == 1.0


def test_schedule_shapes():
    assert at(550, name="linear", warmup_tokens=100) == pytest.approx(0.5)
    assert at(325, name="cosine", warmup_tokens=100) == pytest.approx(0.853553)  # (1 + cos(pi/4)) / 2
    assert at(800, name="wsd") == 1.0 and at(900, name="wsd") == pytest.approx(0.5)
    assert at(600, name="wsd", decay_tokens=500) == pytest.approx(0.8)
    assert at(999, name="constant") == 1.0


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
def test_schedule_end(name):
    assert at(1000, name=name, final_fraction=0.1) == pytest.approx(0.1)
    assert at(1500, name=name, final_fraction=0.1) == pytest.approx(0.1)


def test_longer_warm_up_than_training_never_peaks():
    assert at(500, warmup_tokens=2000) == 0.25
