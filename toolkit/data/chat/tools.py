"""Tools of a conversation: the functions that an assistant may call, its calls, and their results.

A conversation with tools begins with a message whose role is `tools` and whose content is the JSON text of
the list that `apply_chat_template(tools=...)` takes. An answer that calls functions has `tool_calls`, JSON
text too, so that messages are text in every table. The result of a call is a message with the role `tool`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolkit.data.chat.unusable import Unusable

TOOLS = "tools"
"""The role of the message that lists the functions."""
TOOL = "tool"
"""The role of the result of a call."""
CALLS = "tool_calls"
"""The key of an answer's calls."""
RESULT_KEYS = ("name", "tool_call_id")
"""Keys of a result that templates render."""

NOT_JSON_TOOLS = "tools that are not a list of functions in JSON"
NOT_JSON_CALL = "a tool call that is not a function's name with arguments in JSON"
NO_TOOLS = "a row with tools, which the chat template does not render"
NO_TURN = "a tool turn, which the chat template does not render"
UNRENDERED_TEXT = "the text beside a tool call is not rendered by the chat template"
SPELLED = "a tool call that is spelled in the text of an answer stays text"
_CALL_TAG = ("<tool_call>", "</tool_call>")
_RESULT_TAG = ("<tool_response>", "</tool_response>")

Message = Mapping[str, Any]


def has_tools(messages: Sequence[Message]) -> bool:
    """Return whether a conversation lists, calls or answers functions."""
    return any(message["role"] in (TOOLS, TOOL) or CALLS in message for message in messages)


def is_spelled(message: Message) -> bool:
    """Return whether the text of an answer spells a call between Hermes' tags."""
    return message["role"] == "assistant" and _CALL_TAG[0] in message["content"]


# Reading


def tools_message(value: Any) -> dict[str, Any] | None:
    """Return the message for a column of tools, None without any.

    Args:
        value: a list of functions, or its JSON text; functions may lack the wrapper
            `{"type": "function", "function": ...}`, and be JSON text themselves.

    Raises:
        Unusable: anything else, such as a built-in tool of an endpoint.
    """
    found = _parsed(value, NOT_JSON_TOOLS)
    items = [found] if isinstance(found, Mapping) and found else found
    if not items:
        return None
    if not isinstance(items, Sequence) or isinstance(items, (str, bytes)):
        raise Unusable(NOT_JSON_TOOLS)
    listed = [_tool(_parsed(item, NOT_JSON_TOOLS)) for item in items]
    return {"role": TOOLS, "content": _as_json(listed, NOT_JSON_TOOLS)}


def _tool(item: Any) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise Unusable(NOT_JSON_TOOLS)
    item = _without_nulls(item)
    if isinstance(item.get("function"), dict) and isinstance(item["function"].get("name"), str):
        return item
    if isinstance(item.get("name"), str):
        return {"type": "function", "function": {key: item[key] for key in item if key != "type"}}
    raise Unusable(NOT_JSON_TOOLS)


def calls_text(value: Any) -> str:
    """Return the calls of an answer as JSON text, "" without any.

    Args:
        value: one call or a list of them, or their JSON text: `{"name": ..., "arguments": ...}`, with or
            without the wrapper `{"type": "function", "function": ...}`; arguments are an object or JSON text.

    Raises:
        Unusable: anything else.
    """
    if isinstance(value, str):
        value = _within_tags(value)
    found = _parsed(value, NOT_JSON_CALL)
    items = [found] if isinstance(found, Mapping) and found else found
    if not items:
        return ""
    if not isinstance(items, Sequence) or isinstance(items, (str, bytes)):
        raise Unusable(NOT_JSON_CALL)
    return _as_json([_call(_parsed(item, NOT_JSON_CALL)) for item in items], NOT_JSON_CALL)


def _within_tags(text: str) -> str:
    """Return the JSON of calls that each stand between Hermes' tags."""
    opening, closing = _CALL_TAG
    if not text.lstrip().startswith(opening):
        return text
    parts = [part.strip().removesuffix(closing) for part in text.split(opening)]
    return f"[{', '.join(part for part in parts if part)}]"


def _call(item: Any) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise Unusable(NOT_JSON_CALL)
    item = _without_nulls(item)
    function = item.get("function", item)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unusable(NOT_JSON_CALL)
    given = function.get("arguments", function.get("parameters", {}))
    arguments = {} if given == "" else _without_nulls(_parsed(given, NOT_JSON_CALL))
    if not isinstance(arguments, dict):
        raise Unusable(NOT_JSON_CALL)
    identity = {"id": item["id"]} if isinstance(item.get("id"), str) else {}
    return {**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def result_text(content: Any) -> Any:
    """Return the content of a result without Hermes' tags; an object or a list of values is JSON text."""
    if isinstance(content, str):
        inner = content.strip().removeprefix(_RESULT_TAG[0]).removesuffix(_RESULT_TAG[1])
        is_one = (
            len(content.strip()) - len(inner) == sum(map(len, _RESULT_TAG)) and _RESULT_TAG[0] not in inner
        )
        return inner.strip() if is_one else content
    if content is None or _are_parts(content):
        return content
    return json.dumps(content, ensure_ascii=False)


def _are_parts(content: Any) -> bool:
    parts = [content] if isinstance(content, Mapping) else content
    return (
        isinstance(parts, Sequence)
        and bool(parts)
        and all(isinstance(part, Mapping) and isinstance(part.get("type"), str) for part in parts)
    )


def _parsed(value: Any, reason: str) -> Any:
    """Return a value, or what JSON text or the text of a Python value stands for."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise Unusable(reason) from None


def _as_json(value: Any, reason: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError):  # a date, half of a surrogate pair
        raise Unusable(reason) from None
    return text


def _without_nulls(value: Any) -> Any:
    """Return a value without keys that are null: Arrow gives every object the keys of all others."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_nulls(item) for item in value]
    return value


# Rendering


def functions(messages: Sequence[Message], safe: Callable[[str], str]) -> list[Any] | None:
    """Return the tools of a conversation as `apply_chat_template(tools=...)` takes them, None without any.

    Args:
        safe: escapes the special tokens of a text.
    """
    listed = [json.loads(message["content"]) for message in messages if message["role"] == TOOLS]
    return [_mapped(tool, safe) for part in listed for tool in part] or None


def calls(message: Message, safe: Callable[[str], str], *, as_text: bool) -> list[Any]:
    """Return the calls of an answer as templates read them.

    Args:
        safe: as in `functions`.
        as_text: whether the arguments are JSON text instead of an object.
    """
    given = message[CALLS]
    found = _mapped(json.loads(given) if isinstance(given, str) else given, safe)
    if as_text:
        for call in found:
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return found


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    return [_mapped(item, change) for item in value] if isinstance(value, list) else value


def marked(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return messages in which every tool, call and result has a word that nothing else has.

    Returns:
        The messages, and {word: why the row is left out if the word is missing from the rendered text}.
    """
    words: dict[str, str] = {}

    def word(part: str) -> str:
        name = f"probe{len(words)}x"
        words[name] = part
        return name

    changed = []
    for message in messages:
        turn = dict(message)
        if message["role"] == TOOLS:
            listed = json.loads(message["content"])
            for tool in listed:
                tool["function"]["name"] = word(NO_TOOLS)
            turn["content"] = json.dumps(listed)
        elif message["role"] == TOOL:
            turn["content"] = word(NO_TURN)
        elif CALLS in message:
            if message["content"].strip():
                turn["content"] = word(UNRENDERED_TEXT)
            calls = json.loads(message[CALLS])
            for call in calls:
                call["function"] = {"name": word(NO_TURN), "arguments": {"x": word(NO_TURN)}}
            turn[CALLS] = json.dumps(calls)
        changed.append(turn)
    return changed, words
