"""Conversations as plain text, for pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.config.schema import DataSource
from toolkit.data.chat import columns, split_key, tools
from toolkit.data.chat.formats import RowFormat, Unusable

_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}


def text_column(source: DataSource) -> str:
    """Return the column of plain text."""
    return source.field or columns.names_of(source).get("text", "text")


def as_text(
    row: Mapping[str, Any], source: DataSource, *, location: str, row_format: RowFormat | None = None
) -> tuple[str, str] | None:
    """Return (text, key of its part) of a row with a conversation, None for a row with a column of text.

    The text has hh-rlhf's format, `Human: ...`, a blank line, `Assistant: ...`; role tokens are only used in
    fine-tuning.

    Args:
        row_format: of the source; counts what is not read.

    Raises:
        Unusable: there is no answer, or there are tools, or an answer that must not be learned, which plain
            text cannot say.
        DataError: a column of another type.
    """
    names = columns.names_of(source)
    if source.field or "text" in names or (not names and row.get("text") is not None):
        return None
    row_format = row_format or RowFormat(source)
    if not row_format.holds_conversation(row, location=location):
        return None
    messages = row_format.conversation(row, location=location)
    if tools.has_tools(messages):
        raise Unusable("a row with tools, which plain text does not show")
    if not all(message.get("learned", True) for message in messages):
        raise Unusable("an answer has weight 0, which plain text would teach")
    text = "\n\n".join(f"{_SPEAKERS[message['role']]}: {message['content']}" for message in messages)
    return text, split_key.of_source(source).of(messages[:-1])
