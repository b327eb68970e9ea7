"""Best-of-n sampling: a reward model chooses among several answers of the baseline, without training.

It is the method that alignment has to beat. Its KL divergence to the baseline is at most log n - (n - 1) / n
nats (Beirami et al., 2024, https://arxiv.org/abs/2401.01879).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from toolkit.base.rng import derive
from toolkit.evaluate import win_rate
from toolkit.evaluate.answers import Answers
from toolkit.evaluate.judges import Score
from toolkit.evaluate.win_rate import Contest, LoadedModel


@dataclass(frozen=True)
class BestOf:
    """Settings of best-of-n sampling.

    Attributes:
        counts: the values of n.
        name: the name of the reward model.
        score: the score function of the reward model.
    """

    counts: tuple[int, ...]
    name: str
    score: Score


def label(count: int) -> str:
    """Return the name under which best of n is reported."""
    return f"best of {count}"


def answer(
    loaded: LoadedModel,
    contest: Contest,
    best_of: BestOf,
    *,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Answers]:
    """Return the chosen answers by `label`, in the form of `win_rate.answer`.

    Random streams differ from those of the baseline's own answer. The candidates of a smaller n are the first
    candidates of a larger n.

    Args:
        progress: called with the number of answers so far.
    """
    prompt_ids = win_rate.encode_prompts(loaded, contest)
    sampling_options = {"temperature": contest.temperature, "top_k": contest.top_k, "top_p": contest.top_p}
    drawn: list[Answers] = []
    scores = []
    for turn in range(max(best_of.counts)):
        seeds = [derive(contest.seed, "best of", number, turn) for number in range(len(prompt_ids))]
        before = turn * len(prompt_ids)
        report = None if progress is None else lambda done, before=before: progress(before + done)
        answers = win_rate.sample(
            loaded, prompt_ids, contest, seeds=seeds, progress=report, **sampling_options
        )
        drawn.append(answers)
        scores.append(best_of.score(contest.prompts, answers.judged, answers.ended))
    chosen = {}
    for count in best_of.counts:
        turns = np.argmax(scores[:count], axis=0)  # (prompts,)
        picked = [(drawn[turn], number) for number, turn in enumerate(turns)]
        chosen[label(count)] = Answers(
            ids=[answers.ids[number] for answers, number in picked],
            ended=[answers.ended[number] for answers, number in picked],
            unfinished=[answers.unfinished[number] for answers, number in picked],
            stops=[answers.stops[number] for answers, number in picked],
            texts=[answers.texts[number] for answers, number in picked],
            prompt_ids=prompt_ids,
            count=count,
        )
    return chosen
