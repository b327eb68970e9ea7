"""How a chat template ends answers: the tokens, whether a model can learn them, and sampled answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from toolkit.base.errors import DataError, ToolkitError
from toolkit.data.chat import thoughts
from toolkit.data.chat.template import PROBE, Refused, render, rendered_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NEXT = "probe8"
"""The request after an answer."""
_turn_ends: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, TurnEnds]] = WeakKeyDictionary()


@dataclass(frozen=True)
class TurnEnds:
    """What the chat template writes around an answer.

    Attributes:
        last, earlier: the token that follows an answer, as the last turn and before the next turn; None if
            there is none.
        beginning: what precedes an answer though no generation prompt has it, such as the name of a role.
    """

    last: int | None
    earlier: int | None
    beginning: str


def marker_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the special and added tokens that the chat template writes around a question and its answer."""
    probe = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": PROBE}]
    ids = rendered_ids(tokenizer, render(tokenizer, probe, generation_prompt=False))
    return {*ids} & {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}


def require_answers(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ToolkitError unless the chat template lets a model begin and end an answer.

    It must end an answer with a special token, and have a generation prompt if it begins an answer with
    anything, such as the name of a role, which a model would otherwise write as part of its answers.
    """
    if turn_end_id(tokenizer) is None:
        after, earlier = _after_answer(tokenizer), turn_ends_of(tokenizer).earlier
        what = f"the chat template writes {after!r} after an answer, which contains no special token"
        if earlier is not None and not after.strip():  # as in GLM's
            what = (
                "the chat template ends no answer: nothing follows the last one, and only the next turn "
                f"({tokenizer.convert_ids_to_tokens(earlier)}) shows where an earlier one ends"
            )
        raise ToolkitError(
            f"{what}: a model would never learn to stop",
            where=tokenizer.name_or_path or None,
            fix=f"set chat_template: chatml or toolkit, or end the answers with {tokenizer.eos_token}",
        )
    if beginning := turn_ends_of(tokenizer).beginning:
        raise ToolkitError(
            f"the chat template has no generation prompt, and begins an answer with {beginning!r}: a model "
            "would write this as part of its answers",
            where=tokenizer.name_or_path or None,
            fix="set chat_template: chatml or toolkit, or write this if `add_generation_prompt` is true",
        )


def turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token with which the chat template ends an answer, None if it ends it with no token.

    It is the first special or added token after an answer: end-of-text in the toolkit's template,
    `<|im_end|>` in ChatML, whatever the tokenizer's `eos_token` is.

    Raises:
        DataError: the template refuses a question and its answer, or does not write the answer.
    """
    return turn_ends_of(tokenizer).last


def turn_ends_of(tokenizer: PreTrainedTokenizerBase) -> TurnEnds:
    """Return the tokens with which the chat template ends answers; errors as `turn_end_id`."""
    state = (tokenizer.chat_template, len(tokenizer), tokenizer.eos_token_id)
    if tokenizer not in _turn_ends or _turn_ends[tokenizer][0] != state:
        last = _first_added_token(tokenizer, _after_answer(tokenizer))
        earlier = last
        with suppress(DataError):  # a template for single questions
            after = _after_answer(tokenizer, is_last=False)
            # Not what ends the whole conversation, in a template that ends no earlier answer.
            earlier = _first_added_token(tokenizer, after.partition(_NEXT)[0])
        _turn_ends[tokenizer] = state, TurnEnds(last, earlier, _unprompted_beginning(tokenizer))
    return _turn_ends[tokenizer][1]


def _unprompted_beginning(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what a template without a generation prompt begins an answer with, apart from white space."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": PROBE}]
    try:
        prompted, question = (
            render(tokenizer, turns[:1], generation_prompt=generation_prompt)
            for generation_prompt in (True, False)
        )
    except Refused:  # a template for whole conversations
        return ""
    answered = render(tokenizer, turns, generation_prompt=False)
    if prompted != question or not answered.startswith(question):
        return ""
    beginning = answered.removeprefix(question).partition(PROBE)[0]
    return "" if thoughts.is_remainder(beginning) else beginning


def _first_added_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    added = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return next((token for token in rendered_ids(tokenizer, text) if token in added), None)


def end_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that ends an answer: `turn_end_id`, or end-of-text where no template names one."""
    found = None
    if tokenizer.chat_template:
        with suppress(DataError):  # it refuses even one question and its answer
            found = turn_end_id(tokenizer)
    return tokenizer.eos_token_id if found is None else found


def _after_answer(tokenizer: PreTrainedTokenizerBase, *, is_last: bool = True) -> str:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": PROBE}]
    turns += [] if is_last else [{"role": "user", "content": _NEXT}]
    try:
        text = render(tokenizer, turns, generation_prompt=False)
    except Refused as error:
        raise DataError(
            f"the chat template refuses the conversation of one question and its answer: {error.reason}",
            where=error.where,
            fix="set chat_template: chatml or toolkit, or mend the template",
        ) from None
    _, probe, after = text.rpartition(PROBE)
    if not probe:
        raise DataError(
            "the chat template does not write the text of an answer",
            where=tokenizer.name_or_path or None,
            fix="set chat_template: chatml or toolkit",
        )
    return after


_LONGEST_OPENING = 16
"""Tokens at the end of a prompt in which a thought may begin."""


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of generated ids, without special tokens; tags of thoughts stay."""
    added = tokenizer.added_tokens_encoder
    tags = {added[tag] for tag in thoughts.WRITTEN_BY_MODELS if tag in added}
    if tags.isdisjoint(ids):
        return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    special = set(tokenizer.all_special_ids) - tags
    return tokenizer.decode([i for i in ids if i not in special], clean_up_tokenization_spaces=False)


def is_unfinished(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], answer: str) -> bool:
    """Return whether an answer to a prompt ends within its thought (see `thoughts.is_unfinished`)."""
    end = tokenizer.decode(list(prompt[-_LONGEST_OPENING:]), clean_up_tokenization_spaces=False)
    return thoughts.is_unfinished(end, answer)
