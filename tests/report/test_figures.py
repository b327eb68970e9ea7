"""Curves of the report."""

import math

import pytest

from toolkit.report.figures import smooth


def test_a_smoothed_curve_does_not_lag():
    falling = [10.0 - 0.5 * step for step in range(20)]
    assert smooth(falling) == pytest.approx(falling)
    noisy = [value + (1.0 if step % 2 else -1.0) for step, value in enumerate(falling)]
    errors = [abs(after - value) for after, value in zip(smooth(noisy), falling, strict=True)]
    assert max(errors[3:-3]) < 0.25
    assert smooth([]) == [] and smooth([3.0]) == [3.0]


def test_a_smoothed_curve_is_not_above_a_loss_that_falls_more_and_more_slowly():
    """A moving mean is above it at every inner point."""
    loss = [1 + 6 * math.exp(-step / 8) for step in range(60)]
    smoothed = smooth(loss)
    above = sum(after > value for after, value in zip(smoothed, loss, strict=True))
    assert above < 30
    assert max(abs(after - value) for after, value in zip(smoothed, loss, strict=True)) < 0.02


def test_a_smoothed_share_stays_a_share():
    shares = [1.0] * 20 + [0.5] + [1.0] * 20
    assert max(smooth(shares)) == 1.0 and min(smooth(shares)) >= 0.5
