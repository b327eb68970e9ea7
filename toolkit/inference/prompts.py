"""Prompts as token ids, with room for an answer in the context of the model."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.base.errors import ToolkitError
from toolkit.data.chat import fitting
from toolkit.data.chat.template import Message
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
    return [fitting.prompt_ids(tokenizer, prompt, max_tokens=limit) for prompt in prompts]
