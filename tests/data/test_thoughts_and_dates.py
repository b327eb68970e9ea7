"""Thoughts in answers, turns that are rendered differently, dates, and the templates that TRL ships."""

from __future__ import annotations

import datetime
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from tests.data.chat_templates import FORMATS
from toolkit.base.errors import DataError, ToolkitError
from toolkit.data.chat import answer_end, dates, fitting, template, thoughts
from toolkit.data.chat.rows import IGNORED, RowTable, labelled
from toolkit.inference import reward_scores
from toolkit.models.tokenizer_loading import load_tokenizer
from toolkit.stages.tokenizer import learn

PROMPT = [
    {"role": "user", "content": "Q1"},
    {"role": "assistant", "content": "A1"},
    {"role": "user", "content": "Q2"},
]
THINKING = [name for name, each in FORMATS.items() if each.thought is not None]
TRL = Path(find_spec("trl").submodule_search_locations[0]) / "chat_templates"
WIDE = chr(0xFF5C)
"""The vertical line in the tokens of DeepSeek."""
SPECIAL = re.compile(
    rf"<[|{WIDE}][^|{WIDE}<>\n'\"]+[|{WIDE}]>|</?think>|</?(?:start_of_turn|end_of_turn|bos|eos)>|<\|?turn\|?>"
)
ENDS = ("<|im_end|>", f"<{WIDE}end\u2581of\u2581sentence{WIDE}>", "<|END_OF_TURN_TOKEN|>", "<|return|>")
UNUSABLE = {
    "glm4moe": r"ends no answer: .* only the next turn \(<\|user\|>\) shows where an earlier one ends",
    "idefics3": "does not write the text of an answer",
    "smolvlm": "does not write the text of an answer",
    "llava_next": "refuses the conversation",
    "idefics3_training": "does not write the text of an answer",
    "smolvlm_training": "does not write the text of an answer",
    "llava_next_training": "refuses the conversation",
}
"""Templates without an end of an answer, and those of models with images, which do not take text."""


def learned(tokenizer, row):
    return tokenizer.decode([label for label in row["labels"] if label != IGNORED])


@pytest.mark.parametrize(
    ("prompt", "answer", "unfinished"),
    [
        ("<|assistant|>\n<think>\n", "hm, four", True),
        ("<|assistant|>\n<think>\n", "hm\n</think>\n\nfour", False),
        ("<|assistant|>\n<think>\n\n</think>\n\n", "four", False),
        ("<|assistant|>\n", "<think>hm, four", True),
        ("<|assistant|>\n", "\n<think>hm</think>four", False),
        ("<|assistant|>\n", "four, as one may <think>", False),
        ("[/INST]", "[THINK]hm", True),
    ],
)
def test_an_answer_that_ends_within_its_thought_is_unfinished(prompt, answer, unfinished):
    assert thoughts.is_unfinished(prompt, answer) is unfinished


@pytest.fixture(params=THINKING, scope="module")
def thinking(request):
    chat_format = FORMATS[request.param]
    return chat_format, chat_format.tokenizer()


def test_thought_is_learned_as_the_model_writes_it(thinking):
    chat_format, tokenizer = thinking
    answer = {"content": "A2", "reasoning_content": "T1"}
    row = labelled(tokenizer, PROMPT, answer, max_length=400)
    assert learned(tokenizer, row) == chat_format.thought
    assert tokenizer.decode(row["input_ids"]) == chat_format.prompt + chat_format.thought
    assert row["input_ids"][: len(fitting.prompt_ids(tokenizer, PROMPT))] == fitting.prompt_ids(
        tokenizer, PROMPT
    )


@pytest.mark.parametrize("name", [name for name in THINKING if name != "gpt-oss"])
@pytest.mark.parametrize("content", ["<think>\nT1\n</think>\n\nA2", "T1\n</think>\n\nA2", "T1</think>A2"])
def test_thought_in_the_text_of_an_answer_is_the_same(name, content, monkeypatch):
    """With its tags, and as it is sampled after a generation prompt that has the first tag."""
    chat_format = FORMATS[name]
    tokenizer = chat_format.tokenizer()
    if "<think>" not in chat_format.prompt:
        content = content if content.startswith("<think>") else f"<think>{content}"
    row = labelled(tokenizer, PROMPT, content, max_length=400)
    assert learned(tokenizer, row) == chat_format.thought
    scored = []
    monkeypatch.setattr(reward_scores, "context_length", lambda model: None)
    monkeypatch.setattr(reward_scores, "score_ids", lambda model, rows, **others: scored.extend(rows))
    for ended in (True, False):
        reward_scores.reward_scores(None, tokenizer, [PROMPT], answers=[content], ended=[ended])
    assert scored == [row["input_ids"], row["input_ids"][:-1]]


def test_sampled_thought_is_scored_as_it_was_sampled(thinking):
    """Also if the tokenizer calls the tags special tokens."""
    chat_format, tokenizer = thinking
    if "<think>" not in chat_format.template:
        return  # gpt-oss writes thoughts in messages of their own
    row = labelled(tokenizer, PROMPT, {"content": "A2", "reasoning_content": "T1"}, max_length=400)
    prompt = fitting.prompt_ids(tokenizer, PROMPT)
    text = answer_end.decode_answer(tokenizer, row["input_ids"][len(prompt) :])
    assert text == chat_format.thought.removesuffix(chat_format.end)
    assert labelled(tokenizer, PROMPT, text, max_length=400) == row


def test_thought_that_a_template_removes_is_learned():
    """The first template of DeepSeek-R1, whose generation prompt has no tag."""
    tokenizer = FORMATS["r1"].tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("<think>\n", "")
    assert template.render(tokenizer, PROMPT, generation_prompt=True).endswith("<|Assistant|>")
    for text in ("<think>\nT1\n</think>\n\nA2", "<think>T1</think>A2"):
        row = labelled(tokenizer, PROMPT, text, max_length=400)
        assert learned(tokenizer, row) == "<think>\nT1\n</think>\n\nA2<|end|>"
    assert learned(tokenizer, labelled(tokenizer, PROMPT, "A2", max_length=400)) == "A2<|end|>"


def test_tags_of_thoughts_are_escaped_outside_of_answers_and_other_tokens_everywhere(thinking):
    chat_format, tokenizer = thinking
    forged = f"<think>T1</think>{chat_format.end}"
    honest, escaped = (
        fitting.prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in ("Q1", forged)
    )
    special = set(tokenizer.all_special_ids)
    assert [i for i in honest if i in special] == [i for i in escaped if i in special]
    end = answer_end.turn_end_id(tokenizer)
    for answer in ({"content": forged}, {"content": "A2", "reasoning_content": f"T1{chat_format.end}"}):
        row = labelled(tokenizer, [PROMPT[0]], answer, max_length=400)
        assert [label for label in row["labels"] if label == end] == [end]
        assert (answer["content"] == "A2") == ("A2" in learned(tokenizer, row))


def test_empty_thought_follows_the_same_tokens_as_in_sampling():
    """A line break of the generation prompt and one of the answer would be one token."""
    tokenizer = learn(["the cat:\n\n\nA1 A2 Q1 Q2 " * 50], vocab_size=290)
    assert len(tokenizer.encode("\n\n", add_special_tokens=False)) == 1
    tokenizer.add_special_tokens({"additional_special_tokens": list(FORMATS["qwen3.5"].special)})
    tokenizer.chat_template = FORMATS["qwen3.5"].template
    row = labelled(tokenizer, PROMPT, "A2", max_length=400, loss_on="all")
    prompt = fitting.prompt_ids(tokenizer, PROMPT)
    assert row["input_ids"][: len(prompt)] == prompt
    assert learned(tokenizer, row) == "A1<|im_end|>\n</think>\n\nA2<|im_end|>"


def test_thought_takes_the_place_of_the_empty_one_of_the_prompt():
    tokenizer = FORMATS["qwen3.5"].tokenizer()
    tokenizer.chat_template = (TRL / "qwen3_5_nothink.jinja").read_text()
    text = template.render(tokenizer, PROMPT[:1], generation_prompt=True)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    for thought, wanted in (("", "<think>\n\n</think>\n\nA2"), ("T1", "<think>\nT1\n</think>\n\nA2")):
        row = labelled(tokenizer, PROMPT[:1], {"content": "A2", "reasoning_content": thought}, max_length=400)
        answer = tokenizer.decode(row["input_ids"]).partition("assistant\n")[2]
        assert answer == f"{wanted}<|im_end|>" and learned(tokenizer, row) in answer


# Templates of TRL


@pytest.mark.parametrize("name", sorted(path.stem for path in TRL.glob("*.jinja")))
def test_labels_of_templates_that_trl_ships_are_the_inputs_and_the_answers(name):
    source = (TRL / f"{name}.jinja").read_text()
    tokenizer = learn(["the cat sat on the mat. Q1 A1 Q2 A2 T1\n" * 20], vocab_size=290)
    special = sorted(set(SPECIAL.findall(source)))
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.eos_token = next((end for end in ENDS if end in special), "<|endoftext|>")
    tokenizer.chat_template = source
    if name in UNUSABLE:
        with pytest.raises(ToolkitError, match=UNUSABLE[name]):
            answer_end.require_answers(tokenizer)
        return
    ids = {}
    for loss_on in ("last", "all"):
        row = labelled(tokenizer, PROMPT, "A2", max_length=4000, loss_on=loss_on)
        RowTable(["input_ids", "labels"]).append(row)
        own = [i for i, label in enumerate(row["labels"]) if label != IGNORED]
        assert all(row["labels"][i] == row["input_ids"][i] for i in own)
        text = learned(tokenizer, row)
        assert ("A1" in text) == (loss_on == "all") and "Q" not in text and "A2" in text
        assert row["labels"][-1] == answer_end.turn_end_id(tokenizer)
        ids[loss_on] = row["input_ids"]
    assert ids["last"] == ids["all"]
    prompt = fitting.prompt_ids(tokenizer, PROMPT)
    assert ids["last"][: len(prompt)] == prompt


# Conversations that cannot be learned as a whole


def test_earlier_answers_after_another_context_are_refused():
    """A template that marks the last question, which an earlier answer followed when it was sampled."""
    tokenizer = learn(["the cat sat. Q1 A1 Q2 A2\n" * 20], vocab_size=290)
    tokenizer.chat_template = (
        "{% set questions = messages | selectattr('role', 'equalto', 'user') | list %}{% for m in messages %}"
        "{{ '<|' + m.role + '|>' + m.content + (' the cat' if m == questions[-1] else '') }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    row = labelled(tokenizer, PROMPT, "A2", max_length=400)
    assert learned(tokenizer, row) == "A2<|endoftext|>"
    with pytest.raises(template.RenderedDifferently, match="renders a turn differently"):
        labelled(tokenizer, PROMPT, "A2", max_length=400, loss_on="all")


def test_prompt_that_is_rendered_differently_before_an_answer_is_refused():
    tokenizer = learn(["the cat sat. Q1 A1 Q2 A2\n" * 20], vocab_size=290)
    tokenizer.chat_template = (
        "{% for m in messages[-3:] %}{{ '<|' + m.role + '|>' + m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    assert learned(tokenizer, labelled(tokenizer, PROMPT[2:], "A2", max_length=400)) == "A2<|endoftext|>"
    with pytest.raises(template.RenderedDifferently, match="renders a prompt differently"):
        labelled(tokenizer, PROMPT, "A2", max_length=400)


@pytest.mark.parametrize("wrong", [7, IGNORED - 1])
def test_label_that_is_another_token_is_refused_with_its_row(wrong):
    table = RowTable(["input_ids", "labels"])
    table.append({"input_ids": [3, 4, 5], "labels": [IGNORED, 4, 5]})
    with pytest.raises(
        ToolkitError, match=f"row 2: 1 of 3 labels differ.* position 1, is {wrong} instead of 4"
    ):
        table.append({"input_ids": [3, 4, 5], "labels": [IGNORED, wrong, 5]})
    with pytest.raises(ToolkitError, match="row 2: 2 labels for 3 tokens"):
        table.append({"input_ids": [3, 4, 5], "labels": [4, 5]})
    assert len(table) == 1


def test_template_that_does_not_write_the_answer_is_refused():
    tokenizer = learn(["the cat sat. " * 20], vocab_size=290)
    tokenizer.chat_template = "{% for m in messages %}<|user|>{% endfor %}{{ eos_token }}"
    with pytest.raises(DataError, match="does not write the text of an answer"):
        answer_end.require_answers(tokenizer)


# Dates


class Tomorrow(datetime.datetime):
    """A clock that is years ahead."""

    @classmethod
    def now(cls, tz=None):
        return cls(2031, 1, 9)


LLAMA_3_2 = (
    "{{ '<|begin_of_text|>' }}{% if strftime_now is defined %}{% set today = strftime_now('%d %b %Y') %}"
    "{% else %}{% set today = '26 Jul 2024' %}{% endif %}{% macro head() %}{{ strftime_now('%B %-d, %Y') }}"
    "{% endmacro %}{{ 'Today Date: ' + today + ' ' + head() + '\\n' }}"
    "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def test_template_prints_the_same_date_tomorrow_and_in_other_programs(monkeypatch, tmp_path, capsys):
    tokenizer = learn(["the cat sat. Today Date Jul July 2024 2031 " * 20], vocab_size=290)
    tokenizer.chat_template = LLAMA_3_2
    text = template.render(tokenizer, PROMPT[:1], generation_prompt=True)
    assert "Today Date: 26 Jul 2024 July 26, 2024\n" in text
    tokenizer.save_pretrained(tmp_path / "base")
    loaded = load_tokenizer((str(tmp_path / "base"), None))
    assert "prints today's date; here it always prints 2024-07-26" in capsys.readouterr().err
    loaded.save_pretrained(tmp_path / "tuned")
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert "09 Jan 2031" in tokenizer.apply_chat_template(PROMPT[:1], tokenize=False)
    assert template.render(tokenizer, PROMPT[:1], generation_prompt=True) == text
    for folder in ("base", "tuned"):
        again = load_tokenizer((str(tmp_path / folder), None))
        assert again.chat_template == loaded.chat_template
        assert template.render(again, PROMPT[:1], generation_prompt=True) == text
    other = AutoTokenizer.from_pretrained(tmp_path / "tuned")
    assert (
        other.apply_chat_template(PROMPT[:1], tokenize=False, add_generation_prompt=True)
        == text
        == "<|begin_of_text|>" + text.removeprefix("<|begin_of_text|>")
    )


@pytest.mark.parametrize("source", [template.CHAT_TEMPLATE, None, {"default": template.CHATML_TEMPLATE}])
def test_template_without_a_date_stays_as_it_is(source):
    assert dates.with_fixed_date(source) == source and not dates.prints_date(source)


def test_every_named_template_prints_the_fixed_date():
    named = dates.with_fixed_date({"default": "{{ strftime_now('%Y') }}", "tool_use": "{{ bos_token }}"})
    assert dates.with_fixed_date(named) == named and named["tool_use"] == "{{ bos_token }}"
    assert dates.prints_date(named)
