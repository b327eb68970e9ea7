"""Rows of every known format as text, conversations, preferences and prompts; columns, labels and reports."""

import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from toolkit.base.errors import DataError
from toolkit.config.schema import Columns, DataSource, HeldOut
from toolkit.data.chat import column_reader, formats, plain_text, sources, split_key
from toolkit.data.chat.report import ReadingReport
from toolkit.data.chat.row_reader import SEVERAL_MESSAGES
from toolkit.data.text.documents import Stream


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **keys):
    return {"role": "assistant", "content": text, **keys}


def system(text):
    return {"role": "system", "content": text}


PAGE = Path(__file__).parents[2] / "docs/DATA.md"
Q, A, B = user("Q"), assistant("A"), assistant("B")


class Rows:
    """The rows of a file, as every stage reads them."""

    def __init__(self, path, rows, **settings):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self.source = DataSource(name=str(path), **settings)
        self.report = ReadingReport()

    def _read(self, reader, part="all"):
        self.report = ReadingReport()
        return list(reader(self.source, part=part, seed=0, report=self.report))

    def sft(self):
        return [row["prompt"] + row["completion"] for row in self._read(sources.conversations)]

    def pairs(self):
        rows = self._read(sources.preferences)
        return [(row["prompt"], row["chosen"], row["rejected"]) for row in rows]

    def prompts(self):
        return [row["prompt"] for row in self._read(sources.prompts)]

    def text(self):
        self.stream = Stream(self.source, part="all", seed=0)
        return [piece.text for piece in self.stream]

    def left_out(self):
        [found] = self.report.sources
        counts = found.used + found.other_part + found.not_sampled + found.not_mixed + found.paired
        assert found.read == counts + found.left_out.total()
        return dict(found.left_out)


@pytest.fixture
def rows(tmp_path):
    def make(*given, **settings):
        return Rows(tmp_path / "a.jsonl", given, **settings)

    return make


def refused(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert caught.value.fix
    return caught.value


# One answer: (row, messages); the text follows from the messages

ALPACA = "Below is an instruction that describes a task. Write a response.\n\n### Instruction:\nQ\n\n"
CONVERSATIONS = {
    "messages": ({"messages": [Q, A]}, [Q, A]),
    "roles": ({"messages": [{"role": "System", "content": "S"}, {"role": "Prompter", "content": "Q"},
                            {"role": "MODEL", "content": "A"}]}, [system("S"), Q, A]),
    "more roles": ({"messages": [{"role": "developer", "content": "S"}, {"role": "human", "content": "Q"},
                                 {"role": "ai", "content": "A"}]}, [system("S"), Q, A]),
    "sharegpt": ({"conversations": [{"from": "human", "value": "Q"}, {"from": "chatbot", "value": "A"}]},
                 [Q, A]),
    "speaker": ({"dialogue": [{"speaker": "user", "text": "Q"}, {"speaker": "bot", "text": "A"}]}, [Q, A]),
    "keyed turns": ({"conversation": [{"user": "Q", "assistant": "A"}, {"assistant": "A2", "human": "Q2"}]},
                    [Q, A, user("Q2"), assistant("A2")]),
    "struct of lists": ({"dialog": {"role": ["user", "assistant"], "content": ["Q", "A"]}}, [Q, A]),
    "parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]},
                            {"role": "assistant", "content": [{"type": "text", "text": "A"}, "!"]}]},
              [Q, assistant("A!")]),
    "exchanges": ({"conversation": [{"input": "Q", "output": "A"}, {"input": "Q2", "output": "A2"}]},
                  [Q, A, user("Q2"), assistant("A2")]),
    "history": ({"instruction": "Q2", "input": "", "output": "A2", "history": [["Q", "A"]]},
                [Q, A, user("Q2"), assistant("A2")]),
    "line ends": ({"instruction": "Human:Q\nAssistant:", "output": "A"}, [Q, A]),
    "json text": ({"messages": json.dumps([Q, A])}, [Q, A]),
    "python repr": ({"messages": repr([Q, A])}, [Q, A]),
    "dialogue as text": ({"messages": "Human: Q\n\nAssistant: A"}, [Q, A]),
    "guanaco": ({"messages": "### Human: Q### Assistant: A"}, [Q, A]),
    "null columns": ({"messages": None, "prompt": "Q", "completion": "A", "chosen": None}, [Q, A]),
    "prompt beside messages": ({"prompt": "Q", "messages": [Q, A]}, [Q, A]),
    "prompt, completion": ({"prompt": "Q", "completion": "A"}, [Q, A]),
    "prompt, response": ({"prompt": "Q", "response": "A"}, [Q, A]),
    "prompt, answer": ({"prompt": "Q", "answer": "A"}, [Q, A]),
    "instruction, output": ({"instruction": "Q", "input": "", "output": "A"}, [Q, A]),
    "instruction, input, output": ({"instruction": "Q", "input": "I", "output": "A"}, [user("Q\n\nI"), A]),
    "dolly": ({"instruction": "Q", "context": "I", "response": "A"}, [user("Q\n\nI"), A]),
    "question, answer": ({"question": "Q", "answer": "A"}, [Q, A]),
    "question, response": ({"question": "Q", "response": "A"}, [Q, A]),
    "query, response": ({"query": "Q", "response": "A"}, [Q, A]),
    "problem, solution": ({"problem": "Q", "solution": "A"}, [Q, A]),
    "input, output": ({"input": "Q", "output": "A"}, [Q, A]),
    "system": ({"system": "S", "prompt": "Q", "completion": "A"}, [system("S"), Q, A]),
    "system_prompt": ({"system_prompt": "S", "messages": [Q, A]}, [system("S"), Q, A]),
    "system twice": ({"system": "S", "messages": [system("S"), Q, A]}, [system("S"), Q, A]),
    "empty system": ({"system": "", "messages": [Q, A]}, [Q, A]),
    "open prompt": ({"prompt": "\n\nHuman: Q\n\nAssistant:", "completion": " A"}, [Q, A]),
    "begun answer": ({"prompt": "Human: Q\n\nAssistant: Sure,", "completion": " A"},
                     [Q, assistant("Sure, A")]),
    "begun answer, trailing space": ({"prompt": "Human: Q\n\nAssistant: Sure, ", "completion": "A"},
                                     [Q, assistant("Sure, A")]),
    "begun message": ({"prompt": [Q, assistant("Sure,")], "completion": [assistant(" A")]},
                      [Q, assistant("Sure, A")]),
    "begun message, text": ({"prompt": [Q, assistant("Sure,")], "completion": " A"},
                            [Q, assistant("Sure, A")]),
    "alpaca text": ({"prompt": ALPACA + "### Response:\n", "completion": "A"}, [Q, A]),
    "alpaca text, input": ({"prompt": ALPACA + "### Input:\nI\n\n### Response:", "completion": " A"},
                           [user("Q\n\nI"), A]),
    "marked answer": ({"prompt": "Human: Q", "completion": "\n\nAssistant: A"}, [Q, A]),
    "repeated text": ({"prompt": "What is it?", "completion": "What is it? A"}, [user("What is it?"), A]),
    "answer like prompt": ({"prompt": "Hello", "completion": "Hello there"},
                           [user("Hello"), assistant("Hello there")]),
    "repeated messages": ({"prompt": [Q], "completion": [Q, A]}, [Q, A]),
    "system as prompt": ({"prompt": [system("S")], "completion": [Q, A]}, [system("S"), Q, A]),
    "kto, good": ({"prompt": "Q", "completion": "A", "label": True}, [Q, A]),
    "weight 1": ({"messages": [Q, assistant("A", weight=1)]}, [Q, A]),
    "after the last learned answer": ({"messages": [Q, A, user("R"), assistant("B", weight=0)]}, [Q, A]),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations_of_every_format(rows, name):
    row, messages = CONVERSATIONS[name]
    data = rows(row)
    assert data.sft() == [messages] and data.left_out() == {}
    assert data.report.sources[0].unread == {}
    assert data.prompts() == [messages[:-1]]
    speakers = {"user": "Human", "assistant": "Assistant", "system": "System"}
    text = "\n\n".join(f"{speakers[message['role']]}: {message['content']}" for message in messages)
    assert data.text() == [text] and not data.stream.dropped


def test_parquet_rows_are_read_like_json(tmp_path):
    path = tmp_path / "a.parquet"
    table = [
        {"messages": [Q, A], "prompt": None, "completion": None},
        {"messages": None, "prompt": "Q", "completion": "B"},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    read = sources.conversations(DataSource(name=str(path)), part="all", seed=0).to_list()
    assert read == [{"prompt": [Q], "completion": [A]}, {"prompt": [Q], "completion": [B]}]


# Two answers: (row, prompt); the better answer is A, the worse one is B

DIALOGUE = "\n\nHuman: Q\n\nAssistant:"
PAIRS = {
    "text": {"prompt": "Q", "chosen": "A", "rejected": "B"},
    "open prompt": {"prompt": DIALOGUE, "chosen": " A", "rejected": " B"},
    "whole dialogues": {"chosen": DIALOGUE + " A", "rejected": DIALOGUE + " B"},
    "open prompt, whole dialogues": {
        "prompt": DIALOGUE,
        "chosen": DIALOGUE + " A",
        "rejected": DIALOGUE + " B",
    },
    "alpaca text": {"prompt": ALPACA + "### Response:", "chosen": "A", "rejected": "B"},
    "one message": {"prompt": "Q", "chosen": A, "rejected": B},
    "text in objects": {"prompt": [Q], "chosen": {"text": "A"}, "rejected": {"text": "B"}},
    "json text": {"chosen": json.dumps([Q, A]), "rejected": json.dumps([Q, B])},
    "repeated text": {"prompt": "Q", "chosen": "Q\nA", "rejected": "Q\nB"},
    "question": {"question": "Q", "chosen": "A", "rejected": "B"},
    "scores": {"prompt": "Q", "chosen": "A", "rejected": "B", "score_chosen": 2, "score_rejected": 1.5},
    "better_response_id": {"prompt": "Q", "response_0": "B", "response_1": "A", "better_response_id": 1},
    "preferred": {"prompt": "Q", "response_a": "A", "response_b": "B", "preferred": "response_a"},
    "winner": {"prompt": "Q", "answer_a": "B", "answer_b": "A", "winner": "model_b"},
    "label": {"prompt": "Q", "answer_1": "A", "answer_2": "B", "label": 1},
    "alpacaeval": {"instruction": "Q", "output_1": "B", "output_2": "A", "preference": 2.0},
    "chosen_index": {"question": "Q", "response_0": "A", "response_1": "B", "chosen_index": "0"},
    "candidates": {"prompt": "Q", "responses": ["C", "B", "A"], "scores": [0.5, 0.1, 0.9]},
    "JSON text in cells": {"prompt": "Q", "responses": '["B", "A"]', "scores": "[0.5, 1]"},
    "ranks": {"prompt": "Q", "responses": ["C", "B", "A"], "ranks": [2, 3, 1]},
    "UltraFeedback": {
        "instruction": "Q",
        "completions": [
            {"response": "B", "overall_score": "1.5"},
            {"response": "A", "overall_score": 8},
            {"response": "C", "overall_score": None},
        ],
    },
    "Nectar": {
        "prompt": DIALOGUE + " ",
        "answers": [{"answer": "A", "rank": 1.0}, {"answer": "B", "rank": 7.0}, {"answer": "C", "rank": 2.0}],
    },
    "scores of two answers": {
        "question": "Q",
        "answer_0": "B",
        "answer_1": "A",
        "score_0": -0.5,
        "score_1": 0.5,
    },
    "arena": {"conversation_a": [Q, A], "conversation_b": [Q, B], "winner": "model_a"},
    "conversation as prompt": {"conversations": [Q], "chosen": A, "rejected": {"from": "gpt", "value": "B"}},
    "null columns": {"prompt": "Q", "chosen": "A", "rejected": "B", "responses": None, "label": None},
}


@pytest.mark.parametrize("name", PAIRS)
def test_preferences_of_every_format(rows, name):
    data = rows(PAIRS[name])
    assert data.pairs() == [([Q], [A], [B])] and data.left_out() == {}
    assert data.report.sources[0].unread == {}
    assert data.sft() == [[Q, A]] and data.prompts() == [[Q]]
    assert data.text() == ["Human: Q\n\nAssistant: A"]


def test_begun_answers_are_continued_in_preferences(rows):
    for prompt in (DIALOGUE + " Sure,", [Q, assistant("Sure,")]):
        data = rows({"prompt": prompt, "chosen": " A", "rejected": " B"})
        expected = ([Q], [assistant("Sure, A")], [assistant("Sure, B")])
        assert data.pairs() == [expected] and data.sft() == [[Q, assistant("Sure, A")]]


def test_the_common_messages_are_the_prompt(rows):
    later = user("R")
    data = rows(
        {"system": "S", "chosen": [Q, A, later, A], "rejected": [Q, A, later, B]},
        {"chosen": [Q, A, later, A], "rejected": [Q, B, later, B]},
        {"chosen": [Q, A], "rejected": [later, B]},
        {"chosen": [Q, A, A], "rejected": [Q, B]},
        {"chosen": [Q, A, later, A], "rejected": [Q, A, Q, B]},
    )
    assert data.pairs() == [
        ([system("S"), Q, A, later], [A], [B]),
        ([Q], [A, later, A], [B, later, B]),
    ]
    assert data.left_out() == {"the prompts of the two answers differ": 2, SEVERAL_MESSAGES: 1}
    assert data.sft()[1] == [Q, A, later, A] and data.prompts()[1] == [Q, A, later]


# Rows that are left out: (row, reason for sft, reason for preferences); None where the row is used

SYSTEM = "'system' differs from the system message of the conversation"
LEFT_OUT = [
    ({"messages": [Q, {"role": "assistant", "content": None, "tool_calls": [{}]}, A]},
     "a tool call that is not a function's name with arguments in JSON"),
    ({"messages": [Q, A], "images": ["x"]}, "a row with images, audio or video: only text is read"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}, A]},
     "a part of type 'image' in a message: only text is read"),
    ({"messages": [Q, {"role": "assistant", "content": None}]}, "an answer is null"),
    ({"messages": [{"role": "user", "content": None}, A]}, "a message is null"),
    ({"messages": [system("T"), Q, A], "system": "S"}, SYSTEM),
    ({"messages": [Q, A], "system": "S", "system_prompt": "T"}, "'system' and 'system_prompt' differ"),
    ({"messages": [Q, assistant("A", weight=0)]}, "no answer is learned (weight 0)"),
    ({"prompt": "Q", "completion": "A", "label": False}, "the label is false: not a good answer"),
    ({"prompt": "Q", "completion": "A", "label": 0}, "the label is false: not a good answer"),
    ({"messages": [Q, A], "kto_tag": False}, "the label is false: not a good answer"),
    ({"prompt": "Q", "chosen": "A", "rejected": "B", "score_chosen": 1, "score_rejected": 2},
     "score_chosen is lower than score_rejected"),
    ({"prompt": "Q", "chosen": "A", "rejected": "B", "chosen_score": 1, "rejected_score": 2},
     "chosen_score is lower than rejected_score"),
    ({"prompt": "Q", "response_0": "A", "response_1": "B", "better_response_id": -1}, "a tie"),
    ({"prompt": "Q", "response_a": "A", "response_b": "B", "winner": "tie"}, "a tie"),
    ({"prompt": "Q", "output_1": "A", "output_2": "B", "preference": 1.5}, "a tie"),
    ({"prompt": "Q", "answer_0": "A", "answer_1": "B", "better_response_id": 0, "score_0": 1, "score_1": 2},
     "the better answer has the lower score"),
    ({"prompt": "Q", "completions": [{"text": "A", "rating": 1}, {"text": "B", "rating": 1}]},
     "the scores are equal"),
    ({"prompt": "Q", "answer_a": "A", "answer_b": "B", "score_a": 3, "score_b": 3}, "the scores are equal"),
    ({"prompt": "Q", "responses": ["A", "B"], "scores": [1, 1.0]}, "the scores are equal"),
    ({"prompt": "Q", "responses": ["A"], "scores": [1]}, "fewer than two answers"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "reason"), LEFT_OUT)
def test_unusable_rows_are_counted_by_sft_and_corpus(rows, row, reason):
    data = rows(row, {"prompt": "Q", "completion": "B"})
    assert data.sft() == [[Q, B]] and data.left_out() == {reason: 1}
    assert data.report.sources[0].first == {reason: f"{data.source.name}:1"}
    assert data.text() == ["Human: Q\n\nAssistant: B"] and data.stream.dropped == {reason: 1}


@pytest.mark.parametrize(("row", "reason"), LEFT_OUT[-10:])
def test_unusable_preferences_are_counted(rows, row, reason):
    data = rows(row, {"prompt": "Q", "chosen": "A", "rejected": "B"})
    assert data.pairs() == [([Q], [A], [B])] and data.left_out() == {reason: 1}
    assert data.prompts() == [[Q], [Q]], "their prompts are usable"


def test_equal_scores_are_left_out_of_preferences_only(rows):
    row = {"prompt": "Q", "chosen": "A", "rejected": "B", "score_chosen": 2, "score_rejected": 2.0}
    data = rows(row, {"prompt": "R", "chosen": "A", "rejected": "B"})
    assert data.pairs() == [([user("R")], [A], [B])]
    assert data.left_out() == {"the scores are equal": 1} and len(data.sft()) == 2


def test_scores_of_a_noisy_annotator_are_not_compared(rows):
    row = {"prompt": "Q", "chosen": "A", "rejected": "B", "score_chosen": 1, "score_rejected": 2}
    assert len(rows(row | {"shown_first": "chosen"}).pairs()) == 1


# Loss, reasoning, margins, labels


@pytest.mark.parametrize("keys", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"mask": True}])
def test_answers_without_loss_are_marked(rows, keys):
    data = rows({"messages": [Q, assistant("B", **keys), user("R"), A]}, {"messages": [Q, A]})
    assert data.sft() == [[Q, assistant("B", learned=False), user("R"), A], [Q, A]]
    assert data.prompts()[0] == [Q, B, user("R")], "a prompt carries no loss"
    assert data.text() == ["Human: Q\n\nAssistant: A"]
    assert data.stream.dropped == {"an answer has weight 0, which plain text would teach": 1}


@pytest.mark.parametrize(
    "keys", [{"weight": 0.5}, {"weight": 2}, {"train": "no"}, {"weight": 1, "train": False}]
)
def test_other_weights_are_refused(rows, keys):
    error = refused(
        rows({"messages": [Q, assistant("A", **keys)]}).sft, "a.jsonl:1: messages", next(iter(keys))
    )
    assert "keep one" in error.fix or "give 1 to an answer that is learned" in error.fix


def test_reasoning_is_kept(rows, tmp_path):
    answers = [assistant("A", thinking="T"), assistant("B", reasoning_content="R")]
    data = rows({"messages": [Q, answers[0]]}, {"messages": [Q, A]}, {"messages": [Q, answers[1]]})
    assert data.sft() == [
        [Q, assistant("A", reasoning_content="T")],
        [Q, A],
        [Q, assistant("B", reasoning_content="R")],
    ]
    assert data.report.sources[0].notes == {column_reader.REASONING: 2}
    row_format = formats.RowFormat(data.source)
    row = {"messages": [Q, answers[0]]}
    text, _ = plain_text.as_text(row, data.source, location="a.jsonl:1", row_format=row_format)
    assert text == "Human: Q\n\nAssistant: A" and row_format.notes == {column_reader.REASONING: 1}
    data = rows({"prompt": [Q], "chosen": [answers[0]], "rejected": "B"})
    assert data.pairs() == [([Q], [assistant("A", reasoning_content="T")], [B])]


def test_optional_keys_survive_batches_sources_and_selection(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_BATCH_ROWS", 2)
    given = [
        {"messages": [user(f"q{n}"), assistant("A", **({"thinking": "T"} if n == 6 else {}))]}
        for n in range(9)
    ]
    one, two = (
        Rows(tmp_path / name, part).source for name, part in (("a.jsonl", given), ("b.jsonl", given[:5]))
    )
    mixed = sources.conversations([one, two], part="all", seed=0)
    found = {row["prompt"][0]["content"]: row["completion"][0] for row in mixed.select(range(10))}
    assert all(message == A for name, message in found.items() if name != "q6")
    whole = sources.conversations(one, part="all", seed=0)
    assert whole[6]["completion"] == [assistant("A", reasoning_content="T")] and whole[0]["completion"] == [A]
    assert whole.select_columns("prompt")[0] == {"prompt": [user("q0")]}


def test_empty_answers_before_the_last_are_counted(rows):
    data = rows({"messages": [Q, assistant(""), user("R"), A]})
    assert data.sft() == [[Q, assistant(""), user("R"), A]]
    assert data.report.sources[0].notes == {"an answer before the last is empty": 1}


def test_margin_is_a_column_if_a_row_has_one(rows):
    pair = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    data = rows(pair | {"margin": 2}, pair | {"margin": None})
    read = sources.preferences(data.source, part="all", seed=0)
    assert read["margin"] == [2.0, None]
    assert "margin" not in sources.preferences(rows(pair).source, part="all", seed=0).column_names
    refused(rows(pair | {"margin": "big"}).pairs, "a.jsonl:1", "'margin'", "'big'")


def test_labelled_answers_of_one_prompt_form_pairs(rows):
    def kto(prompt, completion, label):
        return {"prompt": prompt, "completion": completion, "label": label}

    data = rows(
        kto("Q", "B", False), kto("R", "A", True), kto("Q", "A", True), kto("Q", "C", True),
        kto("Q", "A", False),
    )  # fmt: skip
    assert data.pairs() == [([Q], [A], [B]), ([Q], [assistant("C")], [A])]
    assert data.left_out() == {sources.UNPAIRED: 1} and data.report.sources[0].paired == 2
    assert data.report.sources[0].first == {sources.UNPAIRED: f"{data.source.name}:2"}
    assert [messages[-1]["content"] for messages in data.sft()] == ["A", "A", "C"]
    assert data.left_out() == {"the label is false: not a good answer": 2}
    assert len(data.prompts()) == 5


# Errors


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [{"role": "wizard", "content": "x"}, A]}, ["unknown role 'wizard'", "prompter"]),
        ({"messages": "[{'role': 'user', 'content': 'Q'} {'role': 'a'"}, ["not JSON", "json.dumps"]),
        ({"messages": {"role": ["user"], "content": ["Q", "A"]}}, ["differ in length"]),
        ({"messages": [Q, A], "system": 3}, ["'system'", "int"]),
        ({"prompt": "Other", "completion": [Q, A]}, ["differ from those of its prompt"]),
        ({"prompt": "Q", "responses": ["A", "B"], "scores": [1]}, ["'scores'", "2 answers"]),
    ],
)
def test_malformed_rows_stop_or_are_skipped(rows, row, words):
    error = refused(rows(row).sft, "a.jsonl:1", *words)
    data = rows(row, {"messages": [Q, A]}, on_bad_row="skip")
    assert data.sft() == [[Q, A]] and data.left_out() == {error.what: 1}
    assert data.text() == ["Human: Q\n\nAssistant: A"] and data.stream.dropped == {error.what: 1}


AMBIGUOUS = [
    ({"messages": [Q, A], "prompt": "Q", "completion": "B"}, "sft", ["messages", "prompt and completion"]),
    ({"problem": "Q", "solution": "A", "prompt": "R", "answer": "C"}, "sft", ["solution", "answer"]),
    ({"prompt": "R", "question": "Q", "chosen": "A", "rejected": "B"}, "pairs", ["prompt", "question"]),
    ({"prompt": "Q", "chosen": "A", "rejected": "B", "responses": ["A", "C"], "scores": [1, 0]}, "pairs",
     ["chosen and rejected", "responses and scores"]),
    ({"prompt": "Q", "answer_a": "A", "answer_b": "B", "winner": "a", "label": "b"}, "pairs",
     ["winner", "label"]),
    ({"prompt": "Q", "answer_1": "A", "answer_2": "B", "chosen_index": 0}, "pairs",
     ["chosen_index", "answer_1"]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "reader", "words"), AMBIGUOUS)
@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_ambiguous_columns_are_refused_and_never_skipped(rows, row, reader, words, on_bad_row):
    data = rows(row, {"messages": [Q, A]}, on_bad_row=on_bad_row)
    refused(getattr(data, reader), "a.jsonl:1", *words)


def test_forms_with_the_same_prompt_are_no_ambiguity_for_prompts(rows):
    data = rows({"messages": [Q, B], "prompt": "Q", "chosen": [Q, A], "rejected": [Q, B]})
    assert data.prompts() == [[Q]] and data.pairs() == [([Q], [A], [B])]
    refused(data.sft, "'messages' and 'chosen and rejected' both fit")


def test_columns_resolves_an_ambiguity(rows):
    row = AMBIGUOUS[0][0]
    assert rows(row, columns=Columns(messages="messages")).sft() == [[Q, A]]
    assert rows(row, columns=Columns(completion="completion")).sft() == [[Q, B]]
    row = AMBIGUOUS[2][0]
    assert rows(row, columns=Columns(prompt="question")).pairs() == [([Q], [A], [B])]


# columns: and field:


def test_columns_maps_other_names(rows):
    row = {"doc": {"ask": "Q", "say": {"good": "A", "bad": "B"}}, "sys.msg": "S", "gap": 1.5, "text": "t"}
    columns = Columns(
        prompt="doc.ask", chosen="doc.say.good", rejected="doc.say.bad", system="sys.msg", margin="gap"
    )
    data = rows(row, columns=columns)
    assert data.pairs() == [([system("S"), Q], [A], [B])] and data.report.sources[0].unread == {}
    assert data.sft() == [[system("S"), Q, A]] and data.prompts() == [[system("S"), Q]]
    assert data.text() == ["System: S\n\nHuman: Q\n\nAssistant: A"], (
        "the mapping says that it is a conversation"
    )
    row = {"body": "hello", "text": "other", "ok": False, "ask": "Q", "reply": "A"}
    assert rows(row, columns=Columns(text="body")).text() == ["hello"]
    data = rows(row, row | {"ok": True}, columns=Columns(prompt="ask", completion="reply", label="ok"))
    assert data.sft() == [[Q, A]] and data.left_out() == {"the label is false: not a good answer": 1}


def test_literal_dot_wins(rows):
    row = {"a.b": "Q", "a": {"b": "other"}, "completion": "A"}
    assert rows(row, columns=Columns(prompt="a.b")).sft() == [[Q, A]]


@pytest.mark.parametrize("reader", ["sft", "pairs", "prompts", "text"])
def test_missing_mapped_column_is_an_error_in_every_stage(rows, reader):
    row = {"ask": "Q", "reply": {"best": "A"}, "rejected": "B"}
    for on_bad_row in ("stop", "skip"):
        columns = Columns(prompt="ask", chosen="reply.bets")
        data = rows(row, columns=columns, on_bad_row=on_bad_row)
        refused(
            getattr(data, reader), "a.jsonl:1", "'reply.bets'", "ask, rejected, reply.best",
            "columns.chosen", "set `columns.chosen: reply.best`",
        )  # fmt: skip


@pytest.mark.parametrize("reader", ["sft", "prompts", "text"])
def test_unknown_field_is_an_error(rows, reader):
    refused(getattr(rows({"prompt": "Q", "completion": "A"}, field="completions"), reader),
            "a.jsonl:1", "'completions'", "completion, prompt")  # fmt: skip


def test_field_has_no_effect_on_preferences(rows):
    data = rows({"prompt": "Q", "chosen": "A", "rejected": "B"}, field="nonsense")
    refused(data.pairs, "`field`", "columns: {prompt")


def test_unread_columns_are_named_with_their_count(rows, capsys):
    data = rows(
        {"prompt": "Q", "completion": "A", "rating": 3, "id": 1, "answer": None},
        {"prompt": "Q", "completion": "A", "rating": 4, "history": [["q", "a"]]},
        {"messages": [Q | {"mood": "x"}, A], "prompt": "R", "rating": None},
    )
    assert len(data.sft()) == 3
    assert data.report.sources[0].unread == {"rating": 2, "history": 1, "prompt": 1, "messages.mood": 1}
    sources.conversations(data.source, part="all", seed=0)
    assert "  not read: column 'rating' (2 rows)\n" in capsys.readouterr().err


def test_turns_after_the_last_answer_are_counted(rows):
    data = rows({"messages": [Q, A, user("bye")]})
    assert data.sft() == [[Q, A]]
    assert data.report.sources[0].notes == {"turns after the last answer that is learned are not used": 1}
    data = rows({"prompt": DIALOGUE + " Sure,"})
    assert data.prompts() == [[Q]]
    assert list(data.report.sources[0].notes) == [
        "the beginning of an answer, at the end of the prompt, is not used"
    ]


# The report and the split


def numbered(count, first="q{}"):
    return [{"messages": [user(first.format(n)), A, user(f"then {n}"), B]} for n in range(count)]


def test_report_adds_up_and_is_aligned(rows, capsys):
    data = rows(*numbered(200), {"messages": [Q]}, {"messages": [user("Z")]}, examples=50)
    read = data._read(sources.conversations, part="train")
    [found] = data.report.sources
    held_out = len(data._read(sources.conversations, part="held_out"))
    assert (found.read, found.used, found.other_part) == (202, 50, held_out) and len(read) == 50
    assert found.not_sampled == 200 - 50 - held_out and found.left_out.total() == 2
    assert str(data.report.sources[0].first["no answer of the assistant"]).endswith("a.jsonl:201")
    data._read(sources.conversations, part="train")
    data.report.print()
    head, line, reason = capsys.readouterr().err.splitlines()
    assert head.split("  ")[0] == "data" and head.endswith("rows read  used  held out  not sampled  left out")
    assert line.split()[1:] == ["202", "50", str(held_out), str(found.not_sampled), "2"]
    assert len(line) == len(head)
    assert reason == f"  left out: no answer of the assistant  2  first: {data.source.name}:201"
    content = data.report.as_json()
    assert content["read"] == 202 and content["kept"] == 50
    assert content["sources"][0]["held_out_by"] == "the first user message"


def test_mixture_reports_every_source(tmp_path):
    small, large = (
        Rows(tmp_path / name, numbered(count)).source for name, count in (("a.jsonl", 10), ("b.jsonl", 40))
    )
    report = ReadingReport()
    read = sources.conversations([small, large], part="all", seed=0, report=report)
    assert [found.used for found in report.sources] == [10, len(read) - 10]
    second = report.sources[1]
    assert second.not_mixed == 40 - second.used and report.kept == len(read)
    assert report.sources[0].warnings() == second.warnings() == [] and report.is_notable()
    assert str(report).splitlines()[-1] == (
        f"  the mixture uses {len(read)} of 50 rows: it ends after the 10 rows of {small.name}, whose weight "
        "is 50.0%; weights 10 : 40 would use all rows"
    )
    weighted = [small, large.model_copy(update={"weight": 4.0})]
    report = ReadingReport()
    assert len(sources.conversations(weighted, part="all", seed=0, report=report)) == 50
    assert not report.is_notable() and report.as_json()["sources"][1]["share"] == 0.8


def test_common_first_message_is_split_by_the_whole_prompt(rows):
    given = numbered(74, first="Hello") + numbered(26)
    data = rows(*given, held_out=HeldOut(documents=0.3))
    train = data._read(sources.conversations, part="train")
    [found] = data.report.sources
    assert 15 <= found.other_part <= 45 and len(train) + found.other_part == 100
    assert "only 27 different first messages begin 100 different prompts" in found.warnings()[0]
    assert data.report.as_json()["sources"][0]["held_out_by"] == "the whole prompt"
    held_out = data._read(sources.conversations, part="held_out")
    assert {row["prompt"][0]["content"] for row in train} & {
        row["prompt"][0]["content"] for row in held_out
    } == {"Hello"}
    texts = {piece.text for piece in Stream(data.source, part="held_out", seed=0)}
    assert len(texts) == len(held_out), "a corpus holds out the same conversations"
    assert all(any(row["prompt"][2]["content"] in text for text in texts) for row in held_out)


def test_whole_prompt_of_one_message_is_its_first_message():
    prompt = [system("S"), user("Tell  ME")]
    assert split_key.whole_prompt(prompt) == split_key.first_request(prompt) == "tell me"


def test_repeated_prompts_do_not_change_the_key(rows):
    data = rows(*[{"prompt": f"q{n // 4}", "chosen": f"A{n}", "rejected": "B"} for n in range(120)])
    data._read(sources.preferences, part="train")
    assert not data.report.sources[0].key.is_whole_prompt


def test_unexpected_held_out_share_is_a_warning(rows):
    data = rows(*numbered(40), held_out=HeldOut(documents=0.5))
    data._read(sources.conversations, part="train")
    assert data.report.sources[0].warnings() == []
    kept = trained(rows)
    few = [row for row in numbered(400) if row["messages"][0]["content"] in kept]
    data = rows(*few, held_out=HeldOut(documents=0.3))
    data._read(sources.conversations, part="train")
    assert data.report.sources[0].warnings() == ["0.0% of the rows are held out, instead of 30.0%"]


def trained(rows):
    data = rows(*numbered(400), held_out=HeldOut(documents=0.3))
    return {row["prompt"][0]["content"] for row in data._read(sources.conversations, part="train")}


DOCUMENTED = re.findall(r"^\| ([^|]+) \| `(\{.*\})` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize(("name", "row", "stages"), DOCUMENTED, ids=[name for name, *_ in DOCUMENTED])
def test_documented_rows_are_read_by_their_stages(rows, name, row, stages):
    data = rows(json.loads(row))
    usable = {"ppo": data.prompts, "sft": data.sft, "corpus": data.text, "dpo": data.pairs}
    for stage, read in usable.items():
        if stage in stages and "label" not in row:
            assert len(read()) == 1, stage
            assert stage == "corpus" or data.report.sources[0].unread == {}
        elif "label" not in row:
            refused(read, "a.jsonl")
    assert ("dpo" in stages) == ("reward" in stages)


def test_every_documented_row_is_found():
    assert len(DOCUMENTED) == 24


def test_error_without_a_usable_row_names_the_reasons(rows):
    data = rows({"messages": [Q]}, {"messages": [Q, A], "tools": [1]})
    tools = "1 rows: tools that are not a list of functions in JSON"
    refused(data.sft, "no usable row of 2", "1 rows: no answer of the assistant (first ", "a.jsonl:1", tools)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [{"role": ["user"], "content": "x"}]}, ["unknown role ['user']"]),
        ({"messages": [{"role": "user", "content": {"a": 1}}, A]}, ["no text"]),
        ({"messages": [["user", "Q"]]}, ["`role` and `content`"]),
        (
            {"messages": '[{"role": "user", "content": "\\ud83d"}, {"role": "bot", "content": "A"}]'},
            ["not text"],
        ),
        ({"messages": "[{'role': 'user', 'content': b'Q'}]"}, ["not text"]),
        ({"messages": "[{'role': " + "[" * 100_000}, ["not JSON"]),
        ({"instruction": [Q], "input": "I", "output": {"a": 1}}, ["`role` and `content`"]),
        ({"prompt": "Q", "responses": ["A", "B"], "scores": [10**400, 1]}, ["'scores'"]),
        ({"prompt": "Q", "answer_a": "A", "answer_b": "B", "label": 10**400}, ["'label'"]),
        ({"prompt": "Q", "answer_a": "A", "answer_b": "B"}, ["chosen_index", "answer_a"]),
        ({"messages": [Q, assistant("A", thinking=3)]}, ["thinking"]),
        ({}, ["the row is empty", "on_bad_row: skip"]),
    ],
)
def test_values_of_wrong_types_are_errors_with_a_location(rows, row, words):
    refused(rows(row).sft, "a.jsonl:1", *words)


def test_a_repeated_prompt_is_counted(rows):
    data = rows(
        {"prompt": "Q", "chosen": "Q A", "rejected": "Q B"}, {"prompt": "Q", "chosen": "A", "rejected": "B"}
    )
    assert data.pairs() == [([Q], [A], [B])] * 2
    assert data.report.sources[0].notes == {
        "the answer repeats the text of its prompt, which is read once": 1
    }


def test_columns_without_effect_are_refused():
    world = DataSource(name="storyworld", examples=5, columns=Columns(prompt="x"))
    refused(lambda: sources.prompts(world, part="train", seed=0), "storyworld", "`columns` has no effect")
    for settings, words in (
        ({"columns": {}}, "name at least one column"),
        ({"columns": {"prompt": "x"}, "field": "y"}, "give `field` or `columns`, not both"),
    ):
        with pytest.raises(ValueError, match=words):
            DataSource.model_validate({"name": "a.jsonl", **settings})


def test_cells_spell_numbers_and_truth_values(tmp_path):
    """CSV files hold text only: a label that is ignored would make a bad answer a good one."""
    (tmp_path / "kto.csv").write_text("prompt,completion,label\nQ,A,true\nQ,B,False\nR,C,1\nR,D,0\n")
    name = str(tmp_path / "kto.csv")
    chats = sources.conversations(DataSource(name=name), part="all", seed=0)
    assert [row["completion"][0]["content"] for row in chats] == ["A", "C"]
    pairs = sources.preferences(DataSource(name=name), part="all", seed=0)
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in pairs] == [
        ("A", "B"),
        ("C", "D"),
    ]
    lines = ["prompt,chosen,rejected,score_chosen,score_rejected,margin", "Q,A,B,10,9,0.5", "R,C,D,9,10,"]
    (tmp_path / "scores.csv").write_text("\n".join(lines))
    report = ReadingReport()
    source = DataSource(name=str(tmp_path / "scores.csv"))
    rows = list(sources.preferences(source, part="all", seed=0, report=report))
    assert [(row["prompt"][0]["content"], row["margin"]) for row in rows] == [("Q", 0.5)]
    assert report.dropped == {"score_chosen is lower than score_rejected": 1}
    (tmp_path / "scores.csv").write_text("\n".join([*lines[:2], "R,C,D,high,10,"]))
    with pytest.raises(DataError, match="'score_chosen' is 'high', not a number"):
        sources.preferences(source, part="all", seed=0)


def test_spelled_end_tokens_are_removed_from_answers(rows):
    data = rows(
        {"messages": [user("Q"), assistant("A<|im_end|>"), user("R</s>"), assistant("B </s>\n")]},
        {"prompt": "Q", "completion": "A<|endoftext|>"},
        {"prompt": "Q", "completion": "The token </s> ends a text."},
    )
    (first, second, third) = data._read(sources.conversations, part="all")
    texts = [message["content"] for message in [*first["prompt"], *first["completion"]]]
    assert texts == ["Q", "A", "R</s>", "B "]
    assert second["completion"][0]["content"] == "A"
    assert third["completion"][0]["content"] == "The token </s> ends a text."
    assert data.report.sources[0].notes == {
        "an end token that is spelled at the end of an answer is removed": 2
    }


def test_answer_before_the_first_request_is_named(rows):
    data = rows({"messages": [assistant("Hello"), user("Q"), assistant("A")]})
    (row,) = data._read(sources.conversations, part="all")
    assert [message["content"] for message in row["prompt"]] == ["Hello", "Q"]
    assert data.report.sources[0].notes == {"an answer before the first request is not learned": 1}
