"""Measured rows that are in the training data of a model, also where these are other files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chat_fixtures import write_conversations, write_preferences
from tests.evaluate.written_runs import select, write_run
from toolkit.config.schema import DataSource, HeldOut
from toolkit.data.chat import sources
from toolkit.data.text import documents
from toolkit.evaluate import overlap
from toolkit.evaluate.overlap import MeasuredRows


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_preferences(tmp_path / "pairs.jsonl")
    return tmp_path


def prompts_of(name, part="all", **settings):
    source = DataSource(name=name, **settings)
    rows = sources.prompts(source, part=part, seed=0)
    return MeasuredRows.of_prompts(source, rows["prompt"], unit="prompts", is_held_out=part == "held_out")


def texts_of(name, **settings):
    source = DataSource(name=name, **settings)
    texts = [document.text for document in documents.texts(source, part="all", seed=0)]
    return MeasuredRows.of_texts(source, texts, is_held_out=False)


def write_texts(name, texts):
    Path(name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_prompts_of_another_file_are_counted(folder, capsys):
    """The conversations and the preferences have the same prompts, in other files and formats."""
    write_conversations(folder / "talk.jsonl")
    model = write_run("sft", "sft", data={"name": "talk.jsonl", "held_out": {"documents": 0.3}})
    trained = len(sources.prompts(DataSource(name="talk.jsonl", held_out=HeldOut(documents=0.3)),
                                  part="train", seed=0))  # fmt: skip
    assert 20 < trained < 45
    assert overlap.count(prompts_of("pairs.jsonl"), [model]) == {"t/sft": trained}
    said = f"{trained} of 48 prompts of pairs.jsonl have a prompt that t/sft was trained on (talk.jsonl)"
    assert f"warning: {said}" in capsys.readouterr().err
    shouted = (folder / "pairs.jsonl").read_text().replace("the ", "THE  ").replace(" is ", " is\\n")
    (folder / "loud.jsonl").write_text(shouted)
    assert overlap.count(prompts_of("loud.jsonl"), [model]) == {"t/sft": trained}
    (folder / "new.jsonl").write_text((folder / "pairs.jsonl").read_text().replace("the ", "a "))
    capsys.readouterr()
    assert overlap.count(prompts_of("new.jsonl"), [model]) == {"t/sft": 0}
    assert capsys.readouterr().err == ""


def test_rows_that_the_training_held_out_are_not_compared(folder, monkeypatch):
    model = write_run("reward", data={"name": "pairs.jsonl", "held_out": {"documents": 0.3}})
    same = prompts_of("pairs.jsonl", "held_out", held_out=HeldOut(documents=0.3))
    more = prompts_of("pairs.jsonl", "held_out", held_out=HeldOut(documents=0.6))
    extra = len(more.fingerprints) - len(same.fingerprints)
    assert overlap.count(more, [model]) == {"t/reward": extra} and extra > 3
    monkeypatch.setattr(overlap, "_fingerprints", None)  # nothing is read
    assert overlap.count(same, [model]) == {}


def test_a_test_file_is_compared_with_the_training_file_beside_it(folder):
    lines = (folder / "pairs.jsonl").read_text().splitlines(keepends=True)
    (folder / "test.jsonl").write_text("".join(lines[:5]))
    held_out = {"name": "test.jsonl"}
    model = write_run("reward", data={"name": "pairs.jsonl", "held_out": held_out})
    rows = prompts_of("pairs.jsonl", "held_out", held_out=HeldOut(**held_out))
    assert overlap.count(rows, [model]) == {"t/reward": 5}


def test_ancestors_and_several_models_are_counted_once(folder):
    lines = (folder / "pairs.jsonl").read_text().splitlines(keepends=True)
    (folder / "a.jsonl").write_text("".join(lines[:10]))
    (folder / "b.jsonl").write_text("".join(lines[5:20]))
    write_run("sft", "sft", data={"name": "a.jsonl", "held_out": "none"})
    first = write_run("dpo", "dpo", data={"name": "b.jsonl", "held_out": "none"}, parents={"model": "sft"})
    second = write_run("ppo", "ppo", data={"name": "a.jsonl", "held_out": "none"}, parents={"model": "sft"})
    rows = prompts_of("pairs.jsonl")
    assert overlap.count(rows, [first, second]) == {"t/dpo": 15, "t/sft": 10, "t/ppo": 10}
    (folder / "a.jsonl").write_text("{}\n")  # no longer what was read
    assert overlap.count(rows, [first, second]) == {"t/dpo": 15}


def test_documents_of_another_file_are_counted(folder, capsys):
    write_texts("train.jsonl", [f"Document {number}" for number in range(40)])
    write_texts("test.jsonl", [f"document\n{number} " for number in range(30, 50)])
    write_run("corpus", "corpus", data={"name": "train.jsonl", "held_out": {"documents": 0.3}})
    model = write_run("pretrain", "pretrain", parents={"tokens": "corpus"})
    trained = {document.text for document in documents.texts(
        DataSource(name="train.jsonl", held_out=HeldOut(documents=0.3)), part="train", seed=0)}  # fmt: skip
    expected = sum(f"Document {number}" in trained for number in range(30, 50))
    assert overlap.count(texts_of("test.jsonl"), [model]) == {"t/pretrain": expected} and 2 < expected < 10
    assert (
        f"{expected} of 20 documents of test.jsonl are also documents that t/pretrain"
        in capsys.readouterr().err
    )
    assert overlap.count(prompts_of("pairs.jsonl"), [model]) == {}, "text has no prompts"


def test_conversations_of_a_corpus_have_prompts(folder):
    write_run("corpus", "corpus", data={"name": "pairs.jsonl", "held_out": {"documents": 0.3}})
    model = write_run("pretrain", "pretrain", parents={"tokens": "corpus"})
    trained = len(sources.prompts(DataSource(name="pairs.jsonl", held_out=HeldOut(documents=0.3)),
                                  part="train", seed=0))  # fmt: skip
    assert overlap.count(prompts_of("pairs.jsonl"), [model]) == {"t/pretrain": trained}


def test_large_files_are_not_compared_and_named(folder, monkeypatch, capsys):
    model = write_run("reward", data={"name": "pairs.jsonl"})
    monkeypatch.setattr(overlap, "MAX_BYTES", 100)
    assert overlap.count(prompts_of("pairs.jsonl"), [model]) == {}
    assert "pairs.jsonl: not compared with the measured rows, because it has" in capsys.readouterr().err


# Hub datasets: manifests only, no row is read


@pytest.mark.parametrize(
    ("trained", "measured", "part"),
    [
        ({}, {}, "held_out"),
        ({"split": "train"}, {"split": "train"}, "held_out"),
        ({"split": "all"}, {"split": "test"}, "held_out"),
        ({}, {"split": "train"}, "held_out"),
        ({"split": "train"}, {"split": "test"}, "all"),
        ({"config": "a"}, {"config": "b"}, "all"),
        ({"config": "a"}, {"config": "a"}, "held_out"),
    ],
)
def test_a_hub_dataset_of_the_training_is_recognized(folder, trained, measured, part):
    data = {"name": "owner/name", "held_out": {"documents": 0.2}, **trained}
    model = write_run("sft", "sft", data=data)
    found = select(model, "owner/name", **measured)
    assert (found.part, found.trained_on) == (part, () if part == "all" else ("t/sft",))
    assert found.source.held_out == (HeldOut(documents=0.2) if part == "held_out" else "all")
    other = select(model, "owner/another", **measured)
    assert (other.part, other.trained_on) == ("all", ())
    revised = select(model, "owner/name@main", **measured)
    assert revised.trained_on == found.trained_on, "another revision has mostly the same rows"
