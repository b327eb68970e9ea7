"""Prompts as token ids, with room for an answer in the context of the model."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.base.errors import ToolkitError
from toolkit.data.chat import template
from toolkit.data.chat.template import Message
from toolkit.inference.opening import OpenModel
from toolkit.models.context_length import context_length


def encode_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[Message]],
    *,
    max_prompt_tokens: int,
    max_new_tokens: int,
) -> list[list[int]]:
    """Encode prompts in the chat template; prompts that are too long lose their oldest turns.

    Args:
        max_prompt_tokens: upper limit of a prompt; the context minus `max_new_tokens` is another one.

    Raises:
        ToolkitError: there is no chat template, or answers of `max_new_tokens` leave no room for a prompt.
    """
    limit, positions = max_prompt_tokens, context_length(model)
    if positions is not None:
        limit = min(limit, positions - max_new_tokens)
    if limit < 1:
        raise ToolkitError(
            f"answers of {max_new_tokens} tokens leave no room for a prompt in {positions} positions",
            where="max_new_tokens",
            fix="lower it",
        )
    return [template.prompt_ids(tokenizer, prompt, max_tokens=limit) for prompt in prompts]


def conversation_ids(opened: OpenModel, messages: Sequence[Message]) -> list[int]:
    """Return the ids of a conversation; of its text alone where the model has no chat template."""
    if opened.tokenizer.chat_template:
        return opened.chat_ids([dict(message) for message in messages])
    return opened.text_ids("".join(message["content"] for message in messages if message["role"] != "system"))


def fitted_conversation(
    opened: OpenModel, messages: Sequence[Message], *, max_new_tokens: int
) -> tuple[list[int], int]:
    """Return the ids of a conversation, and how many of its oldest turns do not fit the context.

    A quarter of the context, or less where the answer may not be so long, is kept free for the answer. System
    messages at the beginning stay, and are not counted.

    Raises:
        ToolkitError: the last message of the user does not fit the context.
    """
    positions = opened.context_length
    reserve = 0 if positions is None else max(1, min(max_new_tokens, positions // 4))
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns, ids = list(messages[len(system) :]), []
    for start in [i for i, message in enumerate(turns) if message["role"] == "user"] or [0]:
        ids = conversation_ids(opened, [*system, *turns[start:]])
        if positions is None or len(ids) + reserve <= positions:
            return ids, start
    room = (positions or 0) - reserve
    raise ToolkitError(
        f"the message is too long: {len(ids)} tokens, the model takes {room} beside its answer",
        fix="say it in fewer words",
    )
