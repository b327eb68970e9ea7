"""Conversations as token ids: prompts and answers that fit into a number of tokens, and what is learned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.base.errors import DataError, ToolkitError
from toolkit.data.chat import thoughts, tools
from toolkit.data.chat.answer_end import require_answers, turn_ends_of
from toolkit.data.chat.template import (
    Message,
    RenderedDifferently,
    encode_text,
    render,
    rendered_ids,
    special_tokens,
    without_special,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, max_tokens: int | None = None
) -> list[int]:
    """Return the ids of messages with the generation prompt, truncated by `shorten` if necessary."""
    if max_tokens is not None:
        messages = shorten(tokenizer, messages, max_tokens=max_tokens)
    return rendered_ids(tokenizer, render(tokenizer, messages, generation_prompt=True))


def prompts_that_fit(
    tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Sequence[Message]], *, max_tokens: int, count: int
) -> list[tuple[Sequence[Message], list[int]]]:
    """Return the first `count` prompts with their ids, without conversations with tools that are too long."""
    found: list[tuple[Sequence[Message], list[int]]] = []
    for messages in prompts:
        if len(found) == count:
            break
        with suppress(TooLong):
            found.append((messages, prompt_ids(tokenizer, messages, max_tokens=max_tokens)))
    return found


def example_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    answer: str | Message,
    *,
    max_tokens: int | None = None,
) -> tuple[list[int], list[int]]:
    """Return (prompt ids, answer ids) of `fitted_example`."""
    example = fitted_example(tokenizer, prompt, answer, max_tokens=max_tokens)
    return example.prompt, example.answer


@dataclass(frozen=True)
class FittedExample:
    """Token ids of a prompt and its answer within a limit, and what was removed for it.

    `messages` are those of the prompt that are left.
    """

    messages: Sequence[Message]
    prompt: list[int]
    answer: list[int]
    is_shortened: bool = False
    is_cut: bool = False


def fitted_example(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    answer: str | Message,
    *,
    max_tokens: int | None = None,
) -> FittedExample:
    """Return the ids of a prompt and its answer, which ends with `turn_end_id`.

    Where the tokenizer merges the end of the prompt with the beginning of the answer, the token of both
    belongs to the answer. If both exceed `max_tokens`, the prompt loses its oldest turns, down to half of
    `max_tokens`, then the answer is truncated at its end.

    Raises:
        RenderedDifferently: the text of the prompt is no prefix of the text with the answer.
        ToolkitError: no token ends the answer.
    """
    head, tail = _split(tokenizer, prompt, answer)
    if max_tokens is None or len(head) + len(tail) <= max_tokens:
        return FittedExample(prompt, head, tail)
    room = max(max_tokens - len(tail), max_tokens // 2)
    if is_shortened := len(head) > room:
        prompt = shorten(tokenizer, prompt, max_tokens=room)
        head, tail = _split(tokenizer, prompt, answer)
    kept = tail[: max_tokens - len(head)]
    return FittedExample(prompt, head, kept, is_shortened, is_cut=len(kept) < len(tail))


def _split(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], answer: str | Message
) -> tuple[list[int], list[int]]:
    turn = {"role": "assistant", **({"content": answer} if isinstance(answer, str) else answer)}
    before = render(tokenizer, prompt, generation_prompt=True)
    head, opening = rendered_ids(tokenizer, before), thoughts.Opening.of(before)
    text = _with_answer(tokenizer, prompt, turn, before)
    whole = rendered_ids(tokenizer, text)
    if opening is not None and text.startswith(before) and whole[: len(head)] != head:
        # the line breaks around an empty thought would merge; sampling begins after that of the prompt
        whole = head + rendered_ids(tokenizer, text.removeprefix(before))
    head = whole[: common_prefix(head, whole)]
    tail, ends = whole[len(head) :], turn_ends_of(tokenizer)
    end = ends.last
    if end not in tail or ends.beginning:
        require_answers(tokenizer)
        raise DataError(
            f"the chat template does not end an answer with {tokenizer.decode([end])!r}, as it usually does",
            where=tokenizer.name_or_path or None,
            fix="set chat_template: chatml or toolkit",
        )
    return head, tail[: tail.index(end) + 1]


def _with_answer(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], turn: Message, before: str
) -> str:
    """Return the text of a prompt and its answer, as a model writes it after the generation prompt `before`.

    If the generation prompt begins a thought that the template does not render in the same way, the text is
    put together from the generation prompt, the thought, and the rendered answer.
    """
    turn = without_special(turn, special_tokens(tokenizer))
    opening = thoughts.Opening.of(before) or thoughts.Opening.within(turn)
    text = render(tokenizer, [*prompt, turn], generation_prompt=False)
    if opening is None and text.startswith(before):
        return text
    if opening is not None:
        header = before.removesuffix(opening.text)
        rest = text.removeprefix(header)
        if opening.is_closed and text.startswith(header):
            # the prompt holds an empty thought; if the answer has one, it takes its place
            return text if rest.startswith(opening.tag) else before + rest
        thought, answer = opening.divided(turn)
        reasoning = {"reasoning_content": thought} if thought else {}
        for candidate in [{**answer, **reasoning}] if opening.text else [turn, {**answer, **reasoning}]:
            text = render(tokenizer, [*prompt, candidate], generation_prompt=False)
            if text.startswith(before) and opening.holds(text.removeprefix(before), thought):
                return text
        text = render(tokenizer, [*prompt, answer], generation_prompt=False)
        if text.startswith(header):
            return before + opening.continued(thought, text.removeprefix(header))
    raise RenderedDifferently(
        "the chat template renders a prompt differently once the answer follows it",
        where=tokenizer.name_or_path or None,
        fix="set chat_template: chatml or toolkit",
    )


def learned_spans(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], ids: Sequence[int]
) -> list[slice]:
    """Return where in the ids of a conversation its answers are, each with the token that ends it.

    A token that ends only earlier answers (`<|end|>` of gpt-oss, whose last answer ends with `<|return|>`) is
    left out: a model that learned it would not stop.

    Args:
        messages: the turns before the last answer; those with `learned: False`, and those before the first
            request, are left out.
        ids: of the whole conversation, (length,).

    Raises:
        RenderedDifferently: the template renders the beginning of a conversation differently once more
            turns follow.
    """
    spans, ends = [], turn_ends_of(tokenizer)
    for index, message in enumerate(messages):
        is_answer = message["role"] == "assistant" and any(
            turn["role"] == "user" for turn in messages[:index]
        )
        if not is_answer or message.get("learned") is False:
            continue
        context = prompt_ids(tokenizer, messages[:index])
        start = common_prefix(context, ids)
        # one token may merge with the answer, and templates leave out what begins a thought
        is_prefix = len(context) - start <= 1 or thoughts.is_remainder(tokenizer.decode(context[start:]))
        if not is_prefix or ends.earlier not in ids[start:]:
            raise RenderedDifferently(
                "the chat template renders a turn differently once more turns follow it",
                where=tokenizer.name_or_path or None,
                fix="set multi_turn: last, which learns the last answer only, or another chat_template",
            )
        spans.append(slice(start, ids.index(ends.earlier, start) + (ends.earlier == ends.last)))
    return spans


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of tokens with which both begin."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


class TooLong(ToolkitError):
    """A conversation cannot be shortened to a number of tokens."""


def shorten(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, max_tokens: int
) -> list[Message]:
    """Return the newest turns that fit in `max_tokens`, generation prompt included.

    The oldest turns are removed first, so that the rest begins with a user's turn; a leading system message
    is kept if it fits together with the last turn. A last turn that is too long loses its beginning.

    Raises:
        TooLong: a conversation with tools, whose tools and turns since the last request do not fit: an answer
            that calls a function, or uses its result, must not be learned without them.
    """
    messages = list(messages)
    if len(prompt_ids(tokenizer, messages)) <= max_tokens:
        return messages
    has_tools = tools.has_tools(messages)
    system = [message for message in messages[:2] if message["role"] in ("system", tools.TOOLS)]
    turns = [i for i, message in enumerate(messages) if message["role"] == "user"] or [len(messages) - 1]
    candidates = [system + messages[i:] for i in turns if i > 0]
    if not has_tools:
        candidates.append(messages[turns[-1] :])
    for candidate in candidates:
        if len(prompt_ids(tokenizer, candidate)) <= max_tokens:
            return candidate
    if has_tools:
        raise TooLong(
            f"a conversation with tools has more than {max_tokens} tokens since its last request",
            fix="allow more tokens, or remove the row",
        )
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
