"""The collapse monitor: warnings and stopping."""

from __future__ import annotations

import logging

import pytest

from toolkit.base.errors import ToolkitError
from toolkit.ppo import collapse_monitor
from toolkit.ppo.episode import Episode

FIRST = {"repetition": 0.1, "distinct": 1.0, "score": 0.0, "length": 40.0, "kl": 0.0}


def looked(*rows, stop=True):
    seen, warnings = {}, []
    for number, row in enumerate(rows, 1):
        warnings += collapse_monitor.check(seen, {**FIRST, **row}, spread=2.0, rollout=number, stop=stop)
    return warnings


def episodes(*answers):
    return [Episode(place, "", [1], list(ids), True, "") for place, ids in enumerate(answers)]


def test_repetition_is_measured_within_an_answer():
    once, again = list(range(8)), [1, 2, 3, 4] * 2
    assert collapse_monitor.diversity(episodes(once))["repetition"] == 0
    # The last of 5 n-grams equals the first.
    assert collapse_monitor.diversity(episodes(again))["repetition"] == pytest.approx(1 / 5)
    assert collapse_monitor.diversity(episodes(once, again))["repetition"] == pytest.approx(1 / 10)
    assert collapse_monitor.diversity(episodes([7], [7, 7, 7]))["repetition"] == 0
    assert collapse_monitor.diversity(episodes([7] * 103))["repetition"] == pytest.approx(0.99)
    assert collapse_monitor.diversity(episodes(once, again, once, once))["distinct"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ({"repetition": 0.4}, "answers repeat themselves (10% of their text at first, now 40%)"),
        ({"distinct": 0.4}, "answers become alike (40% differ)"),
        ({"length": 15.0}, "answers went from 40 tokens to 15"),
        ({"length": 90.0}, "answers went from 40 tokens to 90"),
        ({"kl": 20.0}, "KL is at 0.50 nats per token"),
    ],
)
def test_rising_score_with_degenerating_answers_warns_once(now, expected):
    warnings = looked({}, {"score": 1.1, **now}, {"score": 1.2, **now})
    assert (
        len(warnings) == 1
        and warnings[0].startswith("rollout 2: the score rose from 0 to 1.1, but")
        and expected in warnings[0]
    )
    assert looked({}, {"score": 0.9, **now}) == []  # less than half a standard deviation


def test_unchanged_statistics_give_no_warning():
    assert looked({}, {"score": 5.0, "repetition": 0.29, "distinct": 0.51, "length": 79.0, "kl": 19.0}) == []


@pytest.mark.parametrize(
    ("now", "why"), [({"repetition": 0.9}, "90% of the"), ({"distinct": 0.1}, "only 10%")]
)
def test_three_consecutive_collapsed_rollouts_stop_training(now, why):
    with pytest.raises(ToolkitError, match=f"collapsed: for 3 rollouts {why}") as caught:
        looked({}, now, now, now)
    assert caught.value.where == "ppo, rollout 4"
    assert len(looked({}, now, now, {}, now, now)) == 1
    assert len(looked({}, now, now, now, now, stop=False)) == 1


def test_initially_similar_answers_are_no_collapse():
    alike = {"distinct": 0.1, "repetition": 0.85}
    assert looked(alike, alike, alike, alike, alike) == []


def often_a(prompts, completions, completion_ids, **columns):
    return [completion[-1]["content"].count("a") for completion in completions]


@pytest.mark.slow
def test_policy_repeating_one_letter_is_stopped(make_trainer, caplog):
    """A real collapse: only one letter is rewarded, and the learning rate is far too high."""
    settings = {"episodes": 640, "learning_rate": 0.02, "kl_coefficient": 0.0, "missing_end_penalty": 0.0}
    with pytest.raises(ToolkitError, match="of the answers' text was repetition"):
        make_trainer(reward_funcs=often_a, **settings).train()
    trainer = make_trainer(reward_funcs=often_a, guard="warn", **settings)
    logger = logging.getLogger("toolkit.ppo.trainer")
    logger.addHandler(caplog.handler)
    try:
        trainer.train()
    finally:
        logger.removeHandler(caplog.handler)
    assert any("repetition" in record.message for record in caplog.records)
    assert trainer.finished and trainer.state.log_history[-2]["repetition"] > 0.8


def test_guard_off_computes_nothing(make_trainer):
    trainer = make_trainer(guard="off")
    trainer.train()
    assert trainer.progression.guard == {} and "repetition" not in trainer.state.log_history[0]


@pytest.mark.parametrize("answers", [2, 4, 8, 64])
def test_identical_answers_are_a_collapse_for_any_rollout_size(answers):
    alike = collapse_monitor.diversity(episodes(*[list(range(8))] * answers))
    assert (
        collapse_monitor._collapse({**FIRST, **alike}, FIRST)
        == "only 0% of the answers differed from one another"
    )
