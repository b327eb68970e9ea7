"""The columns of one row: messages, prompts, answers, the system message, labels, scores and margins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolkit.base.errors import DataError
from toolkit.data.chat import candidates, columns, tools
from toolkit.data.chat.dialogues import dialogue, spells_turns, without_end
from toolkit.data.chat.messages import (
    Message,
    Messages,
    messages_of,
    plain,
    with_prompt,
    without_prompt,
)
from toolkit.data.chat.unusable import Unusable


class ColumnReader:
    """One row, with our names of columns; collects which columns are used, and what of the row is not."""

    def __init__(self, row: dict[str, Any], location: str = ""):
        self.row, self.location = row, location
        self.used: set[str] = set()
        self.unread_keys: set[str] = set()
        self.notes: set[str] = set()

    def _messages(self, name: str, value: Any, role: str) -> Messages:
        self.used.add(name)
        keys: set[str] = set()
        messages = messages_of(value, role, where=f"{self.location}: {name}", unread=keys)
        self.unread_keys.update(f"{name}.{key}" for key in keys)
        return self._noted(messages)

    def _noted(self, messages: Messages) -> Messages:
        """Return the messages without end tokens that answers spell, and note what is unusual about them."""
        if any("reasoning_content" in message for message in messages):
            self.notes.add(REASONING)
        if (
            len(messages) > 1
            and next((m["role"] for m in messages if m["role"] != "system"), "") == "assistant"
        ):
            self.notes.add("an answer before the first request is not learned")
        if any(map(tools.is_spelled, messages)):
            self.notes.add(tools.SPELLED)
        if any(spells_turns(message["content"]) for message in messages):
            self.notes.add("a message spells the beginning of another turn, which stays text")
        cleaned = [_without_end(message) for message in messages]
        if cleaned != messages:
            self.notes.add("an end token that is spelled at the end of an answer is removed")
        return cleaned

    def _with_prompt(self, prompt: str, answers: Sequence[tuple[str, Any]]) -> list[Messages]:
        """Return the conversations of a prompt's column with each of (column, answer)."""
        value = self._prompt(prompt)
        texts = without_prompt(value, [answer for _, answer in answers])
        if texts != [answer for _, answer in answers]:
            self.notes.add("the answer repeats the text of its prompt, which is read once")
        self.used.update(name for name, _ in answers)
        conversations = []
        for (name, _), text in zip(answers, texts, strict=True):
            keys: set[str] = set()
            where = (f"{self.location}: {prompt}", f"{self.location}: {name}")
            messages = self._noted(with_prompt(value, text, where=where, unread=keys))
            conversations.append(self._with_history(messages) if prompt == "instruction" else messages)
            self.unread_keys.update(f"{name}.{key}" for key in keys)
        return conversations

    def _answers(self, answers: Sequence[tuple[str, Any]]) -> list[Messages]:
        """Return the conversations of (column, answer) with the row's prompt, if it has one."""
        if prompts := self._prompts():
            return self._with_prompt(self._one_prompt(prompts)[0], answers)
        if (conversation := self._open_conversation()) is not None:
            return self._with_prompt(conversation, answers)
        return [self._messages(name, value, "assistant") for name, value in answers]

    def _open_conversation(self) -> str | None:
        """Return the column of a conversation that ends with a request, which two or more answers follow."""
        name = next((name for name in columns.CONVERSATIONS if name in self.row), None)
        answers = [self.row[name] for name in columns.TWO_ANSWERS if name in self.row]
        if name is None or self._prompts() or not (answers or candidates.of_row(self.row)):
            return None
        before = messages_of(self.row[name], "user", where=self.location)
        after = [messages_of(answer, "assistant", where=self.location) for answer in answers]
        is_open = bool(before) and before[-1]["role"] != "assistant"
        is_whole = any(message["role"] == "user" for messages in after for message in messages)
        return name if is_open and not is_whole else None

    def _prompts(self) -> list[str]:
        names = [name for name in columns.PROMPTS if name in self.row]
        return [name for name in names if name != "input" or "instruction" not in names]

    def _one_prompt(self, names: Sequence[str]) -> tuple[str, Any]:
        values = {name: self._prompt(name) for name in names}
        columns.require_equal(
            {(name,): value.strip() if isinstance(value, str) else value for name, value in values.items()},
            location=self.location,
        )
        return names[0], values[names[0]]

    def _prompt(self, name: str) -> Any:
        """Return the value of a prompt's column; an instruction is followed by its input."""
        self.used.add(name)
        value = self.row[name]
        extra = next((extra for extra in columns.EXTRA_INPUTS if extra in self.row), None)
        if name != "instruction" or extra is None or not isinstance(value, str):
            return value
        if not isinstance(self.row[extra], str):
            return value
        self.used.add(extra)
        return "\n\n".join(part for part in (value, self.row[extra]) if part.strip())

    def _with_history(self, messages: Messages) -> Messages:
        """Prepend the earlier turns of an instruction."""
        turns = self.row.get("history")
        if not isinstance(turns, list) or not all(_is_exchange(turn) for turn in turns):
            return messages
        self.used.add("history")
        roles = ("user", "assistant")
        earlier = [
            {"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)
        ]
        return [*self._noted(earlier), *messages]

    def _note_repeated_prompt(self, messages: Messages) -> None:
        """Count `prompt` as read if it is one of the messages beside it."""
        prompt = self.row.get("prompt")
        if prompt is None:
            return
        asked, given = plain(self._messages("prompt", prompt, "user")), plain(messages)
        if given[: len(asked)] != asked and not (len(asked) == 1 and asked[0] in given):
            self.used.discard("prompt")

    def _with_context(self, messages: Messages) -> Messages:
        """Prepend the tools and the system message that have columns."""
        messages = self._with_system(messages)
        listed = {name: found for name in columns.TOOLS if (found := tools.tools_message(self.row.get(name)))}
        if len({found["content"] for found in listed.values()}) > 1:
            raise Unusable(f"{' and '.join(map(repr, listed))} differ")
        self.used.update(listed)
        return [*list(listed.values())[:1], *messages] if messages else messages

    def _with_system(self, messages: Messages) -> Messages:
        """Prepend the system column, unless it repeats the system message."""
        texts = {name: self.row[name] for name in columns.SYSTEMS if name in self.row}
        for name, text in texts.items():
            if not isinstance(text, str):
                raise DataError(
                    f"column {name!r} holds {type(text).__name__}, not text",
                    where=self.location,
                    fix="give the text of the system message",
                )
        texts = {name: text.strip() for name, text in texts.items() if text.strip()}
        if not texts or not messages:
            return messages
        name, text = next(iter(texts.items()))
        if len(set(texts.values())) > 1:
            raise Unusable(f"{' and '.join(map(repr, texts))} differ")
        if messages[0]["role"] != "system":
            return [{"role": "system", "content": self.row[name]}, *messages]
        if messages[0]["content"].strip() != text:
            raise Unusable(f"{name!r} differs from the system message of the conversation")
        return messages

    def _label(self) -> bool | None:
        """Return whether the only answer of the row is good, None if a column does not say."""
        if any(all(name in self.row for name in pair) for pair in columns.CHOICES):
            return None
        is_kto = "prompt" in self.row and "completion" in self.row
        for name in columns.LABELS:
            grade = columns.grade(self.row.get(name), is_grade=is_kto or name == columns.KTO_TAG)
            if grade is not None:
                self.used.add(name)
                return grade
        return None

    def _margin(self) -> float | None:
        margin = self.row.get("margin")
        if margin is not None and not columns.is_number(margin):
            raise DataError(
                f"'margin' is {margin!r}, not a number", where=self.location, fix="give a number, or null"
            )
        if margin is None:
            return None
        self.notes.add("margin is used by reward models, and not by dpo")
        return float(margin)

    def _lower_score(self, *, equal: bool = False) -> str | None:
        """Return why the scores contradict the preference.

        Rows of a preferences stage, which have `shown_first`, are not checked: their annotator may be noisy.
        """
        if "shown_first" in self.row:
            return None
        for better, worse in columns.SCORES:
            scores = self.row.get(better), self.row.get(worse)
            for name, score in zip((better, worse), scores, strict=True):
                if score is not None and not columns.is_number(score):
                    raise DataError(
                        f"{name!r} is {score!r}, not a number",
                        where=self.location,
                        fix="give a number, or null",
                    )
            if None not in scores:
                if scores[0] < scores[1]:
                    return f"{better} is lower than {worse}"
                if equal and scores[0] == scores[1]:
                    return candidates.EQUAL_SCORES
        return None

    def _missing(self, name: str, fix: str) -> DataError:
        if not self.row:
            fix = "remove the row, or leave out rows like this one with `on_bad_row: skip`"
            return DataError("the row is empty: all columns are null", where=self.location, fix=fix)
        text = self.row.get("text")
        if isinstance(text, str) and len(dialogue(text) or []) > 1:
            fix = "the column `text` holds dialogues; to read them, set `field: text` in the data source"
        elif not self.used and (names := columns.suggested(self.row)):
            fix = f"map them with `{names}`, if these are the columns"
        return DataError(
            f"there is no column {name!r}; the columns are: {', '.join(sorted(self.row)) or 'none'}",
            where=self.location,
            fix=fix,
        )


REASONING = "reasoning_content is read only where the chat template renders it, and not in plain text"


def _is_exchange(turn: Any) -> bool:
    return isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)


def _without_end(message: Message) -> Message:
    if message["role"] != "assistant":
        return message
    return {**message, "content": without_end(message["content"])}
