"""`toolkit.evaluate(...)` gives the numbers that `toolkit evaluate --json` printed of the old runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import toolkit as tk
from tests.test_old_runs import differences, report, same_bits
from toolkit.base.errors import ToolkitError, UsageError
from toolkit.runs.evaluation import ModelComparison

RUNS = Path(__file__).parents[1] / "fixtures" / "old_run" / "runs"


def assert_same(result: ModelComparison, name: str) -> None:
    printed = report(name)["output"]
    expected = {key: value for key, value in printed.items() if key not in ("settings", "versions")}
    measured = result.to_json()
    assert isinstance(result, ModelComparison)
    assert differences(expected, {key: measured[key] for key in expected}, exact=same_bits()) == []


def test_bits_per_byte_of_a_corpus_run():
    command = report("evaluate-corpus")["command"]
    models = [tk.Run(RUNS / Path(name).name) for name in command[1 : command.index("--data")]]
    result = tk.evaluate(models, RUNS / "corpus")
    assert_same(result, "evaluate-corpus")
    first = result[models[0].path.name]
    assert first.bits_per_byte.low < first.bits_per_byte.estimate < first.bits_per_byte.high


def test_win_rates_against_a_baseline():
    prompts = tk.DataSource(name="storyworld", config="prompts", held_out_examples=4)
    models = [str(RUNS / name) for name in ("pretrain", "sft", "dpo")]
    result = tk.evaluate(models, prompts, baseline=tk.Run(RUNS / "sft"), judge="gold",
                         win_rate={"max_new_tokens": 8})  # fmt: skip
    assert_same(result, "evaluate-win-rate")
    assert result.baseline == "sft" and result["dpo"].win_rate.n == 4
    with pytest.raises(KeyError):
        result["ppo"]


@pytest.mark.slow
def test_reward_models_on_preferences():
    command = report("evaluate-reward")["command"]
    examples = int(command[command.index("--examples") + 1]) if "--examples" in command else None
    result = tk.evaluate(RUNS / "reward", "storyworld", examples=examples)
    assert_same(result, "evaluate-reward")
    assert result["reward"].accuracy.n == result["reward"].n


def test_the_package_stays_a_package():
    from toolkit.evaluate import session

    assert tk.evaluate.session is session and callable(tk.evaluate)


def test_mistakes_are_errors_of_the_toolkit(tmp_path):
    with pytest.raises(UsageError, match="no model"):
        tk.evaluate([], "storyworld")
    with pytest.raises(UsageError, match="own limits"):
        tk.evaluate([RUNS / "sft"], tk.DataSource(name="storyworld"), examples=3)
    with pytest.raises(ToolkitError):
        tk.evaluate([tmp_path / "absent"], "storyworld")
    with pytest.raises(UsageError, match="tempera"):
        source = tk.DataSource(name="storyworld", config="prompts", held_out_examples=2)
        tk.evaluate([RUNS / "dpo"], source, baseline=RUNS / "sft", win_rate={"temperature": -1.0})
