"""Curves of the report."""

import pytest

from toolkit.report.figures import smooth


def test_a_smoothed_curve_does_not_lag():
    falling = [10.0 - 0.5 * step for step in range(20)]
    assert smooth(falling) == pytest.approx(falling)
    noisy = [value + (1.0 if step % 2 else -1.0) for step, value in enumerate(falling)]
    errors = [abs(after - value) for after, value in zip(smooth(noisy), falling, strict=True)]
    assert max(errors[2:-2]) < 0.25
    assert smooth([]) == [] and smooth([3.0]) == [3.0]
