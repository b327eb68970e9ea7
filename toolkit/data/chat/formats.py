"""Rows of a dataset as messages; the format is recognised by the names and types of the columns.

Supported formats of preferences are two dialogues as text (hh-rlhf), two lists of messages (UltraFeedback),
and prompt, chosen and rejected (TRL); of conversations a list of messages (UltraChat; ShareGPT's
`from`/`value`), and prompt and completion. An unusable row raises Unusable with the reason.
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
ANSWER_COLUMNS = (*CONVERSATION_COLUMNS, "completion", "chosen")
"""Columns that hold an answer; a row without any of them holds a prompt or plain text."""
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class Unusable(Exception):
    """A row is dropped; the message is the reason, the same for all rows of its kind."""


def preference(row: Mapping[str, Any], *, location: str) -> tuple[Messages, str, str]:
    """Return (prompt, chosen answer, rejected answer).

    Raises:
        Unusable: the prompts differ, an answer is empty, or the answers are equal.
        DataError: a column `chosen` or `rejected` is missing or of another type.
    """
    for name in ("chosen", "rejected"):
        if name not in row:
            _missing(row, name, "preferences have `chosen` and `rejected`", location)
    prompt, chosen = _turns(row, "chosen", location=location)
    other, rejected = _turns(row, "rejected", location=location)
    if prompt != other:
        raise Unusable("the prompts of the two answers differ")
    if not chosen.strip() or not rejected.strip():
        raise Unusable("an answer is empty")
    if chosen == rejected:
        raise Unusable("the two answers are the same")
    return prompt, chosen, rejected


def conversation(row: Mapping[str, Any], *, field: str | None, location: str) -> tuple[Messages, str]:
    """Return (prompt, answer): the last turn of the assistant, or the chosen answer of a preference."""
    if field is not None and field not in row:
        _missing(row, field, "set `field` to the column with the messages", location)
    name = field or next((column for column in CONVERSATION_COLUMNS if column in row), None)
    if name is not None:
        messages = _messages(row[name], "user", location=f"{location}: {name}")
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        if not messages:
            raise Unusable("no answer of the assistant")
        prompt, answer = _checked(messages[:-1]), messages[-1]["content"]
    elif "completion" in row:
        prompt, answer = _turns(row, "completion", location=location)
    elif "chosen" in row:
        prompt, answer = _turns(row, "chosen", location=location)
    else:
        _missing(row, "messages", "conversations have `messages`, or `prompt` and `completion`", location)
    if not answer.strip():
        raise Unusable("an answer is empty")
    return prompt, answer


def prompt_of(row: Mapping[str, Any], *, field: str | None, location: str) -> Messages:
    """Return the prompt of a conversation, of a preference, or of a row with the column `prompt` only."""
    if field is None and "prompt" in row and not any(column in row for column in ANSWER_COLUMNS):
        messages = _messages(row["prompt"], "user", location=f"{location}: prompt")
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        return _checked(messages)
    return conversation(row, field=field, location=location)[0]


def as_text(row: Mapping[str, Any], *, location: str) -> tuple[str, str] | None:
    """Return (text, first request) of a row with a conversation, None if it has none.

    The text has hh-rlhf's format, `Human: ...`, a blank line, `Assistant: ...`, for pretraining; role tokens
    are only used in fine-tuning.
    """
    if not any(column in row for column in ANSWER_COLUMNS):
        return None
    prompt, answer = conversation(row, field=None, location=location)
    messages = [*prompt, {"role": "assistant", "content": answer}]
    text = "\n\n".join(f"{_SPEAKERS[message['role']]}: {message['content']}" for message in messages)
    return text, first_request(prompt)


def first_request(prompt: Sequence[Mapping[str, str]]) -> str:
    """Return the first user message, normalised in case, white space and Unicode form.

    Its hash determines the part, so that a prompt is in the same part in all stages.
    """
    text = next(
        message["content"] for message in prompt if message["role"] == "user" and message["content"].strip()
    )
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _turns(row: Mapping[str, Any], name: str, *, location: str) -> tuple[Messages, str]:
    """Split the value of column `name`, which may include the prompt, into (prompt, last answer)."""
    answer = _messages(row[name], "assistant", location=f"{location}: {name}")
    prompt = row.get("prompt")
    if prompt is not None and not (answer and answer[0]["role"] != "assistant"):
        answer = _messages(prompt, "user", location=f"{location}: prompt") + answer
    if not answer or answer[-1]["role"] != "assistant":
        raise Unusable("no answer of the assistant")
    return _checked(answer[:-1]), answer[-1]["content"]


def _messages(value: Any, role: str, *, location: str) -> Messages:
    if isinstance(value, str):
        if value.lstrip().startswith("Human:"):
            return _dialogue(value)
        return [{"role": role, "content": value}]
    if not isinstance(value, Sequence):
        raise DataError(
            f"expected text or a list of messages, not {type(value).__name__}",
            where=location,
            fix='write messages as [{"role": "user", "content": "..."}, ...]',
        )
    messages = [_message(message) for message in value]
    template.check_messages(messages, where=location)
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
        {"role": "user" if speaker == "Human" else "assistant", "content": content.strip()}
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def _checked(prompt: Messages) -> Messages:
    if not any(message["role"] == "user" and message["content"].strip() for message in prompt):
        raise Unusable("no message of the user")
    return prompt


def _missing(row: Mapping[str, Any], name: str, fix: str, location: str) -> None:
    raise DataError(
        f"there is no column {name!r}; the columns are: {', '.join(sorted(row)) or 'none'}",
        where=location,
        fix=fix,
    )
