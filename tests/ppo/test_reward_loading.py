"""Loading the rewards of a recipe."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.ppo.training import run_stage
from toolkit.base.errors import ToolkitError
from toolkit.ppo import reward_loading
from toolkit.runs import metrics
from toolkit.storyworld import LARGE, large

LENGTH = """
def length(prompts, completions, completion_ids, **columns):
    return [len(ids) for ids in completion_ids]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(LENGTH)
    return path


def test_recipe_rewards_are_summed_with_weights(opened, recipe, world, file):
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
    data = json.loads((path / "manifest.json").read_text())["inputs"]["data"]
    assert data["rewards[0].function"] == "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()


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
def test_invalid_reward_functions_are_refused(opened, recipe, file, tmp_path, reference, message):
    file.write_text(LENGTH + "PI = 3.14\n")
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    reference = reference.format(file=file, broken=broken)
    with pytest.raises(ToolkitError, match=message):
        run_stage(opened, recipe(rewards=[{"function": reference}]))


def test_resume_with_a_changed_function_is_refused(opened, recipe, file):
    settings = recipe(rewards=[{"function": f"{file}:length"}])
    run_stage(opened, settings)
    file.write_text(LENGTH.replace("len(ids)", "-len(ids)"))
    with pytest.raises(ToolkitError, match=r"rewards\[0\].function: other data"), opened(settings):
        pass


def test_run_continues_after_fixing_a_failing_function_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("1 / 0")
    with pytest.raises(ToolkitError, match="ZeroDivisionError"):
        reward_loading.load_function(f"{path}:length")
    path.write_text(LENGTH)
    assert reward_loading.load_function(f"{path}:length")([], [], [[1, 2]]) == [2]


def test_function_file_may_use_dataclasses_and_partial(opened, recipe, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nimport dataclasses, functools\n"
        "@dataclasses.dataclass\nclass Weights:\n    length: float = 2.0\n"
        "def _scored(weights, prompts, completions, completion_ids, **columns):\n"
        "    return [weights.length * len(ids) for ids in completion_ids]\n"
        "scored = functools.partial(_scored, Weights())\n"
    )
    run = run_stage(opened, recipe(rewards=[{"function": f"{path}:scored"}], episodes=8))
    [row] = [row for row in metrics.read(run / "metrics.jsonl") if "score" in row]
    assert row["score_scored"] == pytest.approx(2 * row["length"])


@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_nan_reward_is_reported_by_name(opened, recipe, tmp_path, algorithm):
    path = tmp_path / "mine.py"
    path.write_text(LENGTH.replace("len(ids) for", "float('nan') if place == 3 else 1.0 for place,")
                    .replace("in completion_ids", "in enumerate(completion_ids)"))  # fmt: skip
    own = {"answers_per_prompt": 2} if algorithm == "rloo" else {}
    settings = recipe(rewards=[{"function": f"{path}:length"}], algorithm=algorithm, **own)
    with pytest.raises(ToolkitError, match="reward length: 1 of 8 answers have a score that is NaN"):
        run_stage(opened, settings)


def test_gold_reward_is_the_storyworld_utility():
    row = large.preference(1, 0)
    answers = [[{"role": "assistant", "content": text}] for text in (row.chosen, row.rejected)]
    values = reward_loading.gold_reward(LARGE)([row.messages_prompt] * 2, answers, completion_ids=[[1], [1]])
    assert values == [row.utility_chosen, row.utility_rejected]
