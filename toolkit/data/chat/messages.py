"""Messages from the values of a column: lists of messages, dialogues as text, JSON text, and keyed turns.

A message is a dict with `role` (system, user, assistant or tool) and `content`. Only an answer that carries
no loss has `"learned": False`, and only an answer with a chain of thought has `reasoning_content`. For calls
and results of functions see `toolkit.data.chat.tools`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.base.errors import DataError
from toolkit.data.chat.dialogues import Message, Messages, dialogue
from toolkit.data.chat.roles import CALL_ROLES, ROLES
from toolkit.data.chat.tools import CALLS, NOT_JSON_CALL, RESULT_KEYS, TOOL, calls_text, result_text
from toolkit.data.chat.unusable import Unusable

CALL_KEYS = ("tool_calls", "function_call")
ROLE_KEYS = ("role", "from", "speaker")
CONTENT_KEYS = ("content", "value", "text")
EXCHANGES = (
    ("input", "output"),
    ("instruction", "output"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
)
"""Keys of a request with its answer, in a list of them."""
REASONING_KEYS = ("reasoning_content", "thinking")
LOSS_KEYS = ("weight", "train", "training", "loss", "mask")
"""Of an answer: whether it carries loss; true for `mask` means that it does not."""
HARMLESS_KEYS = frozenset(
    {"id", "message_id", "parent_id", "name", "date", "created_at", "timestamp", "lang"}
)

_EXAMPLE = 'write messages as [{"role": "user", "content": "..."}, ...]'

_SERIALIZED = re.compile(r"""\s*\[\s*\{\s*["'](?:role|from|speaker|content|value)["']\s*:""")
_ARRAY = re.compile(r"\s*array\((\[.*\]), dtype=object\)\s*", re.S)
"""A list of messages as NumPy prints it, and therefore pandas in the cells of a CSV file."""
TEXT_PARTS = ("text", "input_text", "output_text")
"""Types of the parts of a message that are text; the others are those of OpenAI's responses."""


def messages_of(value: Any, role: str, *, where: str, unread: set[str] | None = None) -> Messages:
    """Return the messages of a value; text without turns is one message with `role`.

    Args:
        unread: collects the keys of messages that are not read.

    Raises:
        Unusable: a call that is not JSON, a part that is not text, or a message without content.
        DataError: another type, an unknown role, or an invalid weight.
    """
    unread = set() if unread is None else unread
    if isinstance(value, str):
        parsed = _deserialized(value, where)
        if parsed is None:
            return dialogue(value) or [{"role": role, "content": value}]
        value = parsed
    if isinstance(value, Mapping):
        value = _turns_of_mapping(value, role, where)
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise DataError(
            f"expected text or a list of messages, not {type(value).__name__}",
            where=where,
            fix=f"write {value!r} as text" if isinstance(value, (int, float)) else _EXAMPLE,
        )
    return [message for item in value for message in _messages(item, where, unread)]


def with_prompt(
    prompt: Any, answer: Any, *, where: tuple[str, str], unread: set[str] | None = None
) -> Messages:
    """Return prompt and answer as one conversation.

    A prompt that ends with the beginning of an answer is continued by it. An answer that repeats the messages
    of its prompt, or that is a whole dialogue, is the conversation.

    Args:
        where: locations of the prompt and of the answer.

    Raises:
        DataError: the answer begins with turns that differ from those of the prompt.
    """
    following = messages_of(answer, "assistant", where=where[1], unread=unread)
    before = messages_of(prompt, "user", where=where[0], unread=unread)
    if not following or not before:
        return before + following
    if following[0]["role"] == TOOL or CALLS in before[-1]:
        return before + following
    if following[0]["role"] != "assistant":
        return _whole(before, following, where)
    first = following[0]
    if not isinstance(prompt, str) or not dialogue(prompt):
        if isinstance(answer, str) and answer.lstrip().startswith("Assistant:"):
            content = answer.lstrip().removeprefix("Assistant:").removeprefix(" ")
            following = [{**first, "content": content}]
        if before[-1]["role"] != "assistant":
            return before + following
        content = before[-1]["content"] + first["content"]
        return [*before[:-1], {**before[-1], **first, "content": content}, *following[1:]]
    text = first["content"]
    if text.lstrip().startswith("Assistant:"):
        text = text.lstrip().removeprefix("Assistant:")
        prompt = prompt if before[-1]["role"] == "assistant" else f"{prompt.rstrip()}\n\nAssistant:"
    elif before[-1]["role"] != "assistant":
        return before + following
    turns = dialogue(prompt + text) or []
    return [*turns[:-1], {**first, **turns[-1]}, *following[1:]]


def without_prompt(prompt: Any, answers: Sequence[Any]) -> list[Any]:
    """Return the answers without the text of their prompt, if all of them begin with it.

    A single answer has to repeat at least three words: "Hello there" answers "Hello".
    """
    if not isinstance(prompt, str) or not prompt.strip() or dialogue(prompt):
        return list(answers)
    if len(answers) < 2 and len(prompt.split()) < 3:
        return list(answers)
    rest = []
    for answer in answers:
        if not isinstance(answer, str) or not answer.startswith(prompt):
            return list(answers)
        remainder = answer[len(prompt) :]
        if not remainder.strip() or not (prompt[-1].isspace() or remainder[0].isspace()):
            return list(answers)
        rest.append(remainder.lstrip())
    return rest


def plain(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Return (role, content with calls) of messages, for comparisons."""
    return [(message["role"], message["content"].strip() + message.get(CALLS, "")) for message in messages]


def is_empty(message: Message) -> bool:
    """Return whether an answer has neither text nor a call."""
    return not message["content"].strip() and CALLS not in message


def _whole(before: Messages, following: Messages, where: tuple[str, str]) -> Messages:
    """Return the conversation of an answer that begins with turns of its prompt."""
    asked, given = plain(before), plain(following)
    if asked[-1][0] == "assistant" and len(given) >= len(asked):  # the beginning of an answer
        last = given[len(asked) - 1]
        asked = asked[:-1] if last[0] == "assistant" and last[1].startswith(asked[-1][1]) else asked
    if given[: len(asked)] == asked:
        return following
    if all(role == "system" for role, _ in asked):
        return before + following
    if asked[0][0] == "system" and given[: len(asked) - 1] == asked[1:]:
        return before[:1] + following
    if len(asked) == 1 and asked[0] in given:
        return following
    raise DataError(
        "the answer begins with turns that differ from those of its prompt",
        where=where[1],
        fix=f"remove them, or the column of the prompt ({where[0].rpartition(': ')[2]})",
    )


def _deserialized(text: str, where: str) -> list[Any] | None:
    """Return the messages in JSON text or in the text of a Python list, None if the text is neither."""
    array = _ARRAY.fullmatch(text)
    text = array[1] if array else text.strip()
    if text[:1] not in ("[", "{", '"'):
        return None
    is_certain = _SERIALIZED.match(text) is not None
    value = _parsed(text, may_be_python=is_certain)
    if value is None and is_certain:
        raise DataError(
            "the text begins like a list of messages, but is not JSON",
            where=where,
            fix="write the messages with json.dumps, or as a list instead of as text",
        )
    if isinstance(value, str):  # JSON text in JSON text
        return _deserialized(value, where)
    if isinstance(value, dict):
        value = value.get("messages", value.get("conversations", [value]))
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return None
    if not is_certain and not (value and all(map(_is_message, value))):
        return None
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError):  # bytes or a set; half of a surrogate pair
        raise DataError(
            "the list of messages holds something that is not text", where=where, fix="remove it"
        ) from None
    return value


def _parsed(text: str, *, may_be_python: bool) -> Any:
    """Return the value of JSON text or of the text of a Python value, None if it is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if not may_be_python and not text.startswith(("[{'", "{'")):
            return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _is_message(item: dict[str, Any]) -> bool:
    """Return whether an object in JSON text is certainly a message, and not the JSON that a text is about."""
    role = next((item[key] for key in ROLE_KEYS if key in item), None)
    known = isinstance(role, str) and (role.strip().lower() in ROLES or role.strip().lower() in CALL_ROLES)
    return known and any(key in item for key in (*CONTENT_KEYS, *CALL_KEYS))


def _turns_of_mapping(value: Mapping[str, Any], role: str, where: str) -> list[Any]:
    """Return the messages of one message, of {"text": ...}, or of a struct of lists."""
    present = {key: item for key, item in value.items() if item is not None}
    columns = {key: item for key, item in present.items() if isinstance(item, list)}
    if any(key in columns for key in ROLE_KEYS):
        if len({len(items) for items in columns.values()}) != 1:
            raise DataError("the lists of roles and contents differ in length", where=where, fix=_EXAMPLE)
        return [dict(zip(columns, turn, strict=True)) for turn in zip(*columns.values(), strict=True)]
    has_role = any(key in present for key in ROLE_KEYS) or any(_is_speaker(key) for key in present)
    if not has_role and any(key in present for key in CONTENT_KEYS):
        return [{**present, "role": role}]
    return [value]


def _messages(item: Any, where: str, unread: set[str]) -> Messages:
    """Return the message of one item of a list, or the messages of {"user": ..., "assistant": ...}."""
    if not isinstance(item, Mapping):
        raise _no_message(item, where)
    item = {key: value for key, value in item.items() if value is not None or key in CONTENT_KEYS}
    key = next((key for key in ROLE_KEYS if key in item), None)
    if key is None:
        roles = {name: name for name in item if _is_speaker(name)} or _roles_of_exchange(item)
        if not roles:
            raise _no_message(item, where)
        unread.update(item.keys() - roles.keys() - HARMLESS_KEYS)
        turns = [_message(role, {"content": item[name]}, where, unread) for name, role in roles.items()]
        return sorted(turns, key=lambda turn: ("system", "user", "assistant").index(turn["role"]))
    return [_message(item.pop(key), item, where, unread)]


def _no_message(item: Any, where: str) -> DataError:
    keys = f"; its keys are: {', '.join(map(str, item))}" if isinstance(item, Mapping) and item else ""
    return DataError(f"a message must have `role` and `content`, both text{keys}", where=where, fix=_EXAMPLE)


def _roles_of_exchange(item: Mapping[str, Any]) -> dict[str, str]:
    """Return {key: role} of a request with its answer, such as {"input": ..., "output": ...}."""
    found = next((pair for pair in EXCHANGES if all(key in item for key in pair)), ())
    return dict(zip(found, ("user", "assistant"), strict=False))


def _is_speaker(key: str) -> bool:
    """Return whether a key is a role whose value is what it says; `tool` and `function` are other keys."""
    return ROLES.get(key.strip().lower(), TOOL) != TOOL


def _message(role_name: Any, item: Mapping[str, Any], where: str, unread: set[str]) -> Message:
    name = role_name.strip().lower() if isinstance(role_name, str) else ""
    role = "assistant" if name in CALL_ROLES else ROLES.get(name)
    if role is None:
        known = sorted([*ROLES, *CALL_ROLES])
        raise DataError(f"unknown role {role_name!r}", where=where, fix=f"use one of {', '.join(known)}")
    key = next((key for key in CONTENT_KEYS if item.get(key) is not None), None)
    call_keys = CALL_KEYS if role == "assistant" else ()
    if key is None and not any(item.get(name) for name in call_keys):
        if not any(key in item for key in CONTENT_KEYS):
            raise _no_message({"role": role_name, **item}, where)
        raise Unusable("an answer is null" if role == "assistant" else "a message is null")
    content = None if key is None else item[key]
    message = {"role": role, "content": ""}
    if name not in CALL_ROLES and content is not None:
        message["content"] = _text(result_text(content) if role == TOOL else content, where)
    read = {key, "tool_call_id", *call_keys, *LOSS_KEYS}
    learned = _is_learned(item, where)
    if role == TOOL:
        message.update({key: item[key] for key in RESULT_KEYS if isinstance(item.get(key), str)})
    if role == "assistant":
        if calls := _calls(item, content if name in CALL_ROLES else None):
            message[CALLS] = calls
        if not learned:
            message["learned"] = False
        read.update(REASONING_KEYS)
        if reasoning := _reasoning(item, where):
            message["reasoning_content"] = reasoning
    unread.update(name for name in item.keys() - read - HARMLESS_KEYS if item[name] not in (None, "", [], {}))
    return message


def _calls(item: Mapping[str, Any], content: Any) -> str:
    """Return the calls of an answer as JSON text: of its keys, or its content if the role says so."""
    found = {
        text for value in (content, *(item.get(key) for key in CALL_KEYS)) if (text := calls_text(value))
    }
    if content is not None and not found:
        raise Unusable(NOT_JSON_CALL)
    if len(found) > 1:
        raise Unusable("`tool_calls` and `function_call` of a message differ")
    return found.pop() if found else ""


def _text(content: Any, where: str) -> str:
    """Return text, or the joined text of parts."""
    if isinstance(content, str):
        return content
    parts = [content] if isinstance(content, Mapping) else content
    if not isinstance(parts, Sequence) or not all(isinstance(part, (str, Mapping)) for part in parts):
        raise DataError("the content of a message must be text", where=where, fix=_EXAMPLE)
    texts = []
    for part in parts:
        kind = "text" if isinstance(part, str) else part.get("type", "text")
        text = part if isinstance(part, str) else part.get("text")
        if kind not in TEXT_PARTS:
            raise Unusable(f"a part of type {kind!r} in a message: only text is read")
        if not isinstance(text, str):
            raise DataError("a part of a message has no text", where=where, fix=_EXAMPLE)
        texts.append(text)
    return "".join(texts)


def _is_learned(item: Mapping[str, Any], where: str) -> bool:
    found = set()
    for key in LOSS_KEYS:
        value = item.get(key)
        if value is None:
            continue
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise DataError(
                f"`{key}` of a message is {value!r}, not 0 or 1",
                where=where,
                fix="give 1 to an answer that is learned, 0 to one that is not; answers have no other weight",
            )
        found.add(bool(value) != (key == "mask"))
    if len(found) > 1:
        raise DataError(
            f"{', '.join(key for key in LOSS_KEYS if key in item)} of a message contradict each other",
            where=where,
            fix="keep one of them",
        )
    return found != {False}


def _reasoning(item: Mapping[str, Any], where: str) -> str:
    values = {item[key] for key in REASONING_KEYS if isinstance(item.get(key), str) and item[key].strip()}
    if len(values) > 1 or any(not isinstance(item.get(key, ""), str) for key in REASONING_KEYS):
        raise DataError(
            f"{' and '.join(REASONING_KEYS)} of a message are not one text", where=where, fix="keep one text"
        )
    return values.pop() if values else ""
