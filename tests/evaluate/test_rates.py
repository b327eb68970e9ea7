"""What a comparison of several models says: adjusted, at equal lengths, ranked."""

from __future__ import annotations

import json

import numpy as np
import pytest

from toolkit.evaluate import rates
from toolkit.runs.evaluation import WinRateResult

HOW = {"seed": 0, "samples": 200}


def outcomes(wins, losses, ties=0):
    return np.array([1.0] * wins + [0.0] * losses + [0.5] * ties)


def test_p_values_are_adjusted_for_all_models_and_decide():
    """28 of 40 alone is a finding (p = 0.017), beside three others it is none."""
    one = {"a": outcomes(28, 12)}
    many = {**one, "b": outcomes(27, 13), "c": outcomes(26, 14), "d": outcomes(25, 15)}
    alone, beside = (
        rates.rate_all(given, {name: np.arange(40) % 7 for name in given}, **HOW) for given in (one, many)
    )
    assert alone["a"].p_value_holm == alone["a"].p_value == pytest.approx(0.0166, abs=1e-4)
    assert beside["a"].p_value_holm == pytest.approx(4 * beside["a"].p_value)
    assert alone["a"].verdict == "better" and beside["a"].verdict == "no verdict"
    assert beside["a"].low > 0.5
    doubted = rates.rate_all(one, {"a": np.zeros(40)}, doubt="it guesses", **HOW)
    assert doubted["a"].verdict == "no verdict"


def test_the_power_is_of_the_model_that_needs_least():
    verdicts = {"a": (0.53, "no verdict"), "b": (0.51, "no verdict"), "c": (0.7, "better")}
    rows = {
        name: WinRateResult(estimate=share, low=0.0, high=1.0, n=200, verdict=verdict)
        for name, (share, verdict) in verdicts.items()
    }
    assert rates.power_of(rows, 200).endswith("to tell 53% you need about 1,980 more")
    assert rates.power_of({"c": rows["c"]}, 200) == "n = 200 can tell 60% from 50%"


def test_what_longer_answers_have_won_is_taken_away():
    generator = np.random.default_rng(0)
    longer = generator.normal(30, 30, size=1000)
    won = (generator.random(1000) < 1 / (1 + np.exp(-1.5 * np.tanh(longer / 30)))).astype(float)
    row = rates.rate_all({"a": won}, {"a": longer}, **HOW)["a"]
    assert row.low > 0.6 and row.length_effect.estimate > 1
    assert row.length_controlled.low < 0.5 < row.length_controlled.high
    assert row.wilson_interval == pytest.approx([row.low, row.high], abs=0.01)
    json.dumps(row.to_json(), allow_nan=False)


def test_answers_to_one_prompt_are_one_unit():
    once, longer = outcomes(12, 6, 2), np.arange(20) % 5
    thrice = rates.rate_all(
        {"a": np.repeat(once, 3)},
        {"a": np.repeat(longer, 3)},
        units={"a": np.repeat(np.arange(20), 3)},
        **HOW,
    )["a"]
    row = rates.rate_all({"a": once}, {"a": longer}, **HOW)["a"]
    assert (thrice.n, thrice.comparisons) == (20, 60)
    assert [thrice.low, thrice.high, thrice.p_value] == [row.low, row.high, row.p_value]
    assert thrice.length_controlled.estimate == pytest.approx(row.length_controlled.estimate)


def test_a_ranking_is_of_more_than_two_models():
    against = {("a", "base"): outcomes(30, 10), ("b", "base"): outcomes(10, 30)}
    found = rates.ranking(against, **HOW)
    assert [row["model"] for row in found["models"]] == ["a", "base", "b"]
    assert found["prompts"] == 40 and found["models"][1]["strength"] == pytest.approx(0, abs=1e-6)
    gap = found["models"][0]["strength"] - found["models"][1]["strength"]
    assert gap == pytest.approx(np.log(3), abs=0.02)  # the prior takes a little
    unjudged = {pair: np.append(values, np.nan) for pair, values in against.items()}
    assert rates.ranking(unjudged, **HOW) == found
    assert rates.ranking({("a", "base"): outcomes(3, 1)}, **HOW) is None
    assert rates.ranking(against, samples_per_prompt=4, **HOW)["prompts"] == 10
