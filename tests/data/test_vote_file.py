"""Files of votes: undos, tables that grow, and votes as preferences of every stage."""

from __future__ import annotations

import json
import sqlite3

import pytest

from toolkit.base.errors import DataError
from toolkit.config.schema import DataSource, DpoRecipe
from toolkit.data import files, vote_export, vote_file
from toolkit.data.chat import sources
from toolkit.data.chat.report import ReadingReport
from toolkit.playground.feedback import NewVote, VoteLog
from toolkit.storyworld import split_of


def new(prompt="one?", a="good answer", b="bad answer", vote="a", voter="kim", **more):
    turns = [{"role": "user", "content": prompt}]
    return NewVote(turns, a, b, vote, voter, **{"models": ("x", "y"), "shown": "ab", **more})


@pytest.fixture
def log(tmp_path):
    opened = VoteLog(tmp_path / "feedback.sqlite")
    yield opened
    opened.close()


def outcomes(path):
    return [row["winner"] for _, row in vote_file.comparisons(path)]


def test_an_undo_is_a_row_that_takes_a_vote_back(log):
    first = log.add(new(vote="b"))
    log.undo(first)
    log.add(new(vote="a"))
    votes, left_out = vote_file.read_votes(log.path)
    assert [vote.value for vote in votes] == [1.0] and left_out == {"undone": 1}
    assert log.count() == 3 and outcomes(log.path) == ["a"]


def test_lines_of_json_undo_in_the_same_ways(tmp_path):
    vote = {"prompt": "p", "answer_a": "x", "answer_b": "y"}
    rows = [
        {**vote, "id": "1", "vote": "a"},
        {**vote, "id": "2", "vote": "a", "undone_by": "3"},
        {**vote, "id": "3", "vote": "b"},
        {"id": "4", "vote": "undo", "undoes": "1"},
    ]
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    votes, left_out = vote_file.read_votes(path)
    assert [vote.value for vote in votes] == [0.0] and left_out == {"undone": 2}
    path.write_text(json.dumps(rows[3]) + "\n")
    with pytest.raises(DataError, match="names a vote that is not there: 1"):
        vote_file.read_votes(path)


def test_votes_cannot_be_changed_or_undone_twice(log):
    vote = log.add(new())
    with sqlite3.connect(log.path) as other:
        for command in ("UPDATE votes SET vote = 'b'", "DELETE FROM votes"):
            with pytest.raises(sqlite3.IntegrityError, match="only ever added"):
                other.execute(command)
    log.undo(vote)
    with pytest.raises(Exception, match="taken back already"):
        log.undo(vote)
    with pytest.raises(Exception, match="there is no such vote"):
        log.undo("nothing")


def test_reading_while_writing_sees_the_journal(log):
    for number in range(3):
        log.add(new(prompt=f"{number}?"))
        assert len(outcomes(log.path)) == number + 1


def test_a_table_in_a_folder_that_may_only_be_read(log, tmp_path):
    log.add(new())
    log.close()
    folder = tmp_path / "folder"
    folder.mkdir()
    log.path.rename(folder / "feedback.sqlite")
    base = vote_file._opened(folder / "feedback.sqlite")
    base.close()
    folder.chmod(0o500)
    try:
        assert outcomes(folder / "feedback.sqlite") == ["a"]
    finally:
        folder.chmod(0o700)


def test_the_first_rows_of_a_table_that_grew(log):
    log.add(new())
    before = files.digest(DataSource(name=str(log.path)))
    fixed = files.with_fixed_votes(
        DpoRecipe(stage="dpo", model="runs/x", data=DataSource(name=str(log.path)))
    )
    (source,) = fixed.data if isinstance(fixed.data, list) else [fixed.data]
    assert source.name == f"{log.path}@1"
    log.add(new(prompt="two?", vote="b"))
    assert files.digest(source) == before != files.digest(DataSource(name=str(log.path)))
    assert len(sources.preferences(source, part="all", seed=0)) == 1
    with pytest.raises(DataError, match="has 2 rows, not 3"):
        files.digest(DataSource(name=f"{log.path}@3"))


def test_the_digest_is_of_the_rows_not_of_the_bytes(log, tmp_path):
    log.add(new())
    before, content = vote_file.digest(log.path), log.path.read_bytes()
    log.close()  # writes the journal back
    assert log.path.read_bytes() != content and vote_file.digest(log.path) == before


def test_votes_are_preferences_without_ties_and_bad_answers(log):
    log.add(new(prompt="majority?", vote="b", voter="a"))
    log.add(new(prompt="majority?", vote="b", voter="b"))
    log.add(new(prompt="majority?", vote="a", voter="c"))
    log.add(new(prompt="split?", vote="a", voter="a"))
    log.add(new(prompt="split?", vote="b", voter="b"))
    log.add(new(prompt="awful?", vote="bad"))
    log.add(new(prompt="checked?", vote="b", kind="attention"))
    report = ReadingReport()
    rows = sources.preferences(DataSource(name=str(log.path)), part="all", seed=0, report=report)
    assert [row["prompt"][0]["content"] for row in rows] == ["majority?"]
    assert rows[0]["chosen"][0]["content"] == "bad answer"
    assert report.sources[0].left_out == {"a tie": 1}


def test_prompts_of_votes_have_a_held_out_part_of_their_own(log):
    # The room shows prompts of the training part only, as another stage divides them.
    prompts = [f"prompt {number}?" for number in range(70)]
    training = [text for text in prompts if split_of([{"role": "user", "content": text}]) == "train"]
    for prompt in training[:60]:
        log.add(new(prompt=prompt))
    source = DataSource(name=str(log.path))
    held_out = sources.preferences(source, part="held_out", seed=0)
    train = sources.preferences(source, part="train", seed=0)
    assert len(held_out) + len(train) == 60 and 1 <= len(held_out) <= 15


def test_an_export_in_the_format_of_trl_with_all_votes_beside_it(log, tmp_path):
    log.add(new(vote="a", voter="kim"))
    log.add(new(a="bad answer", b="good answer", vote="b", voter="lee", models=("y", "x")))
    log.add(new(prompt="two?", vote="tie"))
    log.add(new(prompt="three?", vote="bad"))
    log.undo(log.add(new(prompt="four?")))
    found = vote_export.export(log.path, tmp_path / "pairs.jsonl")
    assert found == {"pairs": 3, "preferences": 1, "ties": 1, "bad": 1, "votes": 4, "left_out": {"undone": 1}}
    (row,) = map(json.loads, (tmp_path / "pairs.jsonl").read_text().splitlines())
    assert row == {
        "prompt": [{"role": "user", "content": "one?"}],
        "chosen": [{"role": "assistant", "content": "good answer"}],
        "rejected": [{"role": "assistant", "content": "bad answer"}],
    }
    beside = [json.loads(line) for line in (tmp_path / "pairs.votes.jsonl").read_text().splitlines()]
    assert [row["outcome"] for row in beside] == ["preference", "tie", "bad"]
    assert [(vote["vote"], vote["voter"], vote["models"]) for vote in beside[0]["votes"]] == [
        ("a", "kim", ["x", "y"]),
        ("a", "lee", ["x", "y"]),
    ]
    exported = DataSource(name=str(tmp_path / "pairs.jsonl"))
    assert len(sources.preferences(exported, part="all", seed=0)) == 1
