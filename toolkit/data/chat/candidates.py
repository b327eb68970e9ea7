"""Several answers to one prompt with scores or ranks: the best against the worst is a preference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from toolkit.base.errors import DataError
from toolkit.data.chat import columns
from toolkit.data.chat.columns import is_number
from toolkit.data.chat.unusable import Unusable

EQUAL_SCORES = "the scores are equal"


@dataclass(frozen=True)
class Candidates:
    """Several answers with their scores.

    Attributes:
        form: the columns of the answers and, if it is another one, of their scores.
        is_rank: whether the lowest score is the best.
        unread: keys of the answers that are not read.
    """

    form: columns.Form
    answers: list[Any]
    scores: list[Any]
    is_rank: bool = False
    unread: frozenset[str] = frozenset()

    def known(self, *, location: str) -> list[tuple[Any, Any]]:
        """Return the (answer, score) of which neither is null.

        Raises:
            DataError: a score is no number, or there are not as many scores as answers.
        """
        scores = [columns.scalar(score) for score in self.scores]
        if len(self.answers) != len(scores) or not all(score is None or is_number(score) for score in scores):
            raise DataError(
                f"{self.form[-1]!r} does not hold one number for each of {len(self.answers)} answers in "
                f"{self.form[0]!r}",
                where=location,
                fix="give as many scores as answers",
            )
        pairs = zip(self.answers, scores, strict=True)
        return [(answer, score) for answer, score in pairs if answer is not None and score is not None]

    def best_and_worst(self, known: list[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Return the answers with the best and with the worst score, the first ones of several.

        Raises:
            Unusable: fewer than two answers, or all scores are equal.
        """
        if len(known) < 2:
            raise Unusable("fewer than two answers")
        answers, scores = zip(*known, strict=True)
        if min(scores) == max(scores):
            raise Unusable(EQUAL_SCORES)
        best, worst = (min, max) if self.is_rank else (max, min)
        return answers[scores.index(best(scores))], answers[scores.index(worst(scores))]


def of_row(row: Mapping[str, Any]) -> Candidates | None:
    """Return the answers of a row: lists of answers and of scores, or a list of objects with both."""
    for name in columns.CANDIDATES:
        answers = _list(row.get(name))
        if answers is None:
            continue
        for scores_name in columns.CANDIDATE_SCORES:
            if (scores := _list(row.get(scores_name))) is not None:
                form = (name, scores_name)
                return Candidates(form, answers, scores, is_rank=scores_name in columns.RANKS)
        if answers and all(isinstance(answer, Mapping) for answer in answers):
            found = _of_objects(name, answers)
            if found is not None:
                return found
    return None


def _list(value: Any) -> list[Any] | None:
    """Return a list, or the one that JSON text stands for, as in cells of CSV files."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    return value if isinstance(value, list) else None


def _of_objects(name: str, answers: list[Mapping[str, Any]]) -> Candidates | None:
    text, score = (
        next((key for key in keys if any(answer.get(key) is not None for answer in answers)), None)
        for keys in (columns.CANDIDATE_KEYS, columns.CANDIDATE_SCORE_KEYS)
    )
    if text is None or score is None:
        return None
    unread = {key for answer in answers for key in answer} - {text, score, "role"} - columns.HARMLESS
    return Candidates(
        (name,), [answer.get(text) for answer in answers], [answer.get(score) for answer in answers],
        is_rank=score in columns.RANKS, unread=frozenset(unread),
    )  # fmt: skip
