"""Every 95% interval covers the true value in 93 to 97 % of simulated experiments."""

from __future__ import annotations

import pytest

from benchmarks import coverage
from toolkit import stats


@pytest.mark.slow
@pytest.mark.parametrize("case", coverage.CASES, ids=lambda case: f"{case.name}, {case.n}")
def test_interval_coverage(case):
    assert 0.93 <= case.coverage() <= (1.0 if case.at_least else 0.97)  # standard error at most 0.007


def test_narrow_interval_fails_the_coverage_check():
    def half_as_wide(generator, seed):
        found = stats.bootstrap_mean(generator.normal(size=50), seed=seed, samples=200)
        middle, half = (found.low + found.high) / 2, (found.high - found.low) / 4
        return stats.Estimate(found.estimate, middle - half, middle + half, 50)

    assert coverage.Case("", "", half_as_wide, 0.0, 200).coverage() < 0.8


def test_table_has_one_row_per_case(capsys, monkeypatch):
    monkeypatch.setattr(coverage, "CASES", coverage.CASES[:2])
    assert coverage.main(["--experiments", "5"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4 and rows[2].startswith("| win rate 53%, Wilson | 200 prompts | ")
