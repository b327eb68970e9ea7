"""What is said of annotation files: counts by hand, other libraries, and a file of real preferences."""

from __future__ import annotations

import json
import os
from pathlib import Path

import krippendorff
import numpy as np
import pytest
import statsmodels.api as sm

from toolkit.base.errors import DataError, UsageError
from toolkit.cli import main
from toolkit.data.chat.annotations import read
from toolkit.evaluate.annotations import measure

REAL = Path(os.environ.get("TOOLKIT_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def row(number, preference, *, models=("old", "new"), texts=("short", "longer"), annotator="judge"):
    return {"instruction": f"Prompt {number}", "output_1": f"{texts[0]} {number}", "generator_1": models[0],
            "output_2": f"{texts[1]} {number}", "generator_2": models[1], "annotator": annotator,
            "preference": preference}  # fmt: skip


def turned(one):
    """The same pair, shown the other way round, with the same words for who is first."""
    swapped = {
        f"{what}_{3 - side}": one[f"{what}_{side}"] for what in ("output", "generator") for side in (1, 2)
    }
    return {**one, **swapped}


@pytest.fixture
def measured(tmp_path):
    def run(rows, **given):
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps(rows))
        return measure(read(str(path)), file="annotations.json", **{"baseline": None, "seed": 0, **given})

    return run


def test_preference_near_two_is_a_win_of_output_2(measured):
    result = measured([row(n, 2) for n in range(6)] + [row(6, 1), row(7, 1.5)])
    [rate] = result["win_rates"]
    assert (rate["model"], rate["baseline"]) == ("new", "old")
    assert (rate["wins"], rate["ties"], rate["losses"], rate["n"]) == (6, 1, 1, 8)
    assert rate["estimate"] == pytest.approx(6.5 / 8) and rate["tie_share"] == 1 / 8
    assert rate["p_value"] == pytest.approx(2 * (1 + 7) / 128) and rate["verdict"] == "no verdict"
    assert rate["power"].startswith("n = 8 can tell ")
    assert result["ranking"] is None and result["agreement"] is None
    json.dumps(result, allow_nan=False)


def test_the_baseline_may_be_chosen(measured):
    rows = [row(n, 2) for n in range(9)] + [row(9, 1)]
    [rate] = measured(rows, baseline="new")["win_rates"]
    assert (rate["model"], rate["baseline"], rate["wins"], rate["verdict"]) == ("old", "new", 1, "worse")
    with pytest.raises(UsageError, match="the models are: new, old"):
        measured(rows, baseline="newer")


def test_two_orders_that_contradict_each_other_are_a_tie_and_position_bias(measured):
    always_first = [row(n, 1) for n in range(30)] + [turned(row(n, 1)) for n in range(30)]
    result = measured(always_first)
    [rate], [judge] = result["win_rates"], result["annotators"]
    assert (rate["wins"], rate["ties"], rate["losses"], rate["comparisons"]) == (0, 30, 0, 30)
    assert judge["position"]["bias"] == 1.0 and judge["position"]["inconsistent"] == 1.0
    steady = [row(n, 2) for n in range(30)] + [turned(row(n, 1)) for n in range(30)]
    result = measured(steady)
    assert result["win_rates"][0]["wins"] == 30 and result["win_rates"][0]["verdict"] == "better"
    assert result["annotators"][0]["position"]["bias"] == 0.0
    assert result["annotators"][0]["length"]["longer_wins"] == 1.0
    assert measured(steady[:30])["annotators"][0]["position"] is None


def test_several_annotators_of_a_prompt_are_one_unit(measured):
    one = [row(n, 1 + (n % 3 > 0)) for n in range(30)]
    alone = measured(one)["win_rates"][0]
    three = measured([{**each, "annotator": who} for each in one for who in "abc"])["win_rates"][0]
    for key in ("estimate", "low", "high", "n", "p_value", "length_controlled_interval", "wilson_interval"):
        assert three[key] == pytest.approx(alone[key])
    assert three["comparisons"] == 90


@pytest.mark.parametrize("models", [("old", "new"), ("a", "b")])
def test_the_rate_at_equal_length_is_the_regressions(measured, models):
    generator = np.random.default_rng(0)
    rows = []
    for number in range(400):
        sizes = generator.integers(5, 60, size=2)
        chance = 1 / (1 + np.exp(-0.4 - 0.05 * (sizes[1] - sizes[0])))
        texts = ("x" * sizes[0], "x" * sizes[1])
        rows.append(row(number, 1 + int(generator.random() < chance), texts=texts, models=models))
    [rate] = measured(rows)["win_rates"]
    longer = np.array([len(each["output_2"]) - len(each["output_1"]) for each in rows])
    won = np.array([each["preference"] - 1 for each in rows])
    fit = sm.GLM(won, sm.add_constant(np.tanh(longer / longer.std())), family=sm.families.Binomial()).fit()
    assert rate["length_controlled"] == pytest.approx(1 / (1 + np.exp(-fit.params[0])), abs=2e-3)
    assert rate["length_effect"] == pytest.approx(fit.params[1], rel=0.01)
    assert rate["mean_longer"] == pytest.approx(longer.mean())


def test_more_than_two_models_are_ranked_and_their_p_values_adjusted(measured):
    rows = []
    for number in range(60):
        rows.append(row(number, 1 + (number % 4 > 0), models=("a", "b"), texts=("aa", "bb")))
        rows.append(row(number, 1 + (number % 3 > 0), models=("a", "c"), texts=("aa", "cc")))
        rows.append(row(number, 1 + number % 2, models=("b", "c"), texts=("bb", "cc")))
    result = measured(rows)
    assert [(each["model"], each["baseline"]) for each in result["win_rates"]] == [
        ("b", "a"), ("c", "a"), ("c", "b"),
    ]  # fmt: skip
    first, second, third = result["win_rates"]
    assert first["p_value_holm"] == pytest.approx(3 * first["p_value"])
    assert second["p_value_holm"] == pytest.approx(2 * second["p_value"]) and third["verdict"] == "no verdict"
    assert [each["model"] for each in result["ranking"]["models"]] == ["b", "c", "a"]
    assert result["ranking"]["prompts"] == 60


def test_models_that_never_met_have_no_ranking(measured):
    rows = [row(0, 1, models=("a", "b")), row(1, 1, models=("c", "d"))]
    with pytest.raises(DataError, match="never compared with each other: a, b; c, d"):
        measured(rows)


def test_agreement_is_krippendorffs(measured):
    generator = np.random.default_rng(0)
    truth = generator.choice([1, 1.5, 2], size=80, p=[0.4, 0.1, 0.5])
    said = np.where(generator.random((3, 80)) < 0.7, truth, generator.choice([1, 1.5, 2], size=(3, 80)))
    missing = generator.random((3, 80)) < 0.2
    rated = np.argwhere(~missing)
    rows = [row(int(n), said[who, n], annotator="abc"[who]) for who, n in rated]
    found = measured(rows)["agreement"]
    expected = krippendorff.alpha(np.where(missing, np.nan, said), level_of_measurement="nominal")
    assert found["alpha"] == pytest.approx(expected) and found["annotators"] == 3
    both = ~missing[0] & ~missing[1]
    assert found["items"] == ((~missing).sum(0) >= 2).sum()
    assert found["pairs"][0]["annotators"] == ["a", "b"] and found["pairs"][0]["items"] == both.sum()
    assert found["pairs"][0]["accuracy"] == pytest.approx(np.mean(said[0][both] == said[1][both]))


def test_chosen_and_rejected_are_matched_whoever_is_chosen(tmp_path):
    """Two annotators who agree on half of the pairs, which are written with another side chosen."""
    path = tmp_path / "pairs.jsonl"
    rows = []
    for number in range(40):
        one = {"prompt": f"Prompt {number}", "chosen": f"this {number}", "rejected": f"that {number}"}
        other = {**one, "chosen": one["rejected"], "rejected": one["chosen"]}
        rows += [{**one, "annotator": "a"}, {**(one if number % 2 else other), "annotator": "b"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    result = measure(read(str(path)), file=str(path), baseline=None, seed=0)
    assert result["items"] == 40 and result["win_rates"] == []
    assert result["agreement"]["pairs"][0]["accuracy"] == 0.5
    assert abs(result["agreement"]["alpha"]) < 0.2
    assert all(each["position"] is None for each in result["annotators"])


def test_a_model_against_itself_has_no_win_rate(measured):
    result = measured([row(n, 1, models=("a", "a")) for n in range(4)])
    assert result["win_rates"] == [] and result["annotators"][0]["items"] == 4


def test_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([row(n, 1 + n % 2, annotator=who) for n in range(20) for who in "ab"]))
    assert main.main(["evaluate", "--annotations", str(path), "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["win_rates"][0]["estimate"] == 0.5 and out.count("\n") == 1
    assert main.main(["evaluate", "--annotations", str(path)]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    for words in ("40 annotations, 20 items, 20 prompts", "new", "50.0% [", "no verdict; n = 20 can tell",
                  "agreement: alpha 1.00", "longer answer wins"):  # fmt: skip
        assert words in " ".join(shown.err.split())
    assert "…" not in shown.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model"], "unrecognized arguments: model"),
        (["--data", "x"], "unrecognized arguments: --data"),
        (["--baselin", "x"], "did you mean --baseline?"),
        (["--seed", "-1"], "must be an integer that is not negative"),
    ],
)
def test_options_without_effect_are_refused(tmp_path, arguments, said, capsys):
    assert main.main(["evaluate", "--annotations", str(tmp_path / "a.json"), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_help_on_annotations(capsys):
    assert main.main(["evaluate", "--annotations", "x", "--help"]) == 0
    assert "AlpacaEval's annotations.json" in capsys.readouterr().out


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data files are not on this machine")
def test_real_preferences():
    result = measure(read(str(REAL / "hh-rlhf-harmless-test.jsonl.gz")), file="hh", baseline=None, seed=0)
    assert result["annotations"] + sum(result["left_out"].values()) == 2312
    [annotator] = result["annotators"]
    assert annotator["length"]["longer_wins"] < 0.5  # of harmless answers people prefer the shorter one
