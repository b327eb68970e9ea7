"""`toolkit data`: what a training would read, as text and as one JSON object."""

from __future__ import annotations

import json

import pytest

from tests.data.chat_templates import FORMATS
from tests.data.test_columns import DOCUMENTED
from toolkit.cli.main import main

CHATS = [
    {"messages": [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "weight": 0},
        {"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A fox."},
    ], "rating": 3},
    {"messages": [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": ""}]},
    {"prompt": "\n\nHuman: Q\n\nAssistant:", "completion": " A"},
]  # fmt: skip


DIALOGUE = "Human: Q\n\nAssistant: A<|endoftext|>"


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in CHATS))
    return path


def as_json(capsys, *arguments):
    status = main(["data", *map(str, arguments), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == found["used"] + found["joined"] + sum(found["left_out"].values())
    return status, found


def test_conversations(chats, capsys):
    status, found = as_json(capsys, chats)
    assert status == 0 and found["as"] == "sft" and found["format"].startswith(".jsonl: ")
    assert (found["rows"], found["used"], found["left_out"]) == (3, 2, {"an answer is empty": 1})
    assert found["warnings"] == ["not read: column 'rating' (1 rows)"]
    assert found["examples"] == [
        {"text": "<|user|>Hi<|assistant|>Hello<|endoftext|>"
                 "<|user|>Who are you?<|assistant|>A fox.<|endoftext|>",
         "learned": "A fox.<|endoftext|>"},
        {"text": "<|user|>Q<|assistant|>A<|endoftext|>", "learned": "A<|endoftext|>"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "examples"),
    [
        ("text", [{"text": DIALOGUE, "learned": DIALOGUE}]),
        ("prompts", [{"text": "<|user|>Q<|assistant|>", "learned": ""}]),
        ("sft", [{"text": "<|user|>Q<|assistant|>A<|endoftext|>", "learned": "A<|endoftext|>"}]),
    ],
)  # fmt: skip
def test_rows_are_read_as_what_is_asked_for(tmp_path, capsys, kind, examples):
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(CHATS[2]))
    assert as_json(capsys, path, "--as", kind) == (0, {
        "format": ".jsonl: completion + prompt", "as": kind,
        "rows": 1, "used": 1, "joined": 0, "left_out": {}, "warnings": [], "examples": examples,
    })  # fmt: skip


def test_preferences_with_mapped_columns(tmp_path, capsys):
    path = tmp_path / "pairs.csv"
    path.write_text("question,best,worst\nHow?,Thus,No\nWhy?,Because,Because\n")
    columns = "columns={prompt: question, chosen: best, rejected: worst}"
    status, found = as_json(capsys, path, columns)
    assert status == 0 and found["as"] == "preferences" and found["used"] == 1
    assert found["examples"] == [
        {"text": "<|user|>How?<|assistant|>Thus<|endoftext|>", "learned": "Thus<|endoftext|>",
         "rejected": "No<|endoftext|>"}
    ]  # fmt: skip


def test_answers_with_labels_are_counted_once(tmp_path, capsys):
    path = tmp_path / "kto.csv"
    path.write_text("prompt,completion,label\nQ,A,true\nQ,B,false\nR,C,true\n")
    _, found = as_json(capsys, path)
    assert (found["rows"], found["used"], found["joined"]) == (3, 1, 1)


def test_text_and_its_separator(tmp_path, capsys):
    path = tmp_path / "dump.txt"
    path.write_text("One.<|endoftext|>Two.<|endoftext|> <|endoftext|>")
    status, found = as_json(capsys, path, "separator=<|endoftext|>")
    assert status == 0 and found["as"] == "text" and found["used"] == 2
    assert [row["text"] for row in found["examples"]] == ["One.<|endoftext|>", "Two.<|endoftext|>"]


def test_nothing_usable_has_status_2(tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(CHATS[1]))
    status, found = as_json(capsys, path)
    assert status == 2 and found["examples"] == [] and found["left_out"] == {"an answer is empty": 1}
    assert main(["data", str(path)]) == 2
    captured = capsys.readouterr()
    assert "nothing of this can be used" in captured.err
    assert f"left out  1: an answer is empty; first: {path}:1" in captured.out


def test_output_for_people_marks_what_is_learned(chats, capsys):
    assert main(["data", str(chats), "--rows", "1"]) == 0
    out = capsys.readouterr().out
    assert "read as   sft\nrows      3\nused      2\n" in out
    assert "Who are you?<|assistant|>\u27e6A fox.<|endoftext|>\u27e7" in out and "row 2" not in out


def test_tokens_and_template_of_a_model(chats, tmp_path, capsys):
    FORMATS["chatml, other eos"].tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    _, found = as_json(capsys, chats, "--model", tmp_path / "model")
    assert found["examples"][1] == {
        "text": "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>",
        "learned": "A<|im_end|>",
    }
    assert main(["data", str(chats), "--model", str(tmp_path / "model")]) == 0
    out = capsys.readouterr().out
    assert "row 2, 12 tokens, 2 of them learned" in out
    assert "|A|<|im_end|>|" in out.replace("\u27e6", "").replace("\u27e7", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.jsonl"], "this file does not exist"),
        (["chats.jsonl", "colums=3"], "colums: unknown key; did you mean columns?"),
        (["chats.jsonl", "field"], "'field' is not an override; write key=value"),
        (["chats.jsonl", "field=nonsense"], "there is no column 'nonsense'"),
        (["chats.jsonl", "--as", "pictures"], "invalid choice: 'pictures'"),
    ],
)
def test_mistakes_are_named(chats, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(chats.parent)
    assert main(["data", *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and "Traceback" not in captured.err and captured.out == ""


LABELLED = "answers with labels (KTO)"


@pytest.mark.parametrize(("name", "row", "stages"), DOCUMENTED, ids=[name for name, *_ in DOCUMENTED])
def test_documented_formats(tmp_path, capsys, name, row, stages):
    """Every format of docs/DATA.md is recognised, and its answer is what carries loss."""
    path = tmp_path / "rows.jsonl"
    path.write_text(row)
    kind = "preferences" if "dpo" in stages and name != LABELLED else "sft" if "sft" in stages else "prompts"
    asked = ["--as", "sft"] if name == LABELLED else []
    status, found = as_json(capsys, path, *asked)
    assert (status, found["as"], found["used"], found["left_out"]) == (0, kind, 1, {})
    (example,) = found["examples"]
    begun = "Sure, " if name == "a begun answer" else ""
    system = "<|system|>S" if name == "a system message" else ""
    prompt = f"{system}<|user|>Q<|assistant|>"
    learned = "" if kind == "prompts" else f"{begun}A<|endoftext|>"
    assert example["text"] == prompt + learned and example["learned"] == learned
    assert example.get("rejected") == ("B<|endoftext|>" if kind == "preferences" else None)
