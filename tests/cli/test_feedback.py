"""`toolkit feedback`."""

from __future__ import annotations

import json

import pytest

from toolkit.base.errors import UsageError
from toolkit.cli import feedback
from toolkit.playground.feedback import NewVote, VoteLog


@pytest.fixture
def votes(tmp_path):
    log = VoteLog(tmp_path / "feedback.sqlite")
    for number in range(30):
        turns = [{"role": "user", "content": f"prompt {number}"}]
        vote = "tie" if number % 10 == 0 else "a"
        log.add(NewVote(turns, "yes", "no", vote, "kim" if number % 2 else "lee", ("new", "old"), "ab"))
    log.close()
    return tmp_path / "feedback.sqlite"


def test_the_summary_names_the_better_model_and_the_people(votes, capsys):
    assert feedback.main([str(votes)]) == 0
    out = capsys.readouterr().out
    assert "30 votes on 30 pairs by 2 people; 3 ties, 0 with two bad answers" in out
    assert "new is better" in out and "95.0%" in out and "kim" in out
    assert feedback.main([str(votes), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["comparisons"][0]["verdict"] == "new"


def test_an_export_says_what_it_wrote(votes, tmp_path, capsys):
    output = tmp_path / "pairs.jsonl"
    assert feedback.main(["export", str(votes), "--output", str(output)]) == 0
    assert f"{output}: 27 preferences from 30 votes on 30 pairs" in capsys.readouterr().out
    assert len(output.read_text().splitlines()) == 27
    assert len((tmp_path / "pairs.votes.jsonl").read_text().splitlines()) == 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "FILE"], "export and --output go together"),
        (["FILE", "--output", "pairs.jsonl"], "export and --output go together"),
        (["FILE", "other"], "unrecognized arguments: other"),
        (["export", "FILE", "--output", "pairs.csv"], "must end in .jsonl"),
    ],
)
def test_wrong_arguments(votes, arguments, message):
    with pytest.raises(UsageError, match=message):
        feedback.main([str(votes) if word == "FILE" else word for word in arguments])
