"""What a chat template writes around each turn, found by rendering conversations with known texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from toolkit.base.errors import DataError
from toolkit.data.chat import answer_end, fitting, template
from toolkit.data.chat.dates import prints_date
from toolkit.data.chat.thoughts import Opening

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SYSTEM, _QUESTION, _ANSWER, _NEXT = "system7", "question7", "probe7", "question8"
"""Texts that no template alters."""


@dataclass(frozen=True)
class Turn:
    """The text before and after the content of a turn; either may be empty."""

    opens: str
    closes: str


@dataclass(frozen=True)
class TemplateTurns:
    """What a chat template writes.

    Attributes:
        begins: before the first turn of a conversation without a system message, such as beginning-of-text or
            a system message of the template's own.
        user, assistant: around these turns; the assistant's is the last one.
        system: around a system message, None if there is none.
        system_messages: whether the template writes them, leaves them out, or refuses the conversation.
        earlier_answer_closes: after an answer that is not the last, None if that is refused.
        generation_prompt: after a question, where a model begins to write.
        thought: the end of the generation prompt that begins a thought, or holds an empty one; None if the
            model decides.
        prints_date: whether the template prints today's date, which the toolkit fixes.
    """

    begins: str
    user: Turn
    assistant: Turn
    system: Turn | None
    system_messages: Literal["written", "left out", "refused"]
    earlier_answer_closes: str | None
    generation_prompt: str
    thought: str | None
    prints_date: bool


def turns_of(tokenizer: PreTrainedTokenizerBase) -> TemplateTurns | None:
    """Return what the chat template of a tokenizer writes, None without a template.

    Raises:
        DataError: it refuses a question and its answer, or leaves their text out.
    """
    if not tokenizer.chat_template:
        return None
    before_question, after_question = _pieces(tokenizer, ["user"], [_QUESTION])
    _, between, after_answer = _pieces(tokenizer, ["user", "assistant"], [_QUESTION, _ANSWER])
    closes_question = _common_beginning(tokenizer, after_question, between)
    earlier, opens_question = _next_turn(tokenizer, before_question, after_answer)
    begins = before_question.removesuffix(opens_question)
    system, how = _system(tokenizer, begins, opens_question)
    prompt = template.render(
        tokenizer, [{"role": "user", "content": _QUESTION}], generation_prompt=True
    ).rpartition(_QUESTION)[2]
    opening = Opening.of(prompt)
    return TemplateTurns(
        begins=begins,
        user=Turn(opens_question, closes_question),
        assistant=Turn(between.removeprefix(closes_question), after_answer),
        system=system,
        system_messages=how,
        earlier_answer_closes=earlier,
        generation_prompt=prompt.removeprefix(closes_question),
        thought=opening.text if opening else None,
        prints_date=prints_date(tokenizer.chat_template),
    )


def _common_beginning(tokenizer: PreTrainedTokenizerBase, first: str, second: str) -> str:
    """Return the tokens with which both texts begin, as text."""
    if second.startswith(first):
        return first
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (first, second)]
    common = tokenizer.decode(ids[0][: fitting.common_prefix(*ids)], clean_up_tokenization_spaces=False)
    return common if first.startswith(common) and second.startswith(common) else ""


def _next_turn(
    tokenizer: PreTrainedTokenizerBase, before_question: str, after_answer: str
) -> tuple[str | None, str]:
    """Return what closes an answer before another question, and what opens that question.

    None and the text before a first question if the template refuses such a conversation.
    """
    roles = ["user", "assistant", "user"]
    try:
        *_, between, _ = _pieces(tokenizer, roles, [_QUESTION, _ANSWER, _NEXT])
    except DataError:
        return None, before_question
    if before_question and between.endswith(before_question):
        return between.removesuffix(before_question), before_question
    if between.startswith(after_answer):
        return after_answer, between.removeprefix(after_answer)
    # gpt-oss ends the last answer with another token than the others
    end = answer_end.turn_ends_of(tokenizer).earlier
    token = "" if end is None else tokenizer.convert_ids_to_tokens(end)
    head, found, rest = between.partition(token) if token else ("", "", between)
    return head + found, rest


def _system(
    tokenizer: PreTrainedTokenizerBase, begins: str, opens_question: str
) -> tuple[Turn | None, Literal["written", "left out", "refused"]]:
    try:
        before, between, _ = _pieces(tokenizer, ["system", "user"], [_SYSTEM, _QUESTION])
    except template.Refused:
        return None, "refused"
    except DataError:
        return None, "left out"
    return Turn(before.removeprefix(begins), between.removesuffix(opens_question)), "written"


def _pieces(tokenizer: PreTrainedTokenizerBase, roles: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return what is rendered before, between and after the texts of a conversation."""
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    rest, pieces = template.render(tokenizer, messages, generation_prompt=False), []
    for role, text in zip(roles, texts, strict=True):
        piece, found, rest = rest.partition(text)
        if not found:
            raise DataError(
                f"the chat template does not write the text of the {role}",
                where=tokenizer.name_or_path or None, fix="set chat_template: chatml or toolkit",
            )  # fmt: skip
        pieces.append(piece)
    return [*pieces, rest]
