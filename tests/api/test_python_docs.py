"""The code blocks of docs/PYTHON.md run in order on a copy of the old runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import toolkit as tk
from tests.api.conftest import FIXTURE
from tests.chat_fixtures import write_preferences

DOCS = Path(__file__).parents[2] / "docs" / "PYTHON.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_code_blocks_are_extracted():
    assert len(blocks()) == 5 and all("tk." in block for block in blocks())


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    shutil.copytree(FIXTURE / "runs", tmp_path / "runs")
    shutil.copytree(FIXTURE / "recipes", tmp_path / "recipes" / "tiny")
    write_preferences(tmp_path / "pairs.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def execute(numbers: range, names: dict[str, object]) -> None:
    for number in numbers:
        exec(compile(blocks()[number], f"{DOCS.name}, block {number + 1}", "exec"), names)


def test_code_without_training_runs(folder):
    names: dict[str, object] = {"tk": tk, "again": tk.Run("runs/pretrain")}
    execute(range(2, 5), names)
    assert names["result"].baseline == "sft" and [*names["result"].models] == ["sft", "dpo", "pretrain"]
    assert names["scored"][0].total < 0
    measured = names["measured"]
    assert measured.part == "held_out" and measured["reward"].n == measured.data["pairs"]["kept"] < 48


@pytest.mark.slow
def test_all_code_blocks_run(folder):
    names: dict[str, object] = {}
    execute(range(5), names)
    assert [*names["result"].models] == ["sft", "dpo", "dpo-seed-1"]
    assert names["again"].recipe.seed == 1
