"""Conversations as text and token ids: special tokens, the chat template, and truncation.

The format is `<|user|>Q<|assistant|>A<|endoftext|><|user|>...`; the generation prompt is `<|assistant|>`, so
that the ids of a prompt are a prefix of the ids of prompt and answer. Special tokens in messages are escaped
by a space (`< |assistant|>`), so that no user can insert one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from toolkit.base.errors import DataError, ToolkitError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
ROLE_TOKENS = {"user": "<|user|>", "assistant": "<|assistant|>", "system": "<|system|>"}
SPECIAL_TOKENS = (END_OF_TEXT, PAD, *ROLE_TOKENS.values())
"""In the order of their ids, from 0. Pad differs from end-of-text, because a sequence classifier pools the
last token that is not padding, which should be the end of an answer."""


def _escaped(expression: str) -> str:
    return expression + "".join(f" | replace('{token}', '{_broken(token)}')" for token in SPECIAL_TOKENS)


def _broken(token: str) -> str:
    return token[0] + " " + token[1:]


CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['content'] is not string -%}"
    "{{- raise_exception('the content of a message must be text') -}}"
    "{%- endif -%}"
    f"{{%- set text = {_escaped('message.content')} -%}}"
    "{%- if message['role'] == 'assistant' -%}"
    f"{{{{- '{ROLE_TOKENS['assistant']}' -}}}}"
    f"{{%- generation -%}}{{{{- text + '{END_OF_TEXT}' -}}}}{{%- endgeneration -%}}"
    "{%- elif message['role'] in ['user', 'system'] -%}"
    "{{- '<|' + message['role'] + '|>' + text -}}"
    "{%- else -%}"
    "{{- raise_exception('unknown role ' + message['role'] + '; known: system, user, assistant') -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    f"{{%- if add_generation_prompt -%}}{{{{- '{ROLE_TOKENS['assistant']}' -}}}}{{%- endif -%}}"
)
"""A Jinja template; the `generation` block marks the tokens of `assistant_only_loss`."""


def configure(tokenizer: PreTrainedTokenizerBase) -> int:
    """Add our chat template if there is none, and a separate pad token; return the number of tokens added.

    A tokenizer with a template keeps it. If the result is not 0, the model's embeddings must be resized.
    """
    before = len(tokenizer)
    if tokenizer.eos_token is None:
        tokenizer.add_special_tokens({"eos_token": END_OF_TEXT})
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
    if not tokenizer.chat_template:
        tokenizer.add_tokens(list(ROLE_TOKENS.values()), special_tokens=True)
        if tokenizer.eos_token != END_OF_TEXT:
            tokenizer.add_tokens([END_OF_TEXT], special_tokens=True)
            tokenizer.eos_token = END_OF_TEXT
        tokenizer.chat_template = CHAT_TEMPLATE
    return len(tokenizer) - before


def check_messages(messages: Sequence[Message], *, where: str | None = None) -> None:
    """Raise DataError unless `messages` is a list of {role, content} with supported roles and text."""
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence):
        raise DataError(
            "a conversation must be a list of messages",
            where=where,
            fix='write it as [{"role": "user", "content": "..."}, ...]',
        )
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise DataError(
                "a message must have `role` and `content`, both text",
                where=where,
                fix='write it as {"role": "user", "content": "..."}',
            )
        if message.get("role") not in ROLE_TOKENS:
            raise DataError(
                f"unknown role {message.get('role')!r}",
                where=where,
                fix=f"use one of {', '.join(sorted(ROLE_TOKENS))}",
            )


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of plain text; adds no token, and encodes `<|user|>` in it as text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of generated ids, without special tokens."""
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generation_prompt: bool
) -> str:
    """Return the conversation as one text, with special tokens in messages escaped.

    Our template escapes its own special tokens; this function escapes those of other tokenizers, too.

    Raises:
        ToolkitError: the tokenizer has no chat template.
    """
    check_messages(messages)
    special = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special and len(token.content) > 1
    ]
    safe = [
        {"role": message["role"], "content": _without(message["content"], special)} for message in messages
    ]
    if not tokenizer.chat_template:
        raise ToolkitError(
            "the tokenizer has no chat template",
            where=tokenizer.name_or_path or None,
            fix="fine-tune the model with the sft stage first, which adds one",
        )
    return tokenizer.apply_chat_template(safe, tokenize=False, add_generation_prompt=generation_prompt)


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, max_tokens: int | None = None
) -> list[int]:
    """Return the ids of messages with the generation prompt, truncated by `shorten` if necessary."""
    if max_tokens is not None:
        messages = shorten(tokenizer, messages, max_tokens=max_tokens)
    return _ids(tokenizer, render(tokenizer, messages, generation_prompt=True))


def example_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    answer: str,
    *,
    max_tokens: int | None = None,
) -> tuple[list[int], list[int]]:
    """Return (prompt ids, answer ids); the answer ends with end-of-text.

    If both exceed `max_tokens`, the prompt loses its oldest turns, down to half of `max_tokens`, then the
    answer is truncated at its end.
    """
    head = prompt_ids(tokenizer, prompt)
    tail = answer_ids(tokenizer, prompt, answer, head)
    if max_tokens is None or len(head) + len(tail) <= max_tokens:
        return head, tail
    room = max(max_tokens - len(tail), max_tokens // 2)
    head = prompt_ids(tokenizer, prompt, max_tokens=room)
    return head, tail[: max_tokens - len(head)]


def shorten(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, max_tokens: int
) -> list[Message]:
    """Return the newest turns that fit in `max_tokens`, generation prompt included.

    The oldest turns are removed first, so that the rest begins with a user's turn; a leading system message
    is kept if it fits together with the last turn. A last turn that is too long loses its beginning.
    """
    messages = list(messages)
    if len(prompt_ids(tokenizer, messages)) <= max_tokens:
        return messages
    system = messages[:1] if messages and messages[0]["role"] == "system" else []
    turns = [i for i, message in enumerate(messages) if message["role"] == "user"] or [len(messages) - 1]
    candidates = [system + messages[i:] for i in turns if i > 0] + [messages[turns[-1] :]]
    for candidate in candidates:
        if len(prompt_ids(tokenizer, candidate)) <= max_tokens:
            return candidate
    return _shorten_text(tokenizer, messages[-1], max_tokens=max_tokens)


def _shorten_text(tokenizer: PreTrainedTokenizerBase, message: Message, *, max_tokens: int) -> list[Message]:
    frame = len(prompt_ids(tokenizer, [{**message, "content": ""}]))
    if max_tokens < frame:
        raise ToolkitError(
            f"a prompt of {max_tokens} tokens has no room for its {frame} special tokens",
            fix="allow more tokens for the prompt",
        )
    ids = encode_text(tokenizer, message["content"])
    for keep in range(min(max_tokens - frame, len(ids)), 0, -1):
        # a split character decodes to U+FFFD, and the rest may encode to more ids
        text = tokenizer.decode(ids[-keep:], clean_up_tokenization_spaces=False).lstrip("\ufffd")
        shorter = [{**message, "content": text}]
        if len(prompt_ids(tokenizer, shorter)) <= max_tokens:
            return shorter
    return [{**message, "content": ""}]


def answer_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], answer: str, head: list[int]
) -> list[int]:
    """Return the ids of an answer, end-of-text included, that follow `head`, the ids of its prompt.

    Raises:
        ToolkitError: the ids of the conversation do not begin with `head`.
    """
    messages = [*prompt, {"role": "assistant", "content": answer}]
    whole = _ids(tokenizer, render(tokenizer, messages, generation_prompt=False))
    if whole[: len(head)] != head:
        raise ToolkitError(
            "the chat template renders a prompt differently once the answer follows it",
            where=tokenizer.name_or_path or None,
            fix="use a tokenizer whose prompt is a prefix of the whole conversation",
        )
    return whole[len(head) :]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _without(text: str, special: Sequence[str]) -> str:
    for token in special:
        if token in text:
            text = text.replace(token, _broken(token))
    return text
