"""An annotator compares pairs of answers: gold or a reward model with noise, or a judge of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.base.rng import derive
from toolkit.config.schema import AnnotatorSettings
from toolkit.evaluate.answers import Answers
from toolkit.evaluate.judges import Judge
from toolkit.evaluate.pairwise import PairwiseJudge
from toolkit.preferences.answering import Answer, Messages
from toolkit.storyworld import Biases, preference_probability

TIE = 0.5


@dataclass(frozen=True)
class ShownPair:
    """Two answers to one prompt, in the order in which the annotator sees them.

    Attributes:
        scores: the judge's scores of both, if it has scored them already.
    """

    prompt: Messages
    first: Answer
    second: Answer
    scores: tuple[float, float] | None = None


@dataclass(frozen=True)
class Verdict:
    """What the annotator says about a pair.

    Attributes:
        value: 1 if the first answer is preferred, 0 if the second is, 0.5 for a tie, None without a verdict.
        probability: with which the annotator prefers the first answer; None for judges that have none.
        scores: of the first and of the second answer, without noise and biases; None for judges of pairs.
    """

    value: float | None
    probability: float | None = None
    scores: tuple[float, float] | None = None


def pair_answers(
    prompts: Sequence[Messages], answers: Sequence[Sequence[Answer]], *, seed: int
) -> list[ShownPair]:
    """Return the pairs of each prompt: answers 0 and 1, 2 and 3, ..., each in a random order."""
    pairs = []
    for number, (prompt, given) in enumerate(zip(prompts, answers, strict=True)):
        for start in range(0, len(given), 2):
            first, second = given[start], given[start + 1]
            if derive(seed, "order", number, start) % 2:
                first, second = second, first
            pairs.append(ShownPair(prompt, first, second))
    return pairs


def best_and_worst(
    prompts: Sequence[Messages], answers: Sequence[Sequence[Answer]], judge: Judge, *, seed: int
) -> list[ShownPair]:
    """Return one pair for each prompt: the answers with the highest and the lowest score, in a random order.

    Scores are without noise. An answer that was cut off is the best only if all were. The first of equals
    counts.
    """
    flat = [(prompt, answer) for prompt, given in zip(prompts, answers, strict=True) for answer in given]
    scores = iter(
        judge.score(
            [prompt for prompt, _ in flat],
            [answer.judged for _, answer in flat],
            [answer.ended for _, answer in flat],
        )
    )
    pairs = []
    for number, (prompt, given) in enumerate(zip(prompts, answers, strict=True)):
        scored = [(answer, float(next(scores))) for answer in given]
        best = scored.pop(max(range(len(scored)), key=lambda k: (scored[k][0].ended, scored[k][1])))
        worst = min(scored, key=lambda pair: pair[1])
        if derive(seed, "order", number) % 2:
            best, worst = worst, best
        pairs.append(ShownPair(prompt, best[0], worst[0], (best[1], worst[1])))
    return pairs


def annotate(
    pairs: Sequence[ShownPair], judge: Judge | PairwiseJudge, settings: AnnotatorSettings, *, seed: int
) -> list[Verdict]:
    """Return the verdict on each pair; equal answers, and answers that are equally good, are a tie."""
    if isinstance(judge, PairwiseJudge):
        return _compared(pairs, judge)
    return _scored(pairs, judge, settings, seed=seed)


def _scored(
    pairs: Sequence[ShownPair], judge: Judge, settings: AnnotatorSettings, *, seed: int
) -> list[Verdict]:
    unscored = [pair for pair in pairs if pair.scores is None]
    shown = [answer for pair in unscored for answer in (pair.first, pair.second)]
    missing = iter(
        judge.score(
            [pair.prompt for pair in unscored for _ in range(2)],
            [answer.judged for answer in shown],
            [answer.ended for answer in shown],
        )
        if unscored
        else []
    )
    biases = Biases(settings.biases.length, settings.biases.first, settings.biases.word)
    verdicts = []
    for number, pair in enumerate(pairs):
        first, second = pair.scores or (float(next(missing)), float(next(missing)))
        if pair.first.judged == pair.second.judged:
            verdicts.append(Verdict(TIE, None, (first, second)))
            continue
        difference = biases.difference((pair.first.judged, pair.second.judged), (first, second))
        if abs(difference) <= judge.tie:
            # A coin flip would be noise: 1,692 of 6,000 pairs of the small world differ only in wording.
            verdicts.append(Verdict(TIE, TIE, (first, second)))
            continue
        if settings.temperature == 0:
            value = float(difference > 0)
            verdicts.append(Verdict(value, value, (first, second)))
            continue
        probability = preference_probability(difference, settings.temperature)
        uniform = derive(seed, "label", number) / 2**63
        verdicts.append(Verdict(float(uniform < probability), probability, (first, second)))
    return verdicts


def _compared(pairs: Sequence[ShownPair], judge: PairwiseJudge) -> list[Verdict]:
    outcomes = judge.compare(
        [pair.prompt for pair in pairs],
        _answers([pair.first for pair in pairs]),
        _answers([pair.second for pair in pairs]),
    ).outcomes
    return [Verdict(None if np.isnan(value) else float(value)) for value in outcomes]


def _answers(answers: Sequence[Answer]) -> Answers:
    return Answers(texts=[answer.judged for answer in answers], ended=[answer.ended for answer in answers])
