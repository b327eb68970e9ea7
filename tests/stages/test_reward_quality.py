"""Measurements of reward models, against hand-computed values and on a real model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from toolkit.data.chat.pairs import HeldOutPairs, Pair, wins
from toolkit.data.chat.report import LengthReport
from toolkit.inference.reward_scores import score_ids
from toolkit.report import reward_table
from toolkit.report.wording import say
from toolkit.stages import reward_quality

END, PAD = 1, 2


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=16, n_positions=64, n_embd=16, n_layer=1, n_head=2, num_labels=1, initializer_range=0.5,
        eos_token_id=END, bos_token_id=END, pad_token_id=PAD,
    )  # fmt: skip
    return GPT2ForSequenceClassification(config).eval()


def preferences(count=40):
    generator = np.random.default_rng(0)
    pairs = [
        Pair(
            [3, 4], *([*generator.integers(3, 16, size=generator.integers(1, 9)).tolist(), END] for _ in "ab")
        )
        for _ in range(count)
    ]
    return HeldOutPairs(
        LengthReport(limit=96),
        pairs=pairs, messages=[[]] * count, answers=[("One.", "Two.")] * count,
        probability=[None] * count, utility_margin=[None] * count,
    )  # fmt: skip


def score_alone(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits.item()


def test_ties_count_half():
    assert list(wins(np.array([2.0, 0.0, -1.0]))) == [1.0, 0.5, 0.0]


def test_accuracy_is_reported_with_the_bayes_accuracy(model, monkeypatch):
    held_out = preferences(4)
    held_out.probability, held_out.utility_margin = [0.9, 0.6, 0.5, 0.2], [1.0, -2.0, 0.0, -0.5]
    margins = np.array([1.0, -1.0, 0.0, 2.0])
    monkeypatch.setattr(reward_quality, "pair_scores", lambda *_, **__: (margins, np.zeros(4)))
    numbers = reward_quality.measure(model, held_out, pad_id=PAD, seed=0).to_json()
    assert numbers["accuracy"] == pytest.approx(2.5 / 4) and numbers["ties"] == 1
    assert numbers["bayes_accuracy"] == pytest.approx((0.9 + 0.6 + 0.5 + 0.8) / 4)
    assert numbers["gold_accuracy"] == pytest.approx(2 / 3)  # the pair of equal utility is ignored
    assert numbers["n"] == 4
    assert numbers["score_mean"] == pytest.approx(2.0 / 8)
    assert numbers["held_out_loss"] == pytest.approx(np.log1p(np.exp([-1, 1, 0, -2])).mean())


def test_no_preferences_give_no_measurements(model):
    nothing = HeldOutPairs(LengthReport(limit=96))
    assert reward_quality.measure(model, nothing, pad_id=PAD, seed=0).to_json() == {
        "accuracy": None, "accuracy_interval": None, "n": 0, "bayes_accuracy": None,
    }  # fmt: skip


def test_accuracy_by_annotator_agreement():
    margins = np.array([1.0, -1.0, 0.0, 2.0, -3.0])
    rows = reward_quality.by_annotator(margins, [0.55, 0.45, 0.58, 1.0, None])
    assert [(row.agreement, row.n) for row in rows] == [([0.5, 0.6], 3), ([0.9, 1.0], 1)]
    assert rows[0].accuracy.estimate == pytest.approx(1.5 / 3) and rows[0].bayes == pytest.approx(
        (0.55 * 2 + 0.58) / 3
    )
    assert rows[1].accuracy.estimate == 1 and rows[1].accuracy.low < 0.3
    assert reward_quality.by_annotator(margins, [None] * 5) == []


@pytest.mark.slow  # bootstrap of logistic fits: 16 s on two slow cores
def test_overconfident_model_has_a_slope_below_one():
    generator = np.random.default_rng(0)
    odds = generator.normal(0, 1.5, 4000)
    label = np.where(generator.random(4000) < 1 / (1 + np.exp(-np.abs(odds))), 1, -1)  # calibrated
    honest = reward_quality.confidence(np.abs(odds) * label, seed=0)
    assert honest["slope_interval"][0] < 1 < honest["slope_interval"][1] and honest["p_value"] > 0.01
    loud = reward_quality.confidence(3 * np.abs(odds) * label, seed=0)
    assert loud["slope"] == pytest.approx(1 / 3, abs=0.04) and loud["p_value"] < 0.01
    assert [row["n"] for row in loud["bins"]] == [400] * 10
    assert loud["bins"][0]["happened"] == pytest.approx(0.52, abs=0.06)
    assert loud["bins"][-1]["stated"] > 0.99 > loud["bins"][-1]["happened_interval"][1]


def test_length_bias_is_relative_to_the_labels():
    pairs = [
        Pair([3], [4] * chosen, [4] * other) for chosen, other in ((5, 2), (2, 5), (7, 3), (3, 9), (4, 4))
    ]
    taste = reward_quality.length_bias(np.array([1.0, 1.0, 1.0, 1.0, 1.0]), pairs, seed=0)
    assert (taste.people, taste.model, taste.bias.estimate, taste.n) == (0.5, 0.5, 0.0, 4)
    longer = reward_quality.length_bias(np.array([1.0, -1.0, 1.0, -1.0, 0.0]), pairs, seed=0)
    assert (longer.people, longer.model, longer.bias.estimate) == (0.5, 1.0, 0.5)
    assert reward_quality.length_bias(np.ones(1), pairs[-1:], seed=0) is None


def test_end_of_text_and_padding_effects_of_a_real_model(model):
    held_out = preferences()
    numbers = reward_quality.measure(model, held_out, pad_id=PAD, seed=0).to_json()
    whole = [pair.prompt + pair.chosen for pair in held_out.pairs]
    cost = [score_alone(model, row) - score_alone(model, row[:-1]) for row in whole]
    assert numbers["end_of_text"] == pytest.approx(np.mean(cost), abs=1e-5)
    assert numbers["end_of_text_interval"][0] < numbers["end_of_text"] < numbers["end_of_text_interval"][1]
    assert numbers["padding"] < 1e-5
    right = [score_alone(model, pair.prompt + pair.chosen) > score_alone(model, pair.prompt + pair.rejected)
             for pair in held_out.pairs]  # fmt: skip
    assert numbers["accuracy"] == pytest.approx(np.mean(right))


def test_scores_do_not_depend_on_batches(model):
    rows = [pair.prompt + pair.chosen for pair in preferences(21).pairs]
    alone = [score_alone(model, row) for row in rows]
    model.train()
    for options in ({}, {"batch_examples": 4}, {"batch_examples": 50, "extra_padding": 8}):
        np.testing.assert_allclose(score_ids(model, rows, pad_id=PAD, **options), alone, atol=1e-5)
    assert model.training


def test_padding_token_inside_a_row_is_scored(model):
    row = [3, PAD, 5, END]
    scores = score_ids(model, [row, [*row, 6, 7, END]], pad_id=PAD)
    assert scores[0] == pytest.approx(score_alone(model, row), abs=1e-5)
    assert abs(scores[0] - score_alone(model, [3, 5, END])) > 1e-3


def test_model_that_attends_to_padding_is_detected(model):
    """If the padding token differs from that of the data, the score is read after the padding."""
    model.config.pad_token_id = 15
    assert reward_quality.measure(model, preferences(), pad_id=PAD, seed=0).padding > 0.01


def test_table_lists_the_measurements(model):
    held_out = preferences()
    held_out.probability, held_out.utility_margin = [0.7] * 40, [1.0] * 40
    metrics = reward_quality.measure(model, held_out, pad_id=PAD, seed=0)
    rows = {say(label): say(value) for label, value in reward_table.table_rows(metrics)}
    assert rows["the best possible (Bayes)"] == "70.0%"
    assert rows["where annotators agree 70% to 80%"].endswith("of 40; Bayes 70%")
    assert rows["padding changes at most"] == f"{metrics.padding:.1e}"
