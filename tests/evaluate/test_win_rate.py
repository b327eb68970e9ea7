"""Win rates, verdicts and judges, with answers whose quality is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from transformers import GPT2Config, GPT2ForSequenceClassification

from toolkit import stats
from toolkit.base.errors import ToolkitError
from toolkit.config.schema import DataSource
from toolkit.data.chat import sources
from toolkit.data.chat.pairs import held_out_pairs
from toolkit.evaluate import context, judges, reward_models, win_rate
from toolkit.evaluate.answers import Answers
from toolkit.evaluate.judges import Judge, compare
from toolkit.evaluate.win_rate import Contest
from toolkit.inference.logprobs import answer_logprobs
from toolkit.models import loading
from toolkit.storyworld import LARGE, large

GOOD = [large.conversation(1, i, flawed_share=0.0) for i in range(40)]
BAD = [large.conversation(1, i, flawed_share=1.0) for i in range(40)]
PROMPTS = [one.messages_prompt for one in GOOD]


def summarize(*arguments, **options):
    """Return the metrics of each model and the description of the judge, as JSON."""
    judged = win_rate.summarize(*arguments, **options)
    return {name: metrics.to_json() for name, metrics in judged.models.items()}, judged.judge.to_json()


def answers(texts, ended=True):
    ids = [[5] * len(text.split()) for text in texts]
    return Answers(texts=list(texts), ended=[ended] * len(texts), ids=ids)


@pytest.fixture(scope="module")
def contest():
    return Contest(PROMPTS, seed=3, world=LARGE)


@pytest.fixture(scope="module")
def flawed():
    return answers([one.answer for one in BAD])


@pytest.fixture(scope="module")
def flawless():
    return answers([one.answer for one in GOOD])


def test_the_same_prompts_are_behind_good_and_bad_answers():
    assert [one.messages_prompt for one in BAD] == PROMPTS


def test_flawless_beats_flawed_and_the_baseline_has_no_win_rate(contest, flawed, flawless):
    models, judge = summarize(
        {"flawed": flawed, "flawless": flawless, "copy": flawed},
        contest,
        judges.gold_judge(LARGE),
        baseline="flawed",
    )
    assert "win_rate" not in models["flawed"] and models["flawed"]["is_baseline"]
    rate = models["flawless"]["win_rate"]
    assert rate["verdict"] == "better" and rate["low"] > 0.5 and rate["n"] == 40
    assert rate["wins"] + rate["ties"] + rate["losses"] == 40
    assert rate["estimate"] == pytest.approx((rate["wins"] + rate["ties"] / 2) / 40)
    same = models["copy"]["win_rate"]
    assert (same["ties"], same["estimate"], same["verdict"]) == (40, 0.5, "no verdict")
    assert judge["fit"] and judge["doubt"] is None and judge["gate"]["passed"]
    assert "40 can tell" in judge["power"]
    json.dumps([models, judge], allow_nan=False)


def test_several_models_are_ranked_and_lengths_are_the_models_less_the_baselines(contest, flawed, flawless):
    padded = replace(flawed, ids=[ids + [5] * (1 + number % 3) for number, ids in enumerate(flawed.ids)])
    models, judge = summarize(
        {"flawed": flawed, "flawless": flawless, "padded": padded},
        contest,
        judges.gold_judge(LARGE),
        baseline="flawed",
    )
    assert judge["ranking"]["models"][0]["model"] == "flawless"
    assert judge["ranking"]["prompts"] == 40 and judge["ranking"]["tie"] > 0
    row = models["padded"]
    assert row["win_rate"]["length_controlled"] == row["win_rate"]["estimate"] == 0.5
    bins = row["wins_by_length"]
    assert sum(each["mean_longer"] * each["n"] for each in bins) / 40 == pytest.approx(
        np.mean([1 + number % 3 for number in range(40)])
    )
    wins = models["flawless"]["win_rate"]
    assert wins["p_value_holm"] == pytest.approx(2 * wins["p_value"]) and wins["verdict"] == "better"


def test_the_same_answer_is_a_tie_whatever_a_judge_says(contest, flawed):
    generator = np.random.default_rng(0)  # a judge whose scores of one text differ from call to call
    judge = Judge("dice", lambda prompts, texts, ended: generator.random(len(texts)), tie=0.0)
    models, _ = summarize({"flawed": flawed, "copy": flawed}, contest, judge, baseline="flawed")
    assert models["copy"]["win_rate"]["ties"] == 40


def test_the_other_way_round_is_worse_by_the_same_amount(contest, flawed, flawless):
    both = {"flawed": flawed, "flawless": flawless}
    one, _ = summarize(both, contest, judges.gold_judge(LARGE), baseline="flawed")
    other, _ = summarize(both, contest, judges.gold_judge(LARGE), baseline="flawless")
    assert other["flawed"]["win_rate"]["verdict"] == "worse"
    assert other["flawed"]["win_rate"]["estimate"] == pytest.approx(
        1 - one["flawless"]["win_rate"]["estimate"]
    )


def test_the_gain_is_shared_out_among_the_terms(contest, flawed, flawless):
    models, _ = summarize({"a": flawed, "b": flawless}, contest, judges.gold_judge(LARGE), baseline="a")
    gold = models["b"]["gold"]
    assert sum(gold["gain_by_term"].values()) == pytest.approx(gold["utility_gain"])
    assert sum(gold["share_by_term"].values()) == pytest.approx(1)
    assert gold["utility"] > 11 and set(gold["terms"]) == set(LARGE.weights)


def test_length_in_tokens_share_ended_and_score(contest, flawless):
    cut = replace(flawless, ended=[i % 4 == 0 for i in range(40)])
    models, _ = summarize({"a": cut}, contest, judges.gold_judge(LARGE), baseline="a")
    lengths = [len(text.split()) for text in flawless.texts]
    assert models["a"]["mean_length"] == pytest.approx(np.mean(lengths))
    assert models["a"]["ended"] == 0.25 and models["a"]["prompts"] == 40
    assert models["a"]["score"] == pytest.approx(models["a"]["gold"]["utility"])


def likes_length(prompts, texts, ended):
    return np.array([float(len(text)) for text in texts])


def test_an_answer_that_ends_within_its_thought_is_judged_as_no_answer(contest, flawless):
    """The judge likes long texts; those of the first ten prompts are long thoughts without an answer."""
    thinking = [
        f"<think>{'long ' * 40}" if number < 10 else text for number, text in enumerate(flawless.texts)
    ]
    cut = [number < 10 for number in range(len(thinking))]
    shown = replace(flawless, texts=thinking, ended=[not value for value in cut], unfinished=cut)
    judge = Judge("length", likes_length, tie=0.0)
    assert (judge.see(contest.prompts, shown).scores[:10] == 0).all()
    result = win_rate.summarize({"base": flawless, "thinks": shown}, contest, judge, baseline="base")
    assert result.outcomes["thinks"][:10] == [0.0] * 10
    assert result.models["thinks"].unfinished_thoughts == 10
    assert result.models["base"].unfinished_thoughts is None


def test_a_judge_that_likes_nonsense_gives_no_verdict(contest, flawed, flawless):
    judge = Judge("long", likes_length, tie=0, accuracy=stats.wilson(90, 100))
    models, about = summarize(
        {"flawed": flawed, "flawless": flawless}, Contest(PROMPTS, seed=3, max_new_tokens=400), judge,
        baseline="flawless",
    )  # fmt: skip
    assert about["fit"] is False and "gibberish" in about["doubt"]
    assert models["flawed"]["win_rate"]["verdict"] == "no verdict"


@pytest.mark.parametrize(
    ("right", "n", "doubted"), [(90, 100, False), (55, 100, True), (6, 10, True), (45, 100, True)]
)
def test_a_judge_that_may_be_guessing_gives_no_verdict(contest, flawed, flawless, right, n, doubted):
    gold = judges.gold_judge(LARGE)
    judge = Judge("model", gold.score, tie=1e-4, accuracy=stats.wilson(right, n))
    models, about = summarize({"flawed": flawed, "flawless": flawless}, contest, judge, baseline="flawed")
    assert models["flawless"]["win_rate"]["verdict"] == ("no verdict" if doubted else "better")
    assert bool(about["doubt"]) is doubted
    unknown = Judge("model", gold.score, tie=1e-4)
    assert "not known" in judges.doubt_of(unknown)


def test_too_few_prompts_settle_nothing(flawed, flawless):
    few = {
        name: Answers(texts=whole.texts[:4], ended=whole.ended[:4], ids=whole.ids[:4])
        for name, whole in (("flawed", flawed), ("flawless", flawless))
    }
    models, about = summarize(
        few, Contest(PROMPTS[:4], seed=0, world=LARGE), judges.gold_judge(LARGE), baseline="flawed"
    )
    assert about["gate"]["passed"] is None
    assert models["flawless"]["win_rate"]["verdict"] == "no verdict"


def test_compare_by_hand():
    outcomes = compare(np.array([2.0, 1.0, 0.0, 1.00001]), np.ones(4), tie=1e-4)
    assert outcomes.tolist() == [1, 0.5, 0, 0.5]


PREFERENCES = DataSource(name="storyworld", config="preferences", held_out_examples=25)


def test_gold_agrees_with_most_preferences():
    rows = list(sources.preferences(PREFERENCES, part="held_out", seed=0))
    prompts, ended = [row["prompt"] for row in rows], [True] * len(rows)
    chosen, rejected = (
        judges.gold_judge(LARGE).score(prompts, [row[side][0]["content"] for row in rows], ended)
        for side in ("chosen", "rejected")
    )
    assert len(rows) == 25 and np.mean((chosen > rejected) + 0.5 * (chosen == rejected)) > 0.7


def test_a_reward_judge_has_the_accuracy_that_evaluate_measures(scorer):
    reference = (str(scorer), None)
    judge = judges.reward_judge("scorer", reference, device="cpu", data=PREFERENCES)
    measured = reward_models.measure({"a": reference}, PREFERENCES, context.of_current_folder(), seed=0)
    assert (judge.accuracy.estimate, judge.accuracy.n) == (measured["a"].accuracy.estimate, 25)
    assert measured["a"].left_out == 0 and "left_out" not in judge.facts


def test_a_reward_judge_is_checked_on_whole_answers_only(scorer, tokenizer, tmp_path):
    """A pair that does not fit is left out: a cut answer would lack its end, and one prompt be shorter."""
    model, _ = loading.load_reward_model((str(scorer), None))
    short = GPT2ForSequenceClassification(GPT2Config(**{**model.config.to_dict(), "n_positions": 128}))
    loading.save_model(short, tokenizer, tmp_path / "short")
    judge = judges.reward_judge("short", (str(tmp_path / "short"), None), device="cpu", data=PREFERENCES)
    rows = sources.preferences(PREFERENCES, part="held_out", seed=0)
    pairs = held_out_pairs(rows, tokenizer, max_length=128)
    assert 0 < judge.facts["left_out"] == pairs.lengths.left_out and judge.accuracy.n == len(pairs.pairs)
    assert judges.describe(judge).left_out == pairs.lengths.left_out


# Answers of real models


def small(**settings):
    return Contest(PROMPTS[:12], seed=5, max_new_tokens=16, batch_examples=5, **settings)


def test_sampled_answers_say_whether_they_end_within_a_thought(model, tokenizer, monkeypatch):
    monkeypatch.setattr(win_rate.answer_end, "decode_answer", lambda tokenizer, ids: "<think>hm")
    drawn = win_rate.answer((model, tokenizer), small())
    assert drawn.unfinished == [True] * len(drawn)


def test_answers_do_not_depend_on_the_batch_and_come_from_the_seed(model, tokenizer):
    one = win_rate.answer((model, tokenizer), small())
    two = win_rate.answer((model, tokenizer), Contest(PROMPTS[:12], seed=5, max_new_tokens=16))
    other = win_rate.answer((model, tokenizer), Contest(PROMPTS[:12], seed=6, max_new_tokens=16))
    assert one.ids == two.ids != other.ids
    assert len(one.texts) == 12 and all(len(ids) <= 16 for ids in one.ids)


def test_kl_to_itself_is_zero_and_to_another_what_the_log_probabilities_say(tokenizer, build_model):
    first, second = ((build_model(seed, scale=1.5), tokenizer) for seed in (1, 2))
    contest = small()
    answered = win_rate.answer(first, contest)
    assert win_rate.kl_to_baseline(first, first, answered, contest) == [0.0] * 12
    assert np.mean(win_rate.kl_to_baseline(first, second, answered, contest)) > 0
    answered = replace(answered, ended=[number % 2 == 0 for number in range(12)])  # none has ended itself
    found = win_rate.kl_to_baseline(first, second, answered, contest)
    end = tokenizer.eos_token_id
    for number, (prompt, ids, ended) in enumerate(
        zip(answered.prompt_ids, answered.ids, answered.ended, strict=True)
    ):
        whole = ids + [end] * ended
        own, other = (answer_logprobs(one[0], [prompt], [whole])[0].sum() for one in (first, second))
        assert found[number] == pytest.approx(own - other, abs=1e-3)


def test_kl_is_of_the_distribution_at_temperature_one(tokenizer, build_model):
    first, second = ((build_model(seed, scale=1.5), tokenizer) for seed in (1, 2))
    plain = small()
    expected = win_rate.kl_to_baseline(first, second, win_rate.answer(first, plain), plain)
    for contest in (small(temperature=0.0), small(temperature=0.3), small(top_k=3)):
        answered = win_rate.answer(first, contest)
        assert win_rate.kl_to_baseline(first, second, answered, contest) == expected


def test_long_prompts_lose_their_oldest_turns_and_no_room_is_an_error(tokenizer, build_model):
    short = (build_model(1, n_positions=64), tokenizer)
    ids = win_rate.encode_prompts(short, Contest(PROMPTS, seed=0, max_new_tokens=20))
    assert max(len(one) for one in ids) <= 44
    with pytest.raises(ToolkitError, match="no room for a prompt"):
        win_rate.encode_prompts(short, Contest(PROMPTS, seed=0, max_new_tokens=64))
