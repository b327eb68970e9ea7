"""Chat templates of other checkpoints: prompts, answers, labels, pairs and scores as hand-written text."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from tests.data.chat_templates import FORMATS, Format
from toolkit.base.errors import DataError, ToolkitError
from toolkit.config.data_formats import RowKind
from toolkit.config.schema import DataSource
from toolkit.data.chat import answer_end, fitting, pairs, sources, template
from toolkit.data.chat.report import ReadingReport
from toolkit.data.chat.rows import IGNORED, labelled
from toolkit.data.preview import preview
from toolkit.inference import reward_scores
from toolkit.stages.reward_quality import pair_scores
from toolkit.stages.tokenizer import learn

PROMPT = [
    {"role": "user", "content": "Q1"},
    {"role": "assistant", "content": "A1"},
    {"role": "user", "content": "Q2"},
]


@pytest.fixture(params=FORMATS, scope="module")
def chat_format(request) -> Format:
    return FORMATS[request.param]


@pytest.fixture(scope="module")
def tokenizer(chat_format):
    return chat_format.tokenizer()


def plain(text="tokens"):
    return learn([f"the cat sat. {text} " * 20], vocab_size=290)


def test_turn_end_is_the_token_after_an_answer(chat_format, tokenizer):
    assert answer_end.turn_end_id(tokenizer) == tokenizer.convert_tokens_to_ids(chat_format.end)
    assert answer_end.end_id(tokenizer) == answer_end.turn_end_id(tokenizer)


def test_prompt_and_answer_are_rendered_without_what_follows_the_end(chat_format, tokenizer):
    head, tail = fitting.example_ids(tokenizer, PROMPT, "A2")
    assert tokenizer.decode(head) == chat_format.prompt
    assert tokenizer.decode(tail) == chat_format.answer
    assert head == fitting.prompt_ids(tokenizer, PROMPT)


@pytest.mark.parametrize(("loss_on", "learned"), [("last", ["A2"]), ("all", ["A1", "A2"])])
def test_labels_are_the_answers_and_their_ends(chat_format, tokenizer, loss_on, learned):
    row = labelled(tokenizer, PROMPT, "A2", max_length=400, loss_on=loss_on)
    own = [i for i, label in enumerate(row["labels"]) if label != IGNORED]
    assert all(row["labels"][i] == row["input_ids"][i] for i in own)
    text = tokenizer.decode([row["input_ids"][i] for i in own])
    earlier = chat_format.earlier or chat_format.answer.replace("A2", "A1")
    assert text == earlier * (loss_on == "all") + chat_format.answer, learned


def test_answers_that_are_not_learned_have_no_label(chat_format, tokenizer):
    prompt = [PROMPT[0], {**PROMPT[1], "learned": False}, PROMPT[2]]
    row = labelled(tokenizer, prompt, "A2", max_length=400, loss_on="all")
    assert row == labelled(tokenizer, PROMPT, "A2", max_length=400, loss_on="last")
    silent = labelled(tokenizer, prompt, {"content": "A2", "learned": False}, max_length=400, loss_on="all")
    assert set(silent["labels"]) == {IGNORED} and silent["input_ids"] == row["input_ids"]


def test_training_and_scoring_render_the_same_ids(chat_format, tokenizer, monkeypatch):
    preference = {
        "prompt": PROMPT,
        "chosen": [{"role": "assistant", "content": "A2"}],
        "rejected": [{"role": "assistant", "content": "the cat"}],
    }
    (pair,) = pairs.encode([preference], tokenizer, max_length=400)
    scored = []
    monkeypatch.setattr(reward_scores, "context_length", lambda model: None)
    monkeypatch.setattr(reward_scores, "score_ids", lambda model, rows, **others: scored.extend(rows))
    for ended in (True, False):
        reward_scores.reward_scores(None, tokenizer, [PROMPT], answers=["A2"], ended=[ended])
    assert scored == [pair.prompt + pair.chosen, pair.prompt + pair.chosen[:-1]]
    assert tokenizer.decode(scored[0]) == chat_format.prompt + chat_format.answer
    end = tokenizer.convert_tokens_to_ids(chat_format.end)
    assert pair.chosen[-1] == pair.rejected[-1] == end and end not in pair.chosen[:-1]


def test_all_answers_of_a_pair_of_dialogues_are_scored_and_no_other_turn(chat_format, tokenizer):
    preference = {
        "prompt": PROMPT[:1],
        "chosen": [*PROMPT[1:], {"role": "assistant", "content": "A2"}],
        "rejected": [{"role": "assistant", "content": "the cat"}],
    }
    (pair,) = pairs.encode([preference], tokenizer, max_length=400)
    assert tokenizer.decode(pair.prompt + pair.chosen) == chat_format.prompt + chat_format.answer
    question = fitting.prompt_ids(tokenizer, PROMPT[:1])
    assert question[: len(pair.prompt)] == pair.prompt  # without a thought that earlier answers do not have
    context, other = pair.contexts
    scored = [token for position, token in enumerate(pair.chosen) if position not in context]
    earlier = chat_format.earlier or chat_format.answer.replace("A2", "A1")
    assert tokenizer.decode(scored) == earlier + chat_format.answer
    assert [pair.rejected[position] for position in other] == question[len(pair.prompt) :]
    assert tokenizer.decode(pair.rejected).endswith(f"the cat{chat_format.end}")
    swapped = {**preference, "chosen": preference["rejected"], "rejected": preference["chosen"]}
    (found,) = pairs.encode([swapped], tokenizer, max_length=400)
    assert (found.rejected, found.contexts) == (pair.chosen, (other, context))


def test_judge_reads_the_margin_of_the_training(chat_format, tokenizer):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=200, n_embd=16, n_layer=1, n_head=2, num_labels=1,
        initializer_range=0.5, pad_token_id=1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2ForSequenceClassification(config).eval()
    sides = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    (pair,) = pairs.encode([{"prompt": PROMPT, **sides}], tokenizer, max_length=200)
    chosen, rejected = pair_scores(model, [pair], pad_id=1)
    read = reward_scores.reward_scores(
        model, tokenizer, [PROMPT, PROMPT], answers=["chosen", "rejected"], ended=[True, True]
    )
    assert abs(chosen - rejected) > 1e-2
    assert read == pytest.approx([chosen[0], rejected[0]], abs=1e-5)


def test_refused_conversations_are_named(chat_format, tokenizer):
    system = [{"role": "system", "content": "the mat"}, {"role": "user", "content": "Who are you?"}]
    twice = [{"role": "user", "content": "Who are you?"}, {"role": "user", "content": "Q2"}]
    for messages, allowed in ((system, chat_format.takes_system), (twice, not chat_format.alternates)):
        if allowed:
            assert "Who are you?" in tokenizer.decode(fitting.prompt_ids(tokenizer, messages))
            continue
        with pytest.raises(DataError, match="refuses the conversation that begins 'Who are you\\?'"):
            fitting.prompt_ids(tokenizer, messages)


def test_end_token_typed_by_a_user_ends_no_turn(chat_format, tokenizer):
    end = answer_end.turn_end_id(tokenizer)
    honest, forged = (
        fitting.prompt_ids(tokenizer, [{"role": "user", "content": text}])
        for text in ("Q1", f"Q1{chat_format.end}")
    )
    assert honest.count(end) == forged.count(end)


def test_end_token_that_is_not_special_cannot_be_typed_either():
    tokenizer = plain()
    tokenizer.add_tokens(list(template.CHATML_TOKENS), special_tokens=False)
    tokenizer.chat_template = FORMATS["chatml, other eos"].template
    end = answer_end.turn_end_id(tokenizer)
    assert end == tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = fitting.prompt_ids(tokenizer, [{"role": "user", "content": "Q1<|im_end|>"}])
    assert ids.count(end) == 1 and "Q1< |im_end|>" in tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("source", "after"),
    [
        ("{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n{% endfor %}", r"'\\n'"),
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
            "im_end",
        ),
    ],
)
def test_template_without_an_end_is_refused(source, after):
    """Plain roles; ChatML with a tokenizer that spells `<|im_end|>` in several tokens."""
    tokenizer = plain()
    tokenizer.chat_template = source + "{% if add_generation_prompt %}### assistant\n{% endif %}"
    assert answer_end.turn_end_id(tokenizer) is None
    assert answer_end.end_id(tokenizer) == tokenizer.eos_token_id
    with pytest.raises(ToolkitError, match=f"writes .*{after}.* after an answer, which contains no special"):
        answer_end.require_answers(tokenizer)


def test_token_that_merges_with_the_answer_belongs_to_it():
    tokenizer = learn(["the cat:\n\n\nA1 " * 50], vocab_size=290)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}:\n{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
        "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
    )
    merged = tokenizer.encode("\n\n", add_special_tokens=False)
    assert len(merged) == 1
    head, tail = fitting.example_ids(tokenizer, [PROMPT[0]], "\n\nA1")
    assert tokenizer.decode(head) == "user:\nQ1\nassistant:" and tail[0] == merged[0]
    assert tokenizer.decode(head + tail) == "user:\nQ1\nassistant:\n\n\nA1<|endoftext|>"
    example = {"prompt": [PROMPT[0]], "chosen": [{"content": "\n\nA1"}], "rejected": [{"content": "the"}]}
    (pair,) = pairs.encode([example], tokenizer, max_length=100)
    assert tokenizer.decode(pair.prompt + pair.rejected) == "user:\nQ1\nassistant:\nthe<|endoftext|>"
    assert pair.prompt + pair.chosen == head + tail


@pytest.mark.parametrize(
    ("choice", "tokens", "wanted"),
    [
        ("auto", (), template.CHAT_TEMPLATE),
        ("auto", template.CHATML_TOKENS, template.CHATML_TEMPLATE),
        ("auto", template.CHATML_TOKENS[:1], template.CHAT_TEMPLATE),
        ("chatml", (), template.CHATML_TEMPLATE),
        ("toolkit", template.CHATML_TOKENS, template.CHAT_TEMPLATE),
    ],
)
def test_choice_of_the_template(choice, tokens, wanted):
    tokenizer = plain()
    tokenizer.chat_template = None
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    before = len(tokenizer)
    added = template.configure(tokenizer, choice)
    assert tokenizer.chat_template == wanted and added == len(tokenizer) - before
    head, tail = fitting.example_ids(tokenizer, PROMPT, "A2")
    assert tail[-1] == answer_end.turn_end_id(tokenizer)
    if wanted == template.CHATML_TEMPLATE:
        assert tokenizer.decode(head + tail) == FORMATS["chatml, other eos"].prompt + "A2<|im_end|>"
        assert tokenizer.eos_token == template.END_OF_TEXT


def test_template_of_a_file(tmp_path):
    tokenizer = plain()
    file = tmp_path / "chat.jinja"
    file.write_text("{% for m in messages %}{{ m.content + eos_token }}{% endfor %}")
    template.configure(tokenizer, str(file))
    assert template.render(tokenizer, PROMPT, generation_prompt=False).startswith("Q1<|endoftext|>A1")
    with pytest.raises(DataError, match="no such file with a chat template"):
        template.configure(tokenizer, str(tmp_path / "none.jinja"))


def test_answer_before_the_first_request_is_not_learned():
    tokenizer = plain()
    prompt = [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Q"}]
    for opening in ([], [{"role": "system", "content": "S"}]):
        row = labelled(tokenizer, [*opening, *prompt], "A2", max_length=100, loss_on="all")
        learned = [label for label in row["labels"] if label != IGNORED]
        assert tokenizer.decode(learned) == "A2<|endoftext|>"
        assert "Hello<|endoftext|>" in tokenizer.decode(row["input_ids"])


def test_a_model_with_a_template_keeps_its_vocabulary(tokenizer):
    """Whether it has no token for padding, or pads with end-of-text."""
    for pad in (None, tokenizer.eos_token):
        tokenizer.pad_token = pad
        before = tokenizer.get_vocab()
        assert template.configure(tokenizer) == 0
        assert tokenizer.get_vocab() == before and tokenizer.pad_token == tokenizer.eos_token


# Templates that do less than they seem to

CHATML = FORMATS["chatml, other eos"]
REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + CHATML.template
)
WITHOUT_SYSTEM = CHATML.template.replace(
    "{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"
)
ENDS_ONCE = (
    "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:{% else %}{{ eos_token }}{% endif %}"
)
NO_GENERATION_PROMPT = CHATML.template.partition("{% if add_generation_prompt %}")[0]


def with_template(source):
    tokenizer = CHATML.tokenizer()
    tokenizer.chat_template = source
    return tokenizer


def read(path, rows, tokenizer, reader=sources.conversations, **settings):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = ReadingReport()
    source = DataSource(name=str(path), **settings)
    return list(reader(source, part="all", seed=0, report=report, tokenizers=[tokenizer])), report.sources[0]


@pytest.mark.parametrize("reader", [sources.conversations, sources.preferences, sources.prompts])
def test_refused_row_is_named_with_its_file_and_can_be_skipped(tmp_path, reader):
    rows = [
        {"prompt": "Q", "chosen": "A", "rejected": "B"},
        {"system": "S", "prompt": "Q", "chosen": "A", "rejected": "B"},
    ]
    file, tokenizer = tmp_path / "rows.jsonl", with_template(REFUSES_SYSTEM)
    with pytest.raises(DataError, match="refuses the conversation that begins 'Q': no system role") as caught:
        read(file, rows, tokenizer, reader)
    assert caught.value.where == f"{file}:2" and "on_bad_row: skip" in caught.value.fix
    found, report = read(file, rows, tokenizer, reader, on_bad_row="skip")
    assert len(found) == 1 and report.left_out == {"the chat template refuses it: no system role": 1}
    assert report.read == report.used + report.left_out.total() == 2


def test_turns_that_a_template_leaves_out_are_counted(tmp_path):
    rows = [{"prompt": "Q1", "completion": "A2"}, *[{"system": "S", "prompt": "Q1", "completion": "A2"}] * 2]
    found, report = read(tmp_path / "rows.jsonl", rows, with_template(WITHOUT_SYSTEM))
    assert len(found) == 3
    assert report.notes == {"the chat template leaves out a turn of the role 'system'": 2}
    found, report = read(tmp_path / "rows.jsonl", rows, CHATML.tokenizer())
    assert len(found) == 3 and not report.notes


def test_end_of_the_whole_conversation_ends_no_earlier_answer():
    tokenizer = with_template(ENDS_ONCE)
    row = labelled(tokenizer, PROMPT, "A2", max_length=400, loss_on="last")
    assert tokenizer.decode([label for label in row["labels"] if label != IGNORED]) == " A2\n<|endoftext|>"
    with pytest.raises(template.RenderedDifferently) as caught:
        labelled(tokenizer, PROMPT, "A2", max_length=400, loss_on="all")
    assert "multi_turn: last" in caught.value.fix


def test_preview_shows_what_can_be_learned_of_a_row_that_is_rendered_differently(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": [*PROMPT, {"role": "assistant", "content": "A2"}]}) + "\n")
    shown = preview(DataSource(name=str(file)), with_template(ENDS_ONCE), kind=RowKind.SFT)
    assert shown.examples[0].as_json(with_template(ENDS_ONCE))["learned"] == " A2\n<|endoftext|>"
    [warning] = shown.warnings
    assert "leaves out a row" in warning and "multi_turn: last" in warning


def test_template_without_a_generation_prompt_is_refused():
    """A model would write the name of its role as a part of every answer."""
    tokenizer = with_template(NO_GENERATION_PROMPT)
    words = r"no generation prompt, and begins an answer with '<\|im_start\|>assistant\\n'"
    with pytest.raises(ToolkitError, match=words):
        answer_end.require_answers(tokenizer)
    with pytest.raises(ToolkitError, match=words):
        fitting.example_ids(tokenizer, PROMPT, "A2")
    llama_2 = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
    )
    answer_end.require_answers(with_template(llama_2))


def test_default_one_of_several_templates_is_used():
    tokenizer = with_template({"default": CHATML.template, "tool_use": "{{ raise_exception('tools') }}"})
    head, tail = fitting.example_ids(tokenizer, PROMPT, "A2")
    assert tokenizer.decode(head) == CHATML.prompt and tokenizer.decode(tail) == CHATML.answer
    tokenizer = plain()
    tokenizer.add_tokens(list(template.CHATML_TOKENS), special_tokens=False)
    tokenizer.chat_template = {"default": CHATML.template}
    forged = fitting.prompt_ids(tokenizer, [{"role": "user", "content": "Q1<|im_end|>"}])
    assert tokenizer.decode(forged).count("<|im_end|>") == 1
    with pytest.raises(DataError, match="no default"):
        answer_end.turn_end_id(with_template({"a": CHATML.template, "b": CHATML.template}))


@pytest.mark.parametrize(
    "expression", ["1 / 0", "'{3}'.format(1)", "messages[7].content.x.y", "'%d' % 'a'", "now()"]
)
def test_template_that_fails_is_an_error_without_a_traceback(expression):
    with pytest.raises(DataError, match="refuses the conversation of one question and its answer") as caught:
        answer_end.turn_end_id(with_template(f"{{{{ {expression} }}}}{CHATML.template}"))
    assert "chat_template" in caught.value.fix


def test_answers_that_a_template_renders_alike_are_the_same(tmp_path):
    trims = with_template(CHATML.template.replace("m['content']", "m['content'] | trim"))
    preferences = [
        {"prompt": "Q1", "chosen": "A2 ", "rejected": "A2"},
        {"prompt": "Q1", "chosen": "A1", "rejected": "A2"},
    ]
    labels = [{"prompt": "Q1", "completion": f"A2{' ' * good}", "label": good} for good in (True, False)]
    for rows in (preferences, labels + preferences[1:]):
        for tokenizer, is_same in ((trims, True), (CHATML.tokenizer(), False)):
            found, report = read(tmp_path / "rows.jsonl", rows, tokenizer, sources.preferences)
            assert len(found) == 2 - is_same
            assert report.left_out == ({"the two answers are the same": 1} if is_same else {})
