"""Fixtures: two sealed chains of runs with the same names, as for two seeds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

OLD_RUNS = Path(__file__).parents[1] / "fixtures" / "old_run" / "runs"


@pytest.fixture
def seeds(tmp_path) -> Path:
    """Create exp/s1 and exp/s2; the score of s2/ppo is 9.25 and the win rate of s2/dpo 75 %."""
    for seed in ("s1", "s2"):
        shutil.copytree(OLD_RUNS, tmp_path / "exp" / seed)
    edit(tmp_path / "exp" / "s2" / "ppo", lambda numbers: numbers | {"score": 9.25})

    def win(numbers: dict) -> dict:
        rate = {"estimate": 0.75, "low": 0.625, "high": 0.875, "verdict": "better"}
        numbers["models"]["dpo"]["win_rate"] |= rate
        return numbers

    edit(tmp_path / "exp" / "s2" / "evaluate", win)
    return tmp_path / "exp"


def edit(run: Path, change) -> None:
    path = run / "evaluation.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
