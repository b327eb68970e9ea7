"""The simulated annotators of benchmarks.feedback."""

from __future__ import annotations

from argparse import Namespace

import pytest

from benchmarks.feedback import Annotator, agreement_with_gold, is_complete
from toolkit.playground.feedback import NewVote, VoteLog
from toolkit.storyworld import get_world, preference_probability

WORLD = get_world("small")
ROW = next(
    row
    for row in WORLD.rows("preferences", 0, "train", 50)
    if 0.5 < row["utility_chosen"] - row["utility_rejected"] < 3
)
PROMPT, GOOD, BAD = ROW["prompt"], ROW["chosen"][0]["content"], ROW["rejected"][0]["content"]


@pytest.fixture
def annotator():
    settings = Namespace(world="small", noise=2.0, temperature=1.0, model="runs/tiny/sft/")
    return Annotator("127.0.0.1:1", settings, number=0, seed=0)


def item(left, right):
    return {"prompt": PROMPT, "answers": [{"text": left}, {"text": right}]}


def test_an_annotator_prefers_by_the_gold_utility_with_noise(annotator):
    expected = preference_probability(ROW["utility_chosen"] - ROW["utility_rejected"], 2.0)
    share = sum(annotator.vote(item(BAD, GOOD)) == "right" for _ in range(2000)) / 2000
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 2000) ** 0.5)
    assert annotator.vote(item(GOOD, GOOD)) == "tie"
    assert annotator.request["models"] == ["runs/tiny/sft"]


def test_agreement_counts_the_pairs_with_a_preferred_answer(tmp_path):
    log = VoteLog(tmp_path / "feedback.sqlite")
    for number, vote in enumerate(["a", "a", "b", "tie"]):
        turns = [*PROMPT[:-1], {**PROMPT[-1], "content": PROMPT[-1]["content"] + " " * number}]
        log.add(NewVote(turns, GOOD, BAD, vote, "kim", ("m", "m"), "ab"))
    log.close()
    assert agreement_with_gold(tmp_path / "feedback.sqlite", "small") == (3, pytest.approx(2 / 3))
    assert is_complete(tmp_path / "feedback.sqlite", 4) and not is_complete(tmp_path / "feedback.sqlite", 5)
    assert not is_complete(tmp_path / "none.sqlite", 1)
