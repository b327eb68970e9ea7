"""What a chat template writes around turns, in the formats of widespread checkpoints."""

from __future__ import annotations

import copy

import pytest

from tests.data.chat_templates import FORMATS
from toolkit.base.errors import DataError
from toolkit.data.chat import template
from toolkit.data.chat.turns import Turn, turns_of

WITHIN_THE_QUESTION = ("gemma3",)
"""Formats that write a system message at the beginning of the question."""
QUESTION, ANSWER, SYSTEM = "What does a fox eat?", "Mice.", "Answer in a word."


def rendered(tokenizer, *turns, **options):
    messages = [{"role": role, "content": text} for role, text in turns]
    return template.render(tokenizer, messages, **options)


@pytest.mark.parametrize("name", FORMATS)
def test_the_parts_of_a_template_make_up_what_it_renders(name):
    tokenizer = FORMATS[name].tokenizer()
    turns = turns_of(tokenizer)
    question = turns.begins + turns.user.opens + QUESTION + turns.user.closes
    answer = turns.assistant.opens + ANSWER + turns.assistant.closes
    conversation = [("user", QUESTION), ("assistant", ANSWER)]
    assert rendered(tokenizer, *conversation, generation_prompt=False) == question + answer
    prompt = rendered(tokenizer, ("user", QUESTION), generation_prompt=True)
    assert prompt == question + turns.generation_prompt
    longer = rendered(tokenizer, *conversation, ("user", QUESTION), generation_prompt=False)
    assert f"{ANSWER}{turns.earlier_answer_closes}{turns.user.opens}{QUESTION}" in longer


@pytest.mark.parametrize("name", FORMATS)
def test_system_messages_are_written_or_refused(name):
    tokenizer = FORMATS[name].tokenizer()
    turns = turns_of(tokenizer)
    assert (turns.system_messages == "written") == FORMATS[name].takes_system == (turns.system is not None)
    if turns.system:
        text = rendered(tokenizer, ("system", SYSTEM), ("user", QUESTION), generation_prompt=False)
        opens = turns.user.opens if name not in WITHIN_THE_QUESTION else ""
        assert f"{turns.system.opens}{SYSTEM}{turns.system.closes}{opens}{QUESTION}" in text


@pytest.mark.parametrize(
    ("name", "thought"),
    [
        ("qwen3.5", "<think>\n"),
        ("r1", "<think>\n"),
        ("no thought", "<think>\n\n</think>\n\n"),
        ("gemma", None),
    ],
)
def test_a_thought_in_the_generation_prompt_is_found(name, thought):
    turns = turns_of(FORMATS[name].tokenizer())
    assert turns.thought == thought
    assert turns.generation_prompt.endswith(thought or "model\n")


def test_chatml_has_its_published_tokens_and_a_system_message_of_its_own():
    turns = turns_of(FORMATS["smollm2"].tokenizer())
    assert turns.begins == "<|im_start|>system\nBe kind<|im_end|>\n"
    assert turns.user == Turn("<|im_start|>user\n", "<|im_end|>\n")
    assert turns.assistant == Turn("<|im_start|>assistant\n", "<|im_end|>\n")


@pytest.mark.parametrize(
    ("name", "user", "assistant"),
    [
        # alone, a question of Phi-3 is followed by end-of-text, which is no part of its turn
        ("phi3", Turn("<|user|>\n", "<|end|>\n"), Turn("<|assistant|>\n", "<|end|>\n<|endoftext|>")),
        (
            "llama3",
            Turn("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
            Turn("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        ),
        (
            "gemma",
            Turn("<start_of_turn>user\n", "<end_of_turn>\n"),
            Turn("<start_of_turn>model\n", "<end_of_turn>\n"),
        ),
        ("mistral", Turn("[INST] ", " [/INST]"), Turn(" ", "</s>")),
    ],
)
def test_turns_have_their_published_tokens(name, user, assistant):
    turns = turns_of(FORMATS[name].tokenizer())
    assert (turns.user, turns.assistant) == (user, assistant)


def test_the_last_answer_may_close_otherwise_and_a_date_is_named():
    turns = turns_of(FORMATS["gpt-oss"].tokenizer())
    assert (turns.assistant.closes, turns.earlier_answer_closes) == ("<|return|>", "<|end|>")
    assert turns.prints_date and not turns_of(FORMATS["gemma"].tokenizer()).prints_date


def test_a_system_message_may_be_left_out_and_a_second_question_refused(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% if messages | length > 2 and messages[0].role == 'user' %}{{ raise_exception('one question') }}"
        "{% endif %}{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    )
    turns = turns_of(tokenizer)
    assert (turns.system, turns.system_messages, turns.earlier_answer_closes) == (None, "left out", None)


def test_a_template_without_the_answer_is_refused_and_none_is_none(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(DataError, match="does not write the text of the assistant"):
        turns_of(tokenizer)
    tokenizer.chat_template = None
    assert turns_of(tokenizer) is None
