"""Judges that see two answers side by side: an endpoint, or people's votes.

Shapes: prompts = pairs of an answer and the baseline's answer. An outcome is 1 if the answer is better, 0.5
for a tie, 0 if it is worse, nan if there is no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from toolkit import stats
from toolkit.data.chat.template import Message
from toolkit.evaluate.answers import Answers

Messages = Sequence[Message]
Question = tuple[Messages, str, str]
"""A prompt, the first answer and the second answer as shown."""
Ask = Callable[[Sequence[Question]], list[float | None]]
"""Returns 1 if the first answer is better, 0.5 for a tie, 0 if the second is, None without a verdict."""


@dataclass(frozen=True)
class PairwiseOutcomes:
    """Outcomes of answers against the baseline's.

    Attributes:
        outcomes: (prompts,).
        orders: outcomes with the answer shown first, and shown second, (prompts,) each; None unless the judge
            saw both orders.
    """

    outcomes: np.ndarray
    orders: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class PairwiseJudge:
    """A judge that compares two answers at a time.

    Attributes:
        ask: returns the verdicts of questions in their order.
        both_orders: ask about each pair in both orders; two verdicts that contradict each other are a tie.
        is_people: the verdicts are people's: they need no accuracy, and the gate does not ask them.
        stop_early: ask about prompts only until the interval excludes one half.
        accuracy: agreement with held-out preferences.
    """

    name: str
    ask: Ask
    both_orders: bool = True
    is_people: bool = False
    stop_early: bool = False
    accuracy: stats.Estimate | None = None
    checked_on: str = ""
    facts: dict[str, object] = field(default_factory=dict)

    def see(self, prompts: Sequence[Messages], answers: Answers) -> Answers:
        """Return the answers unchanged: this judge has no scores of single answers."""
        return answers

    def compare(self, prompts: Sequence[Messages], answers: Answers, baseline: Answers) -> PairwiseOutcomes:
        """Return the outcomes against the baseline's answers; equal answers are a tie and are not asked."""
        mine, theirs = (  # people voted on what they saw
            side.texts if self.is_people else side.judged for side in (answers, baseline)
        )
        pairs = list(zip(prompts, mine, theirs, strict=True))
        open_pairs = [index for index, (_, mine, theirs) in enumerate(pairs) if mine != theirs]
        questions = [pairs[index] for index in open_pairs]
        turned = [(prompt, theirs, mine) for prompt, mine, theirs in questions] if self.both_orders else []
        verdicts = np.array(
            [np.nan if verdict is None else verdict for verdict in self.ask([*questions, *turned])]
        )
        first = np.full(len(pairs), 0.5)
        first[open_pairs] = verdicts[: len(questions)]
        if not self.both_orders:
            return PairwiseOutcomes(first)
        second = np.full(len(pairs), 0.5)
        second[open_pairs] = 1 - verdicts[len(questions) :]
        agreed = np.where(first == second, first, 0.5)
        agreed[np.isnan(first) | np.isnan(second)] = np.nan
        return PairwiseOutcomes(agreed, (first, second))
