"""evaluation.json of every stage round-trips through dataclasses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from toolkit.base.errors import RunError
from toolkit.config.registry import STAGES
from toolkit.runs import evaluation
from toolkit.runs.evaluation import ModelComparison, RewardMetrics, StageEvaluation, class_of
from toolkit.runs.records import Record
from toolkit.stats import Estimate

FIXTURE = Path(__file__).parents[1] / "fixtures" / "old_run"


RECORDED = [stage for stage in STAGES if (FIXTURE / "runs" / stage).is_dir()]


def recorded(stage: str) -> dict:
    return json.loads((FIXTURE / "runs" / stage / "evaluation.json").read_text(encoding="utf-8"))


def test_every_stage_has_an_evaluation_class():
    assert len({class_of(stage) for stage in STAGES}) == len(STAGES)
    assert class_of("of another version") is StageEvaluation


def test_stages_without_a_recorded_evaluation_are_known():
    """They are younger than the fixture; tests/preferences reads what its stage writes."""
    assert set(STAGES) - set(RECORDED) == {"preferences"}


@pytest.mark.parametrize("stage", RECORDED)
def test_evaluation_round_trips(stage):
    result = evaluation.read(FIXTURE / "runs" / stage, stage)
    assert type(result) is class_of(stage)
    assert json.dumps(result.to_json()) == json.dumps(recorded(stage))


@pytest.mark.parametrize("stage", RECORDED)
def test_headline_numbers_are_fields(stage):
    """`extra` contains few keys, and none with an interval except in nested objects."""
    result = evaluation.read(FIXTURE / "runs" / stage, stage)
    assert not [key for key in result.extra if key.endswith("_interval")]


def test_number_with_interval_is_an_estimate():
    accuracy = evaluation.read(FIXTURE / "runs" / "dpo", "dpo").accuracy
    assert isinstance(accuracy, Estimate)
    assert (accuracy.estimate, accuracy.low, accuracy.high, accuracy.n) == (0.0, 0.0, 0.975, 1)


def test_single_unit_gives_an_estimate_without_interval():
    margin = evaluation.read(FIXTURE / "runs" / "dpo", "dpo").margin
    assert math.isnan(margin.low) and math.isnan(margin.high)
    assert margin.as_json("margin")["margin_interval"] == [None, None]


def test_comparison_win_rates():
    result = evaluation.read(FIXTURE / "runs" / "evaluate", "evaluate")
    rate = result["dpo"].win_rate
    assert (rate.estimate, rate.low, rate.high, rate.n) == (0.5, 0.0, 1.0, 8)
    assert rate.length_controlled.low == 0.0 and rate.verdict == "no verdict"
    assert not rate.excludes(0.5)
    assert result["sft"].is_baseline and result["sft"].win_rate is None
    assert result["dpo"].bits_per_byte.n == 12  # documents


@pytest.mark.parametrize(
    "row",
    [
        {"accuracy": None, "accuracy_interval": None},
        {"accuracy": 0.5, "accuracy_interval": [None, None]},
        {"accuracy": 0.5, "accuracy_interval": None},
        {"accuracy": 0.5},
        {"accuracy": None},
        {},
    ],
)
def test_an_interval_that_is_null_or_missing_stays_so(row):
    assert RewardMetrics.from_json(row).to_json() == row


def test_a_bias_without_a_word_is_read_as_the_one_of_length():
    row = {"score_biases": [{"bias": 0.4, "bias_interval": [0.2, 0.5], "n": 234}]}
    metrics = RewardMetrics.from_json(row)
    assert metrics.score_biases[0].word is None and metrics.to_json() == row


def test_null_and_missing_are_told_apart():
    given = {
        "models": {"a": {"entropy_floor_bits_per_byte": None}},
        "judge": None,
        "new_key": [1, {"x": None}],
    }
    assert ModelComparison.from_json(given).to_json() == given


def test_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "evaluation.json").write_text('{"seed": 0}')
    with pytest.raises(RunError, match="evaluate run"):
        evaluation.read(tmp_path, "evaluate")
    (tmp_path / "evaluation.json").write_text("[1]")
    with pytest.raises(RunError, match="JSON object"):
        evaluation.read(tmp_path, "dpo")
    with pytest.raises(RunError, match="missing"):
        evaluation.read(tmp_path / "absent", "dpo")


def test_unregistered_stage_keeps_its_numbers(tmp_path):
    content = {"loss": 1.5, "loss_interval": [1.0, 2.0], "seed": 3}
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    result = evaluation.read(tmp_path, "toy")
    assert isinstance(result, Record) and result.to_json() == content
