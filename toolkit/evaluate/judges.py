"""Judges that decide which of two answers is better, and the checks of their reliability."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from toolkit import stats
from toolkit.base.console import tell_once
from toolkit.base.errors import UsageError
from toolkit.base.rng import derive
from toolkit.config.schema import Data
from toolkit.data.chat import sources
from toolkit.data.data_sources import Part
from toolkit.evaluate.answers import Answers
from toolkit.evaluate.pairwise import PairwiseJudge, PairwiseOutcomes
from toolkit.inference.reward_scores import reward_scores
from toolkit.models.loading import Dtype, load_reward_model
from toolkit.runs.evaluation import GateResult, JudgeResult, RewardEvaluation
from toolkit.runs.hub import Reference
from toolkit.runs.records import EstimateRecord
from toolkit.stages import reward_quality
from toolkit.storyworld import World

Messages = list[dict[str, str]]
Score = Callable[[Sequence[Messages], Sequence[str], Sequence[bool]], np.ndarray]

GATE_QUESTIONS = 20
FEWEST_FOR_GATE = 6
"""With five prompts, even five losses do not exclude one half."""


@dataclass(frozen=True)
class Judge:
    """A judge that scores answers; the better answer has the higher score.

    Attributes:
        score: (prompts, answers, whether each answer ended with end-of-text) -> (answers,) float64.
        tie: scores that differ by at most this are equal, so that rounding does not decide.
        accuracy: agreement of a reward model with held-out preferences; None for gold, from which the
            preferences are made.
    """

    name: str
    score: Score
    tie: float
    accuracy: stats.Estimate | None = None
    checked_on: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def see(self, prompts: Sequence[Messages], answers: Answers) -> Answers:
        """Return the answers with their `scores`."""
        return answers.scored(self.score(prompts, answers.judged, answers.ended))

    def compare(self, prompts: Sequence[Messages], answers: Answers, baseline: Answers) -> PairwiseOutcomes:
        """Return the outcomes of answers against the baseline's, both as `see` returns them."""
        return PairwiseOutcomes(compare(answers.scores, baseline.scores, tie=self.tie))


AnyJudge = Judge | PairwiseJudge


def doubt_of(judge: AnyJudge) -> str | None:
    """Return the reason for which the judge's verdicts do not count, None if they do."""
    if judge.name == "gold" or getattr(judge, "is_people", False):
        return None
    if judge.accuracy is None:
        return "its accuracy is not known: give judge_data"
    if not judge.accuracy.low > 0.5:
        low, high = judge.accuracy.interval
        ends = "no interval" if low is None or high is None else f"95% interval {low:.2f} to {high:.2f}"
        return f"its accuracy {judge.accuracy.estimate:.2f} ({ends}) may be chance"
    return None


def describe(judge: AnyJudge) -> JudgeResult:
    """Return the name, the accuracy and the facts of a judge."""
    return JudgeResult(
        name=judge.name,
        accuracy=judge.accuracy,
        n=None if judge.accuracy is None else judge.accuracy.n,
        checked_on=judge.checked_on or None,
        doubt=doubt_of(judge),
        nulls=frozenset({"doubt", "power", "ranking"}),
        **judge.facts,
    )


def gold_judge_of(world: World | None, where: str) -> Judge:
    """Return the gold judge of a world; refuse it for prompts of no world."""
    if world is None:
        raise UsageError(
            "gold judges answers to storyworld's prompts only",
            where=where,
            fix="name a reward model as the judge",
        )
    return gold_judge(world)


def gold_judge(world: World) -> Judge:
    """Return the judge that scores by the world's known utility of the text."""

    def score(prompts: Sequence[Messages], answers: Sequence[str], ended: Sequence[bool]) -> np.ndarray:
        pairs = zip(prompts, answers, strict=True)
        return np.array([world.utility(prompt, answer).total for prompt, answer in pairs])

    return Judge("gold", score, tie=1e-9)


def reward_judge(
    name: str,
    reference: Reference,
    *,
    device: torch.device | str,
    dtype: Dtype = torch.float32,
    data: Data | None = None,
    part: Part = "held_out",
    run_evaluation: RewardEvaluation | None = None,
    seed: int = 0,
) -> Judge:
    """Return a reward model as a judge, checked on held-out preferences.

    Args:
        dtype: of the weights; the scores are fp32.
        data: preferences; the judge is checked on their `part`.
        run_evaluation: evaluation.json of the reward run, whose accuracy counts if there are no data.
    """
    model, tokenizer = load_reward_model(reference, device=device, dtype=dtype)

    def score(prompts: Sequence[Messages], answers: Sequence[str], ended: Sequence[bool]) -> np.ndarray:
        return reward_scores(
            model, tokenizer, list(prompts), answers=list(answers), ended=list(ended),
            shown_as=f"{name}: scores of answers",
        )  # fmt: skip

    left_out = 0
    if data is not None:
        preferences = sources.preferences(data, part=part, seed=seed, tokenizers=[tokenizer])
        held_out = reward_quality.fitting_pairs(model, tokenizer, preferences, where="judge_data")
        left_out = held_out.lengths.left_out
        accuracy, source = (
            reward_quality.preference_accuracy(
                model,
                held_out.pairs,
                pad_id=tokenizer.pad_token_id,
                seed=derive(seed, "judge"),
                shown_as=f"{name}: scores of judge_data",
            ),
            f"{part} of judge_data",
        )
    else:
        accuracy, source = _known_accuracy(run_evaluation), "the reward run's own held-out preferences"
    facts = {"left_out": left_out} if left_out else {}
    return Judge(name, score, tie=1e-4, accuracy=accuracy, checked_on=source if accuracy else "", facts=facts)


def checked(judge: PairwiseJudge, data: Data, *, part: Part, seed: int) -> PairwiseJudge:
    """Return the judge with its accuracy on preferences; inconsistent verdicts count one half."""
    preferences = sources.preferences(data, part=part, seed=seed)
    rows = [row for row in preferences if len(row["chosen"]) == len(row["rejected"]) == 1]
    if len(rows) < len(preferences):
        tell_once(
            f"judge_data: {len(preferences) - len(rows):,} of {len(preferences):,} pairs differ before their "
            "last turn: the judge is not checked on them"
        )
    prompts = [row["prompt"] for row in rows]
    chosen, rejected = (
        Answers(texts=[row[side][0]["content"] for row in rows]) for side in ("chosen", "rejected")
    )
    right = judge.compare(prompts, chosen, rejected).outcomes
    accuracy = stats.bootstrap_share(right[~np.isnan(right)], seed=derive(seed, "judge"))
    return replace(judge, accuracy=accuracy, checked_on=f"{part} of judge_data")


def _known_accuracy(run_evaluation: RewardEvaluation | None) -> stats.Estimate | None:
    accuracy = None if run_evaluation is None else run_evaluation.accuracy
    if accuracy is None or math.isnan(accuracy.estimate):
        return None
    return replace(accuracy, seed=run_evaluation.seed)


def compare(scores: np.ndarray, baseline: np.ndarray, *, tie: float) -> np.ndarray:
    """Return 1 for a win, 0.5 for a tie, 0 for a loss of each answer against the baseline's, (prompts,)."""
    margin = np.asarray(scores) - np.asarray(baseline)
    return np.where(np.abs(margin) <= tie, 0.5, (margin > 0).astype(float))


def gate(
    judge: AnyJudge, prompts: Sequence[Messages], baseline: Answers, *, words: int, seed: int
) -> GateResult:
    """Check that empty answers, copied prompts and gibberish lose to the baseline's answers.

    Args:
        baseline: answers as `see` returns them; a pairwise judge is asked about the first 20.
        words: number of words of the gibberish.
    """
    if isinstance(judge, PairwiseJudge):
        if judge.is_people:
            return GateResult(nulls=frozenset({"passed"}))
        prompts = prompts[:GATE_QUESTIONS]
        baseline = baseline.part(slice(GATE_QUESTIONS))
    random = np.random.default_rng(derive(seed, "gate"))
    nonsense = {
        "empty": ["" for _ in prompts],
        "copied_prompt": [prompt[-1]["content"] for prompt in prompts],
        "gibberish": [_gibberish(random, words) for _ in prompts],
    }
    rates: dict[str, EstimateRecord] = {}
    for kind, answers in nonsense.items():
        shown = judge.see(prompts, Answers(texts=answers, ended=[True] * len(answers)))
        outcomes = judge.compare(prompts, shown, baseline).outcomes
        outcomes = np.where(np.isnan(outcomes), 0.5, outcomes)
        rate = stats.bootstrap_share(outcomes, seed=derive(seed, "gate", kind))
        rates[kind] = EstimateRecord(**asdict(rate))
    lost = all(rate.high < 0.5 for rate in rates.values())
    passed = lost if len(prompts) >= FEWEST_FOR_GATE else None
    return GateResult(passed=passed, **rates, nulls=frozenset({"passed"}))


def _gibberish(random: np.random.Generator, words: int) -> str:
    """Return words of random letters."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    return " ".join("".join(random.choice(letters, size=random.integers(2, 9))) for _ in range(words))
