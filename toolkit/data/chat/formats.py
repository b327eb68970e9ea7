"""One row of a dataset as messages: which columns hold what, told by their names and types.

Read are preferences as two dialogues in one text each (hh-rlhf), as two lists of messages (UltraFeedback),
as prompt, chosen and rejected (TRL), and conversations as a list of messages (UltraChat; ShareGPT's
`from`/`value`) or as prompt and completion. A row that cannot be used raises Unusable, with the reason.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.base.errors import DataError
from toolkit.data.chat import template

Messages = list[dict[str, str]]
CONVERSATION_COLUMNS = ("messages", "conversation", "conversations")
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class Unusable(Exception):
    """A row that is left out; the message is the reason, the same text for all rows of its kind."""


def preference(row: Mapping[str, Any], *, place: str) -> tuple[Messages, str, str]:
    """Return (prompt, chosen answer, rejected answer).

    Raises:
        Unusable: the prompts differ, an answer is empty, the answers are the same.
        DataError: the columns `chosen` and `rejected` are not there or of another type.
    """
    for name in ("chosen", "rejected"):
        if name not in row:
            _missing(row, name, "preferences have `chosen` and `rejected`", place)
    prompt, chosen = _turns(row, "chosen", place=place)
    other, rejected = _turns(row, "rejected", place=place)
    if prompt != other:
        raise Unusable("the prompts of the two answers differ")
    if not chosen.strip() or not rejected.strip():
        raise Unusable("an answer is empty")
    if chosen == rejected:
        raise Unusable("the two answers are the same")
    return prompt, chosen, rejected


def conversation(row: Mapping[str, Any], *, field: str | None, place: str) -> tuple[Messages, str]:
    """Return (prompt, answer): the assistant's last turn; of a preference the chosen answer."""
    if field is not None and field not in row:
        _missing(row, field, "set `field` to the column with the messages", place)
    name = field or next((column for column in CONVERSATION_COLUMNS if column in row), None)
    if name is not None:
        messages = _messages(row[name], "user", place=f"{place}: {name}")
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        if not messages:
            raise Unusable("no answer of the assistant")
        prompt, answer = _checked(messages[:-1]), messages[-1]["content"]
    elif "completion" in row:
        prompt, answer = _turns(row, "completion", place=place)
    elif "chosen" in row:
        prompt, answer = _turns(row, "chosen", place=place)
    else:
        _missing(row, "messages", "conversations have `messages`, or `prompt` and `completion`", place)
    if not answer.strip():
        raise Unusable("an answer is empty")
    return prompt, answer


def prompt_of(row: Mapping[str, Any], *, field: str | None, place: str) -> Messages:
    """Return the prompt alone, of a conversation, a preference, or a row that has nothing but `prompt`."""
    columns = (*CONVERSATION_COLUMNS, "completion", "chosen")
    if field is None and "prompt" in row and not any(column in row for column in columns):
        messages = _messages(row["prompt"], "user", place=f"{place}: prompt")
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        return _checked(messages)
    return conversation(row, field=field, place=place)[0]


def as_text(row: Mapping[str, Any], *, place: str) -> tuple[str, str] | None:
    """Return (text, first request) of a row with a conversation; None where it has none.

    The text is in hh-rlhf's form, `Human: ...`, a blank line, `Assistant: ...`: as text it is there to learn
    the words from, and role tokens come with fine-tuning.
    """
    if not any(column in row for column in (*CONVERSATION_COLUMNS, "completion", "chosen")):
        return None
    prompt, answer = conversation(row, field=None, place=place)
    messages = [*prompt, {"role": "assistant", "content": answer}]
    text = "\n\n".join(f"{_SPEAKERS[message['role']]}: {message['content']}" for message in messages)
    return text, first_request(prompt)


def first_request(prompt: Sequence[Mapping[str, str]]) -> str:
    """Return the first user message, without differences of case, white space and Unicode form.

    Its hash decides between training and held-out part, so that a prompt is in the same part in all stages.
    """
    text = next(
        message["content"] for message in prompt if message["role"] == "user" and message["content"].strip()
    )
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _turns(row: Mapping[str, Any], name: str, *, place: str) -> tuple[Messages, str]:
    """Split what column `name` holds, with or without the prompt in front, in (prompt, last answer)."""
    answer = _messages(row[name], "assistant", place=f"{place}: {name}")
    prompt = row.get("prompt")
    if prompt is not None and not (answer and answer[0]["role"] != "assistant"):
        answer = _messages(prompt, "user", place=f"{place}: prompt") + answer
    if not answer or answer[-1]["role"] != "assistant":
        raise Unusable("no answer of the assistant")
    return _checked(answer[:-1]), answer[-1]["content"]


def _messages(value: Any, role: str, *, place: str) -> Messages:
    if isinstance(value, str):
        if value.lstrip().startswith("Human:"):
            return _dialogue(value)
        return [{"role": role, "content": value}]
    if not isinstance(value, Sequence):
        raise DataError(
            f"text or a list of messages belongs here, not {type(value).__name__}",
            where=place,
            fix='write messages as [{"role": "user", "content": "..."}, ...]',
        )
    messages = [_message(message) for message in value]
    template.check_messages(messages, where=place)
    return messages


def _message(message: Any) -> Any:
    if not isinstance(message, Mapping):
        return message
    role = message.get("role", message.get("from"))
    return {"role": _ROLES.get(role, role), "content": message.get("content", message.get("value"))}


def _dialogue(text: str) -> Messages:
    """Split hh-rlhf's text, "\\n\\nHuman: ...\\n\\nAssistant: ..."."""
    parts = _TURN.split("\n\n" + text.lstrip())[1:]
    return [
        {"role": "user" if who == "Human" else "assistant", "content": said.strip()}
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _checked(prompt: Messages) -> Messages:
    if not any(message["role"] == "user" and message["content"].strip() for message in prompt):
        raise Unusable("no message of the user")
    return prompt


def _missing(row: Mapping[str, Any], name: str, fix: str, place: str) -> None:
    raise DataError(
        f"there is no column {name!r}; the columns are: {', '.join(sorted(row)) or 'none'}",
        where=place,
        fix=fix,
    )
