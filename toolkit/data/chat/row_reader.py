"""The forms of a conversation and of a preference that one row may have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from toolkit.base.errors import DataError
from toolkit.data.chat import columns
from toolkit.data.chat.column_reader import EQUAL_SCORES, ColumnReader, is_number
from toolkit.data.chat.columns import ColumnError
from toolkit.data.chat.messages import Messages, is_empty, plain
from toolkit.data.chat.unusable import Unusable

TIES = ("-1", "tie", "tie (bothbad)", "both", "both_bad", "equal")
NO_ANSWER = "no answer of the assistant"
SEVERAL_MESSAGES = "the answers differ before the last turn"


@dataclass(frozen=True)
class PreferencePair:
    """Two continuations of the same prompt, each of one or more messages; the last one is an answer.

    Attributes:
        prompt: the messages with which both conversations begin.
        margin: by how much the chosen one is better, in the unit of the data; None if they do not say.
    """

    prompt: Messages
    chosen: Messages
    rejected: Messages
    margin: float | None = None

    @property
    def answers(self) -> tuple[str, str]:
        """The chosen and the rejected answer.

        Raises:
            Unusable: they consist of several messages.
        """
        if len(self.chosen) > 1 or len(self.rejected) > 1:
            raise Unusable(SEVERAL_MESSAGES)
        return self.chosen[0]["content"], self.rejected[0]["content"]


@dataclass(frozen=True)
class Labelled:
    """A conversation whose answer is good or bad (the format of KTO)."""

    messages: Messages
    is_good: bool


class RowReader(ColumnReader):
    """One row, whose forms of a conversation and of a preference give the same messages."""

    # What stages read

    def conversation(self) -> Messages:
        label = self._label()
        messages = self._with_context(self._single())
        lower = self._lower_score()
        if label is False:
            raise Unusable("the label is false: not a good answer")
        if lower is not None:
            raise Unusable(lower)
        messages = self._until_last_answer(messages)
        _require_question(messages[:-1])
        if is_empty(messages[-1]):
            raise Unusable("an answer is empty")
        return messages

    def prompt(self) -> Messages:
        if self.holds_conversation():
            messages = self._until_last_answer(self._with_context(self._single(any_of_two=True)))[:-1]
        else:
            prompts = self._prompts()
            if not prompts:
                raise self._missing("prompt", "prompts have `prompt`; map another name with `columns:`")
            name, value = self._one_prompt(prompts)
            messages = self._with_context(self._messages(name, value, "user"))
            has_beginning = (
                bool(messages) and messages[-1]["role"] == "assistant" and not is_empty(messages[-1])
            )
            while messages and messages[-1]["role"] == "assistant":
                messages.pop()
            if has_beginning:
                self.notes.add("the beginning of an answer, at the end of the prompt, is not used")
        return [
            {k: v for k, v in message.items() if k != "learned"} for message in _require_question(messages)
        ]

    def preference(self) -> PreferencePair | Labelled:
        pairs = dict(self._pairs())
        label = self._label()
        if not pairs and label is not None:
            return Labelled(self._answered(self._with_context(self._single())), label)
        if not pairs:
            missing = "rejected" if "chosen" in self.row else "chosen"
            raise self._missing(
                missing,
                "preferences have `chosen` and `rejected`; map other names with `columns: {chosen: ...}`",
            )
        columns.require_equal(
            {form: [plain(side) for side in pair] for form, pair in pairs.items()}, location=self.location
        )
        chosen, rejected = (self._with_context(side) for side in next(iter(pairs.values())))
        margin, lower = self._margin(), self._lower_score(equal=True)
        preference = self._compared(chosen, rejected, margin)
        if lower is not None:
            raise Unusable(lower)
        return preference

    def holds_answer(self) -> bool:
        """Return whether the row has an answer, or two of which another column names the better."""
        return (
            self.holds_conversation()
            or any(first in self.row and second in self.row for first, second in columns.CHOICES)
            or self._candidate_columns() is not None
        )

    def holds_conversation(self) -> bool:
        """Return whether the row has a conversation; the prompt of other rows is a column."""
        has_candidates = self._candidate_columns() is not None
        return (
            any(name in self.row for name in (*columns.CONVERSATIONS, "chosen"))
            or ("completion" in self.row and not has_candidates)
            or any(prompt in self.row and answer in self.row for prompt, answer in columns.PAIRS)
        )

    # Forms of a conversation

    def _conversations(self, *, any_of_two: bool) -> Iterator[tuple[columns.Form, Messages]]:
        """Yield the columns and the messages of every form of a conversation that the row has."""
        row = self.row
        for name in columns.CONVERSATIONS:
            if name in row:
                self._note_repeated_prompt(messages := self._messages(name, row[name], "user"))
                yield (name,), messages
        for prompt, answer in columns.PAIRS:
            if prompt in row and answer in row and not (prompt == "input" and "instruction" in row):
                yield (prompt, answer), self._with_prompt(prompt, [(answer, row[answer])])[0]
        if "completion" in row and not any(prompt in row for prompt in columns.PROMPTS):
            yield ("completion",), self._messages("completion", row["completion"], "assistant")
        if "chosen" in row and (any_of_two or "rejected" not in row):
            yield ("chosen",), self._answers([("chosen", row["chosen"])])[0]
        if not any_of_two:
            for form, (better, _) in self._pairs():
                yield form, better

    def _single(self, *, any_of_two: bool = False) -> Messages:
        """Return the conversation of the row, which is the same in all of its forms.

        Args:
            any_of_two: whether the prompt matters only: the better answer need not be known, and the last
                messages may differ.
        """
        found = dict(self._conversations(any_of_two=any_of_two))
        if not found:
            raise self._missing(
                "messages", "conversations have `messages`, or `prompt` and `completion`; map other names "
                "with `columns: {messages: ...}`",
            )  # fmt: skip
        if len(found) > 1:
            compared = {
                form: plain(messages[:-1] if any_of_two else messages) for form, messages in found.items()
            }
            columns.require_equal(compared, location=self.location)
        return next(iter(found.values()))

    # Forms of a preference

    def _pairs(self) -> Iterator[tuple[columns.Form, tuple[Messages, Messages]]]:
        """Yield the columns and the (chosen, rejected) conversations of every form of a preference."""
        row = self.row
        if "chosen" in row and "rejected" in row:
            chosen, rejected = self._answers([(side, row[side]) for side in ("chosen", "rejected")])
            yield ("chosen", "rejected"), (chosen, rejected)
        for names in columns.CHOICES:
            if all(name in row for name in names):
                self.used.update(names)
                better = self._better(names)
                both = self._answers([(name, row[name]) for name in names])
                yield names, (both[better], both[1 - better])
        if (found := self._candidate_columns()) is not None:
            yield found, self._best_and_worst(*found)

    def _better(self, names: tuple[str, str]) -> int:
        """Return the number of the better of two columns, 0 or 1."""
        present = {name: self.row[name] for name in columns.CHOSEN if name in self.row}
        if not present:
            raise self._missing(
                "chosen_index", f"name the better of {names[0]} and {names[1]} in this column"
            )
        self.used.update(present)
        sides = {(name,): self._side(name, value, names) for name, value in present.items()}
        columns.require_equal(sides, location=self.location)
        side = next(iter(sides.values()))
        if side is None:
            raise Unusable("a tie")
        return side

    def _side(self, column: str, value: Any, names: tuple[str, str]) -> int | None:
        suffixes = [name.rpartition("_")[2] for name in names]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        text = str(value).strip().lower()
        if text in TIES or (text == "1.5" and suffixes == ["1", "2"]):
            return None
        for side, (name, suffix) in enumerate(zip(names, suffixes, strict=True)):
            known = {suffix, name, f"model_{suffix}"} | ({str(side)} if suffixes == ["a", "b"] else set())
            if text in known:
                return side
        raise ColumnError(
            f"{column!r} is {value!r}, which names neither {names[0]} nor {names[1]}",
            where=self.location,
            fix=f"give {suffixes[0]} or {suffixes[1]}, or -1 for a tie",
        )

    def _candidate_columns(self) -> tuple[str, str] | None:
        lists = [name for name in columns.CANDIDATES if isinstance(self.row.get(name), list)]
        scores = [name for name in columns.CANDIDATE_SCORES if isinstance(self.row.get(name), list)]
        return (lists[0], scores[0]) if lists and scores else None

    def _best_and_worst(self, name: str, scores_name: str) -> tuple[Messages, Messages]:
        answers, scores = self.row[name], self.row[scores_name]
        if len(answers) != len(scores) or not all(is_number(score) for score in scores):
            raise DataError(
                f"{scores_name!r} does not hold one number for each of {len(answers)} answers in {name!r}",
                where=self.location,
                fix="give as many scores as answers",
            )
        if len(answers) < 2:
            raise Unusable("fewer than two answers")
        if min(scores) == max(scores):
            raise Unusable(EQUAL_SCORES)
        sides = [(name, answers[scores.index(extreme(scores))]) for extreme in (max, min)]
        best, worst = self._answers(sides)
        return best, worst

    def _compared(self, chosen: Messages, rejected: Messages, margin: float | None) -> PreferencePair:
        if not chosen or not rejected or {chosen[-1]["role"], rejected[-1]["role"]} != {"assistant"}:
            raise Unusable(NO_ANSWER)
        shared = 0
        for ours, theirs in zip(chosen[:-1], rejected[:-1], strict=False):
            if ours != theirs:
                break
            shared += 1
        _require_question(chosen[:-1])
        if not any(message["role"] == "user" for message in chosen[:shared]):
            raise Unusable("the prompts of the two answers differ")
        _require_question(chosen[:shared])
        if is_empty(chosen[-1]) or is_empty(rejected[-1]):
            raise Unusable("an answer is empty")
        if plain(chosen) == plain(rejected) and chosen[-1]["content"] == rejected[-1]["content"]:
            raise Unusable("the two answers are the same")
        return PreferencePair(chosen[:shared], chosen[shared:], rejected[shared:], margin)

    def _answered(self, messages: Messages) -> Messages:
        if not messages or messages[-1]["role"] != "assistant":
            raise Unusable(NO_ANSWER)
        _require_question(messages[:-1])
        if is_empty(messages[-1]):
            raise Unusable("an answer is empty")
        return messages

    def _until_last_answer(self, messages: Messages) -> Messages:
        """Return the messages up to the last answer that is learned."""
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        learned = [i for i in answers if messages[i].get("learned", True)]
        if not answers:
            raise Unusable(NO_ANSWER)
        if not learned:
            raise Unusable("no answer is learned (weight 0)")
        if learned[-1] + 1 < len(messages):
            self.notes.add("turns after the last answer that is learned are not used")
        return messages[: learned[-1] + 1]


def _require_question(prompt: Messages) -> Messages:
    if not any(message["role"] == "user" and message["content"].strip() for message in prompt):
        raise Unusable("no message of the user")
    return prompt
