"""Fixtures: the sealed runs of `fixtures/old_run`."""

from __future__ import annotations

from pathlib import Path

import pytest

import toolkit as tk

FIXTURE = Path(__file__).parents[1] / "fixtures" / "old_run"


@pytest.fixture(scope="session")
def old_runs() -> Path:
    return FIXTURE / "runs"


@pytest.fixture
def dpo(old_runs: Path) -> tk.Run:
    return tk.Run(old_runs / "dpo")
