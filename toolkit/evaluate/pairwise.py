"""Judges who see two answers side by side: an endpoint, or people's votes.

Shapes: prompts = pairs of an answer and the baseline's; an outcome is 1 where the answer is better, 0.5 for a
tie, 0 where it is worse, nan where nobody judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from toolkit import stats
from toolkit.data.chat.template import Message

Messages = Sequence[Message]
Question = tuple[Messages, str, str]
"""A prompt, the answer that stands first, the one that stands second."""
Ask = Callable[[Sequence[Question]], list[float | None]]
"""1 where the first is better, 0.5 for a tie, 0 where the second is, None where there is no verdict."""


@dataclass(frozen=True)
class PairwiseOutcomes:
    """outcomes (prompts,). orders: outcome of the answer where it stood first, and second, (prompts,) each,
    of a judge who saw both orders."""

    outcomes: np.ndarray
    orders: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class PairwiseJudge:
    """Compares answers that are shown to it.

    Attributes:
        ask: answers questions in their order.
        both_orders: show each pair twice; two verdicts that do not agree are a tie.
        is_people: what other judges are measured by: their accuracy is no question, and they are not asked
            about nonsense.
        stop_early: ask about prompt after prompt only until one half is excluded.
        accuracy: how often it agrees with held-out preferences.
    """

    name: str
    ask: Ask
    both_orders: bool = True
    is_people: bool = False
    stop_early: bool = False
    accuracy: stats.Estimate | None = None
    checked_on: str = ""
    facts: dict[str, object] = field(default_factory=dict)

    def see(self, prompts: Sequence[Messages], answers: dict[str, list]) -> dict[str, list]:
        """The answers as they are: nothing can be said of one alone."""
        return answers

    def compare(
        self, prompts: Sequence[Messages], answers: dict[str, list], baseline: dict[str, list]
    ) -> PairwiseOutcomes:
        """Outcomes of the answers `one` against `other`; equal answers are a tie without a question."""
        pairs = list(zip(prompts, answers["texts"], baseline["texts"], strict=True))
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
