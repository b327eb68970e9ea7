"""Whether chat templates render the tools of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.data.chat import template, tools
from toolkit.data.chat.messages import Message
from toolkit.data.chat.unusable import Unusable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_TEMPLATE = "a row with tools, which this stage does not read"


def require_rendered(messages: Sequence[Message], tokenizers: Sequence[PreTrainedTokenizerBase]) -> set[str]:
    """Return notes; raise Unusable unless every tokenizer's template renders all tools, calls and results.

    Many templates ignore tools, or write an empty answer where a function is called. So the words of tools,
    calls and results are replaced by unique ones, which must occur in the rendered text.
    """
    notes: set[str] = set()
    if not tools.has_tools(messages):
        return notes
    if not tokenizers:
        raise Unusable(NO_TEMPLATE)
    probes, words = tools.marked(messages)
    for tokenizer in tokenizers:
        try:
            text = template.render(tokenizer, probes, generation_prompt=False)
            template.render(tokenizer, messages, generation_prompt=False)
        except template.Refused as error:
            if _refuses_all(tokenizer):
                raise Unusable(tools.NO_TURN) from None
            raise Unusable(f"a row with tools, which the chat template refuses: {error.reason}") from None
        missing = {reason for word, reason in words.items() if word not in text}
        if reasons := missing - {tools.UNRENDERED_TEXT}:
            raise Unusable(min(reasons))
        notes |= missing
    return notes


def _refuses_all(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a template refuses even one call with its result."""
    try:
        template.render(tokenizer, _CALL_AND_RESULT, generation_prompt=False)
    except template.Refused:
        return True
    return False


_CALL_AND_RESULT = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "", tools.CALLS: tools.calls_text({"id": "call00001", "name": "f"})},
    {"role": tools.TOOL, "content": "1", "name": "f", "tool_call_id": "call00001"},
    {"role": "assistant", "content": "Hello"},
)
