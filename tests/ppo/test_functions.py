"""Rewards that a recipe names."""

from __future__ import annotations

import json

import pytest

from tests.ppo.training import run_stage
from toolkit.data import storyworld
from toolkit.ppo import functions
from toolkit.recipe.errors import ToolkitError
from toolkit.runs import metrics

LENGTH = """
def length(prompts, completions, completion_ids, **columns):
    return [len(ids) for ids in completion_ids]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(LENGTH)
    return path


def test_rewards_of_a_recipe_add_up_with_their_weights(opened, recipe, world, file):
    rewards = [
        {"function": f"{file}:length", "weight": -0.5},
        {"reward_model": str(world / "reward"), "weight": 2},
    ]
    path = run_stage(opened, recipe(rewards=rewards))
    rows = [row for row in metrics.read(path / "metrics.jsonl") if "score" in row]
    for row in rows:
        parts = row["score_reward"], row["score_length"], row["score_reward_2"]
        assert parts[1] == pytest.approx(row["length"]) and parts[0] == pytest.approx(parts[2])
        assert row["score"] == pytest.approx(parts[0] - 0.5 * parts[1] + 2 * parts[2], abs=1e-4)
    assert f"function {file}:length" in json.loads((path / "manifest.json").read_text())["facts"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nowhere.py:length", "there is no file 'nowhere.py'"),
        ("{file}:width", "has no function width"),
        ("{file}:PI", "has no function PI"),
        ("{broken}:length", "cannot be imported: ZeroDivisionError"),
        ("length", "there is no file ''"),
    ],
)
def test_functions_that_cannot_be_had(opened, recipe, file, tmp_path, reference, message):
    file.write_text(LENGTH + "PI = 3.14\n")
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    reference = reference.format(file=file, broken=broken)
    with pytest.raises(ToolkitError, match=message):
        run_stage(opened, recipe(rewards=[{"function": reference}]))


def test_a_training_does_not_go_on_with_another_function(opened, recipe, file):
    with opened(recipe(), "runs") as run:
        functions.load_function(f"{file}:length", run)
        file.write_text(LENGTH.replace("len(ids)", "-len(ids)"))
    with (
        opened(recipe(), "runs") as run,
        pytest.raises(ToolkitError, match="not the one that this training began"),
    ):
        functions.load_function(f"{file}:length", run)


def test_gold_is_storyworlds_utility():
    row = storyworld.preference(1, 0)
    answers = [[{"role": "assistant", "content": text}] for text in (row.chosen, row.rejected)]
    values = functions.gold([row.messages_prompt] * 2, answers, completion_ids=[[1], [1]])
    assert values == [row.utility_chosen, row.utility_rejected]
