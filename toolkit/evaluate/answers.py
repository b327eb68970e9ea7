"""The answers of a model to the prompts of a win rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from toolkit.runs.records import NOT_IN_JSON, Record


@dataclass(frozen=True, kw_only=True)
class Answers(Record):
    """One answer to each prompt, in the order of the prompts.

    Attributes:
        ids: token ids of each answer, without the stop token.
        ended: whether each answer ended by itself.
        unfinished: whether each answer ends within its thought; it is no answer. Empty if none does.
        stops: the stop token that was sampled at the end of each answer, None where there is none.
        prompt_ids: token ids of each prompt.
        kl: log p(model) - log p(baseline) of each answer in nats; None for the baseline, for best of n, and
            for models with different vocabularies.
        count: n of best of n; None for answers that were not chosen.
        scores: of a judge that scores single answers, (answers,).
    """

    ids: list[list[int]] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    unfinished: list[bool] = field(default_factory=list)
    stops: list[int | None] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    prompt_ids: list[list[int]] = field(default_factory=list)
    kl: list[float] | None = None
    count: int | None = None
    scores: np.ndarray | None = field(default=None, metadata=NOT_IN_JSON)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def judged(self) -> list[str]:
        """The texts that a judge reads: of an answer that ends within its thought, nothing."""
        if not self.unfinished:
            return self.texts
        return ["" if cut else text for text, cut in zip(self.texts, self.unfinished, strict=True)]

    def part(self, chosen: slice) -> Answers:
        """Return what a judge compares of some of the answers: text, end and score."""
        scores = None if self.scores is None else self.scores[chosen]
        return Answers(
            texts=self.texts[chosen], ended=self.ended[chosen], unfinished=self.unfinished[chosen],
            scores=scores,
        )  # fmt: skip

    def scored(self, scores: Sequence[float] | np.ndarray) -> Answers:
        """Return the answers with their scores."""
        return replace(self, scores=np.asarray(scores))
