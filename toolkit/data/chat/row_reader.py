"""The forms of a conversation and of a preference that one row may have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from toolkit.base.errors import DataError
from toolkit.data.chat import candidates, columns
from toolkit.data.chat.candidates import EQUAL_SCORES, Candidates
from toolkit.data.chat.column_reader import ColumnReader
from toolkit.data.chat.columns import is_number
from toolkit.data.chat.messages import Messages, is_empty, plain
from toolkit.data.chat.unusable import Unusable

TIES = ("-1", "tie", "tie (bothbad)", "both", "both_bad", "equal")
NO_ANSWER = "no answer of the assistant"
SAME_ANSWERS = "the two answers are the same"
OTHER_PROMPTS = "the prompts of the two answers differ"
SEVERAL_MESSAGES = "the answers differ before the last turn, and one follows another directly"
SEVERAL_ANSWERS = "the conversations differ before the last turn"


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
            raise Unusable(SEVERAL_ANSWERS)
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
        if any(message["role"] == "assistant" and is_empty(message) for message in messages):
            self.notes.add("an answer before the last is empty")
        return messages

    def prompt(self) -> Messages:
        if (conversation := self._open_conversation()) is not None:
            messages = self._with_context(self._messages(conversation, self.row[conversation], "user"))
        elif self.holds_conversation():
            messages = self._with_context(self._single(any_of_two=True))
            if any(message["role"] == "assistant" for message in messages):
                messages = self._until_last_answer(messages)[:-1]
        else:
            prompts = self._prompts()
            if not prompts:
                raise self._missing("prompt", "prompts have `prompt`; map another name with `columns:`")
            name, value = self._one_prompt(prompts)
            messages = self._messages(name, value, "user")
            messages = self._with_context(self._with_history(messages) if name == "instruction" else messages)
            begun = [message for message in messages[-1:] if message["role"] == "assistant"]
            while messages and messages[-1]["role"] == "assistant":
                messages.pop()
            if begun and not is_empty(begun[0]):
                self.notes.add("the beginning of an answer, at the end of the prompt, is not used")
        return [
            {k: v for k, v in message.items() if k != "learned"} for message in _require_question(messages)
        ]

    def preference(self) -> PreferencePair | Labelled:
        pairs = dict(self._pairs())
        label = self._label()
        if not pairs and label is not None:
            return Labelled(self._answered(self._with_context(self._single())), label)
        if not pairs and (name := next((name for name in columns.LABELS if name in self.row), None)):
            raise DataError(
                f"{name!r} is {self.row[name]!r}, which does not say whether the answer is good",
                where=self.location,
                fix="give true or false; or columns: {label: ...} for a column of 0 and 1",
            )
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
            or self._choices() is not None
            or candidates.of_row(self.row) is not None
        )

    def holds_conversation(self) -> bool:
        """Return whether the row has a conversation; the prompt of other rows is a column."""
        has_candidates = candidates.of_row(self.row) is not None
        return (
            self._has_called_functions()
            or any(name in self.row for name in (*columns.CONVERSATIONS, "chosen"))
            or ("completion" in self.row and not has_candidates)
            or any(prompt in self.row and answer in self.row for prompt, answer in columns.PAIRS)
            or (self._choices() is not None and not self._prompts())
        )

    # Forms of a conversation

    def _conversations(self, *, any_of_two: bool) -> Iterator[tuple[columns.Form, Messages]]:
        """Yield the columns and the messages of every form of a conversation that the row has."""
        row = self.row
        for name in columns.CONVERSATIONS:
            if name in row and name != self._open_conversation():
                self._note_repeated_prompt(messages := self._messages(name, row[name], "user"))
                yield (name,), messages
        for prompt, answer in columns.PAIRS:
            if prompt in row and answer in row and not (prompt == "input" and "instruction" in row):
                yield (prompt, answer), self._with_prompt(prompt, [(answer, row[answer])])[0]
        if self._has_called_functions():
            prompt, _ = self._one_prompt(self._prompts())
            answer = {"role": "assistant", "tool_calls": row["answers"]}
            yield (prompt, "answers"), self._with_prompt(prompt, [("answers", [answer])])[0]
        if "completion" in row and not any(prompt in row for prompt in columns.PROMPTS):
            yield ("completion",), self._messages("completion", row["completion"], "assistant")
        yield from self._better_answers(any_of_two=any_of_two)

    def _better_answers(self, *, any_of_two: bool) -> Iterator[tuple[columns.Form, Messages]]:
        """Yield the conversations with the better of two answers, or with any if only the prompt matters."""
        row, choices = self.row, self._choices()
        if "chosen" in row and (any_of_two or "rejected" not in row):
            yield ("chosen",), self._answers([("chosen", row["chosen"])])[0]
        if any_of_two and choices is not None and not self._prompts():
            yield choices[:1], self._answers([(choices[0], row[choices[0]])])[0]
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
        if (found := candidates.of_row(self.row)) is not None:
            yield found.form, self._best_and_worst(found)

    def _choices(self) -> tuple[str, str] | None:
        """Return the columns of two answers of which another column names the better."""
        return next((names for names in columns.CHOICES if all(name in self.row for name in names)), None)

    def _has_called_functions(self) -> bool:
        """Return whether `answers` are calls of the row's tools (the format of xLAM)."""
        has_tools = any(name in self.row for name in columns.TOOLS)
        return (
            has_tools
            and "answers" in self.row
            and bool(self._prompts())
            and candidates.of_row(self.row) is None
        )

    def _better(self, names: tuple[str, str]) -> int:
        """Return the number of the better of two columns, 0 or 1."""
        present = {name: self.row[name] for name in columns.CHOSEN if name in self.row}
        higher = self._higher_score(names)
        if not present and higher is not None:
            return higher
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
        if higher not in (None, side):
            raise Unusable("the better answer has the lower score")
        return side

    def _higher_score(self, names: tuple[str, str]) -> int | None:
        """Return which of two columns has the higher score, 0 or 1; None if they are equal or not there.

        Raises:
            Unusable: the scores are equal, and no other column names the better answer.
        """
        score_names = [f"score_{name.rpartition('_')[2]}" for name in names]
        scores = [self.row.get(name) for name in score_names]
        if not all(is_number(score) for score in scores):
            return None
        self.used.update(score_names)
        if scores[0] == scores[1]:
            if not any(name in self.row for name in columns.CHOSEN):
                raise Unusable(EQUAL_SCORES)
            return None
        return int(scores[1] > scores[0])

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
        raise DataError(
            f"{column!r} is {value!r}, which names neither {names[0]} nor {names[1]}",
            where=self.location,
            fix=f"give {suffixes[0]} or {suffixes[1]}, or -1 for a tie",
        )

    def _best_and_worst(self, found: Candidates) -> tuple[Messages, Messages]:
        self.used.update(found.form)
        self.unread_keys.update(f"{found.form[0]}.{key}" for key in found.unread)
        known = found.known(location=self.location)
        if len(known) < len(found.answers):
            self.notes.add("an answer without a text or without a score is not compared")
        best, worst = self._answers([(found.form[0], answer) for answer in found.best_and_worst(known)])
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
            raise Unusable(OTHER_PROMPTS)
        _require_question(chosen[:shared])
        if is_empty(chosen[-1]) or is_empty(rejected[-1]):
            raise Unusable("an answer is empty")
        if plain(chosen) == plain(rejected) and chosen[-1]["content"] == rejected[-1]["content"]:
            raise Unusable(SAME_ANSWERS)
        if {chosen[shared]["role"], rejected[shared]["role"]} != {"assistant"}:
            raise Unusable(OTHER_PROMPTS)
        if len(chosen) - shared > 1 or len(rejected) - shared > 1:
            turns = [turns for side in (chosen, rejected) for turns in pairwise(side[shared:])]
            if any(first["role"] == "assistant" == second["role"] for first, second in turns):
                raise Unusable(SEVERAL_MESSAGES)
            self.notes.add(f"{SEVERAL_ANSWERS}; all answers after their common beginning are compared")
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
