"""People's votes, from both kinds of files."""

from __future__ import annotations

import json
import sqlite3

import numpy as np
import pytest

from toolkit.base.errors import DataError
from toolkit.evaluate import judges
from toolkit.evaluate.answers import Answers
from toolkit.evaluate.votes import votes_judge

PROMPTS = [[{"role": "user", "content": text}] for text in ("one?", "two?", "three?")]
MINE, THEIRS = Answers(texts=["a1", "a2", "a3"]), Answers(texts=["b1", "b2", "b3"])
VOTES = [
    {"prompt": "one?", "answer_a": "a1", "answer_b": "b1", "vote": "a", "voter": "kim"},
    {"prompt": "one?", "answer_a": "b1", "answer_b": "a1", "vote": "B", "voter": "lee"},
    {"prompt": "one?", "answer_a": "a1", "answer_b": "b1", "vote": "b", "voter": "ann"},
    {"prompt": PROMPTS[1], "answer_a": "b2", "answer_b": "a2", "vote": "tie"},
    {"prompt": "three?", "answer_a": "a3", "answer_b": "another", "vote": "a"},
]


def as_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_table(path, rows):
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE votes (prompt TEXT, answer_a TEXT, answer_b TEXT, vote TEXT, voter TEXT)")
    for row in rows:
        prompt = row["prompt"] if isinstance(row["prompt"], str) else json.dumps(row["prompt"])
        base.execute("INSERT INTO votes VALUES (?, ?, ?, ?, ?)",
                     (prompt, row["answer_a"], row["answer_b"], row["vote"], row.get("voter")))  # fmt: skip
    base.commit()
    base.close()
    return path


@pytest.mark.parametrize(("write", "name"), [(as_lines, "votes.jsonl"), (as_table, "votes.sqlite")])
def test_votes_are_means_of_their_pair_in_either_order(tmp_path, write, name):
    judge = votes_judge(write(tmp_path / name, VOTES))
    outcomes = judge.compare(PROMPTS, MINE, THEIRS).outcomes
    assert outcomes[:2].tolist() == [pytest.approx(2 / 3), 0.5] and np.isnan(outcomes[2])
    turned = judge.compare(PROMPTS, THEIRS, MINE).outcomes
    assert turned[:2].tolist() == [pytest.approx(1 / 3), 0.5]
    assert judge.facts["votes"] == 5 and judge.facts["voters"] == 3
    assert judges.doubt_of(judge) is None
    assert judges.gate(judge, PROMPTS, THEIRS, words=20, seed=0).to_json() == {"passed": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no votes"),
        ("{", "votes.jsonl:1: is not JSON"),
        ("[1]", "votes.jsonl:1: is not an object"),
        ('{"prompt": "p", "answer_a": "a", "vote": "a"}', "votes.jsonl:1: has no answer_b"),
        ('{"prompt": "p", "answer_a": "a", "answer_b": 3, "vote": "a"}', "an answer is no text"),
        ('{"prompt": "p", "answer_a": "a", "answer_b": "b", "vote": "left"}', "vote is 'left'"),
    ],
)
def test_files_that_hold_no_votes(tmp_path, text, message):
    (tmp_path / "votes.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        votes_judge(tmp_path / "votes.jsonl")


def test_a_database_without_the_table(tmp_path):
    sqlite3.connect(tmp_path / "votes.db").close()
    (tmp_path / "votes.db").touch()
    with pytest.raises(DataError, match="no such table: votes"):
        votes_judge(tmp_path / "votes.db")
    with pytest.raises(DataError, match="there is no such file of votes"):
        votes_judge(tmp_path / "nowhere.db")
