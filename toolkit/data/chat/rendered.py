"""Whether chat templates render all turns of a conversation.

Many templates refuse system messages or two turns of a user in a row, leave out tools or system messages, or
write an empty answer where a function is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from toolkit.data.chat import template, tools
from toolkit.data.chat.messages import Message, plain
from toolkit.data.chat.unusable import Unusable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_TEMPLATE = "a row with tools, which this stage does not read"
SPELLED_TOKEN = (
    "a message spells a special token of the model; a space is written into it, so that it stays text"
)
_notes: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, dict[tuple[str, ...], set[str]]]] = (
    WeakKeyDictionary()
)
"""The notes of conversations whose turns have these roles, and the template that they hold for."""


def require_rendered(messages: Sequence[Message], tokenizers: Sequence[PreTrainedTokenizerBase]) -> set[str]:
    """Return notes about turns that a template leaves out.

    Raises:
        Unusable: a row with tools, of which a template does not render all tools, calls and results.
        Refused: a template refuses the roles of another row.
    """
    if tools.has_tools(messages):
        return _require_tools(messages, tokenizers)
    notes: set[str] = set()
    for tokenizer in tokenizers:
        if tokenizer.chat_template:
            notes |= _notes_of(tokenizer, messages)
            if template.spells_special_token(tokenizer, messages):
                notes.add(SPELLED_TOKEN)
    return notes


def are_alike(
    prompt: Sequence[Message],
    answers: tuple[Sequence[Message], Sequence[Message]],
    tokenizers: Sequence[PreTrainedTokenizerBase],
) -> bool:
    """Return whether a template renders two answers to a prompt in the same way.

    Templates that strip white space (Gemma, Llama 3) do so with answers that differ in nothing else.
    """
    first, second = answers
    if plain(first) != plain(second):
        return False
    return any(
        template.render(tokenizer, [*prompt, *first], generation_prompt=False)
        == template.render(tokenizer, [*prompt, *second], generation_prompt=False)
        for tokenizer in tokenizers
        if tokenizer.chat_template
    )


def _notes_of(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> set[str]:
    """Return the roles whose text a template leaves out, in words; the same for all rows with these roles."""
    if tokenizer not in _notes or _notes[tokenizer][0] != tokenizer.chat_template:
        _notes[tokenizer] = tokenizer.chat_template, {}
    known, roles = _notes[tokenizer][1], tuple(message["role"] for message in messages)
    if roles not in known:
        is_prompt = roles[-1] != "assistant"
        # The real texts are rendered first, so that a refusal says how this conversation begins.
        template.render(tokenizer, messages, generation_prompt=is_prompt)
        known[roles] = set()
        probes = [{"role": role, "content": f"probe{number}x"} for number, role in enumerate(roles)]
        with suppress(template.Refused):  # a template that reads the texts
            text = template.render(tokenizer, probes, generation_prompt=is_prompt)
            known[roles] = {
                f"the chat template leaves out a turn of the role {probe['role']!r}"
                for probe in probes
                if probe["content"] not in text
            }
    return known[roles]


def _require_tools(messages: Sequence[Message], tokenizers: Sequence[PreTrainedTokenizerBase]) -> set[str]:
    """Return notes; the words of tools, calls and results are replaced by unique ones, which must occur."""
    if not tokenizers:
        raise Unusable(NO_TEMPLATE)
    notes: set[str] = set()
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
