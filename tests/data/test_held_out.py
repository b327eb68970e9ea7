"""`held_out`: nothing, everything, another file, or another split."""

from __future__ import annotations

import json

import datasets
import pytest

from tests.chat_fixtures import write_conversations, write_preferences
from toolkit.base import console
from toolkit.base.errors import DataError
from toolkit.config.schema import DataSource, HeldOut, SftRecipe
from toolkit.data import files
from toolkit.data.chat import sources
from toolkit.data.chat.report import ReadingReport
from toolkit.data.text import documents


def rows(source, part, **settings):
    return list(sources.conversations(source, part=part, seed=0, **settings))


def texts(source, part):
    return [document.text for document in documents.texts(source, part=part, seed=0)]


def write_texts(path, words):
    path.write_text("".join(json.dumps({"text": word}) + "\n" for word in words))
    return str(path)


def test_none_and_all(tmp_path):
    name = str(write_conversations(tmp_path / "talk.jsonl"))
    report = ReadingReport()
    assert len(rows(DataSource(name=name, held_out="none"), "train", report=report)) == 48
    assert report.as_json()["sources"][0].keys().isdisjoint({"other_part", "held_out_by"})
    assert len(rows(DataSource(name=name, held_out="all"), "held_out")) == 48
    assert len(rows(DataSource(name=name, held_out="all", held_out_examples=7), "held_out")) == 7
    with pytest.raises(DataError, match="held_out: none leaves no held-out rows"):
        rows(DataSource(name=name, held_out="none"), "held_out")
    with pytest.raises(DataError, match="held_out: all leaves no row to train on"):
        rows(DataSource(name=name, held_out="all"), "train")


def test_a_mixture_measures_the_sources_that_hold_out_rows(tmp_path):
    talk = str(write_conversations(tmp_path / "talk.jsonl"))
    pairs = str(write_preferences(tmp_path / "pairs.jsonl"))
    mixture = [
        DataSource(name=pairs, held_out="none"),
        DataSource(name=talk, held_out=HeldOut(documents=0.3)),
    ]
    alone = rows(mixture[1], "held_out")
    assert 5 < len(alone) < 25 and rows(mixture, "held_out") == alone
    words = write_texts(tmp_path / "a.jsonl", "abcdefgh")
    more = write_texts(tmp_path / "b.jsonl", ["x", "y"])
    mixture = [DataSource(name=words, held_out="none"), DataSource(name=more, held_out="all")]
    stream = documents.Stream(mixture, part="held_out", seed=0)
    assert [piece.text for piece in stream] == ["x", "y"] and stream.documents == {1: 2}
    assert stream.fraction() == 1.0


def test_another_file_has_the_held_out_rows(tmp_path):
    train, test = (
        write_texts(tmp_path / "train.jsonl", "abcdefghijk"),
        write_texts(tmp_path / "t.jsonl", "xyz"),
    )
    source = DataSource(name=train, held_out=HeldOut(name=test), held_out_examples=2, examples=10)
    assert len(texts(source, "train")) == 10 and len(texts(source, "held_out")) == 2
    assert set(texts(source, "held_out")) < set("xyz")
    assert len(texts(source, "all")) == 10


def test_another_file_of_text_needs_none_of_the_settings_of_the_first(tmp_path):
    (tmp_path / "train.txt").write_bytes("é|è|à".encode("cp1252"))
    datasets.Dataset.from_dict({"text": ["x", "y"]}).to_parquet(tmp_path / "test.parquet")
    test = HeldOut(name=str(tmp_path / "test.parquet"))
    source = DataSource(name=str(tmp_path / "train.txt"), held_out=test, encoding="cp1252", separator="|")
    assert (texts(source, "train"), texts(source, "held_out")) == (["é", "è", "à"], ["x", "y"])


def test_another_split_has_the_held_out_rows(tmp_path):
    splits = {"train": "abcdefgh", "test": "xyz", "rest": "r"}
    datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"text": list(words)}) for name, words in splits.items()}
    ).save_to_disk(tmp_path / "saved")
    source = DataSource(name=str(tmp_path / "saved"), split="train", held_out=HeldOut(split="test"))
    assert "".join(texts(source, "train")) == "abcdefgh" and "".join(texts(source, "held_out")) == "xyz"
    whole = source.model_copy(update={"held_out": HeldOut(name=str(tmp_path / "saved" / "rest"))})
    assert texts(whole, "held_out") == ["r"]
    with pytest.raises(DataError, match="no split 'dev'"):
        texts(source.model_copy(update={"held_out": HeldOut(split="dev")}), "held_out")


def test_both_files_are_recorded(tmp_path):
    train, test = write_texts(tmp_path / "train.jsonl", "abc"), write_texts(tmp_path / "test.jsonl", "xyz")
    data = {"name": train, "held_out": {"name": test}}
    recipe = SftRecipe(stage="sft", model="x/y", data=data)
    digests = files.digests(recipe)
    assert digests == {"data": files.digest(DataSource(name=train)),
                       "data.held_out": files.digest(DataSource(name=test))}  # fmt: skip
    write_texts(tmp_path / "test.jsonl", "xyy")
    assert files.digests(recipe)["data.held_out"] != digests["data.held_out"]
    assert files.digests(SftRecipe(stage="sft", model="x/y", data=[data, data])).keys() == {
        "data[0]", "data[0].held_out", "data[1]", "data[1].held_out"
    }  # fmt: skip


def test_held_out_rows_that_are_trained_on_are_counted(tmp_path, capsys):
    train = str(write_conversations(tmp_path / "train.jsonl"))
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    other = json.dumps(
        {"messages": [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "so"}]}
    )
    (tmp_path / "test.jsonl").write_text(
        "\n".join([*(line.replace("the", "THE ") for line in lines[:5]), other])
    )
    source = DataSource(name=train, held_out=HeldOut(name=str(tmp_path / "test.jsonl")))
    assert len(rows(source, "held_out")) == 6
    rows(source, "held_out")
    err = capsys.readouterr().err
    assert err.count("test.jsonl: 5 of 6 held-out rows have a prompt that is also trained on") == 1
    # A part of the training rows is sampled: only these are trained on.
    console.tell_once.cache_clear()
    limited = source.model_copy(update={"examples": 30})
    trained = {row["prompt"][0]["content"] for row in rows(limited, "train")}
    expected = sum(json.loads(line)["messages"][0]["content"] in trained for line in lines[:5])
    rows(limited, "held_out")
    assert 0 < expected < 5 and f" {expected} of 6 held-out rows" in capsys.readouterr().err
    # Rows that another source of the mixture holds out are not trained on.
    console.tell_once.cache_clear()
    half = DataSource(name=train, held_out=HeldOut(documents=0.5))
    (tmp_path / "why.jsonl").write_text(other)
    mixture = [half, DataSource(name=str(tmp_path / "why.jsonl"), held_out=source.held_out, weight=0.04)]
    trained = {row["prompt"][0]["content"] for row in rows(half, "train")}
    expected = 1 + sum(json.loads(line)["messages"][0]["content"] in trained for line in lines[:5])
    rows(mixture, "held_out")
    assert 1 < expected < 6 and f" {expected} of 6 held-out rows" in capsys.readouterr().err
    (tmp_path / "test.jsonl").write_text(other)
    rows(source, "held_out")
    assert "trained on" not in capsys.readouterr().err
