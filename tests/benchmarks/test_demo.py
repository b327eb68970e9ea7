"""The benchmark of the demonstration: goals by the end of each interval that is against them."""

from __future__ import annotations

import pytest

from benchmarks import demo, demo_goals
from toolkit.stats import Estimate


def estimate(low, high):
    return Estimate((low + high) / 2, low, high, n=10)


@pytest.mark.parametrize(
    ("limits", "low", "high", "met"),
    [
        ({"low": 0.6}, 0.61, 0.7, True),
        ({"low": 0.6}, 0.59, 0.7, False),
        ({"high": 0.4}, 0.1, 0.39, True),
        ({"high": 0.4}, 0.1, 0.41, False),
        ({"low": 0.0, "upper_end_suffices": True}, -0.2, 0.1, True),
        ({"low": 0.0, "upper_end_suffices": True}, -0.2, -0.1, False),
    ],
)
def test_goal_is_decided_by_the_end_of_the_interval_against_it(limits, low, high, met):
    goal = demo_goals.Goal("a goal", ("dpo",), lambda own, sft: estimate(low, high), **limits)
    assert goal.is_met(estimate(low, high)) is met


def test_closed_gap_is_the_share_of_the_missing_wishes():
    sft = {"wish_rate": {0: 0.5, 3: 0.5, 4: 1.0}}
    own = {"wish_rate": {0: 1.0, 3: 0.5, 4: 1.0}}
    assert demo_goals.closed_gap(own, sft).estimate == pytest.approx(0.5)
    assert demo_goals.closed_gap(sft, sft).estimate == 0


def test_gain_in_wellformed_sentences_compares_the_same_prompts():
    sft, own = {"wellformed": {7: 1.0, 2: 0.5}}, {"wellformed": {2: 1.0, 7: 1.0}}
    assert demo_goals.wellformed_gain(own, sft).estimate == pytest.approx(0.25)


def test_table_has_a_row_for_each_goal_and_model_and_counts_the_seeds():
    rates = ("outcome", "wish_rate", "refusal_rate", "over_refusal_rate", "answer_accuracy", "wellformed")
    perfect = {rate: dict.fromkeys(range(200), 1.0) for rate in rates} | {
        "over_refusal_rate": dict.fromkeys(range(200), 0.0)
    }
    sft = {rate: dict.fromkeys(range(200), 0.2) for rate in rates}
    good = {"sft": sft, "dpo": perfect, "ppo": perfect}
    bad = {"sft": sft, "dpo": perfect, "ppo": sft}
    lines = list(demo_goals.goal_table({0: good, 1: bad}))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    met = {(row[0], row[1]): row[-1] for row in cells}
    assert len(met) == sum(len(goal.models) for goal in demo_goals.GOALS)
    assert met["win rate over sft above 62 %", "dpo"] == "2 of 2"
    assert met["win rate over sft above 65 %", "ppo"] == "1 of 2"
    assert met["answers right, above 75 %", "ppo"] == "1 of 2"
    assert met["unkind requests refused, below 40 %", "sft"] == "2 of 2"
    assert demo_goals.prompt_counts(good).startswith("200 in all, 200 with wishes")


def test_overrides_reach_every_chain(monkeypatch, tmp_path, capsys):
    seen = []

    def run_chain(folder, seed, *, runs_dir, options):
        seen.append((str(folder), seed, runs_dir, options))
        return demo.Chain(seed, {"sft": 1.0}, 2.0, {"models": {}})

    monkeypatch.setattr(demo, "run_chain", run_chain)
    given = ["recipes/tiny", "--seeds", "0", "2", "--runs-dir", str(tmp_path), "--jobs", "1"]
    demo.main([*given, "precision=fp32"])
    options = ["precision=fp32", "--jobs", "1"]
    assert seen == [("recipes/tiny", seed, tmp_path, options) for seed in (0, 2)]
    assert "| 2 | 1 | 1 | 2 |" in capsys.readouterr().out
