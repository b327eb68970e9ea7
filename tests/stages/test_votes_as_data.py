"""Training on a file of votes that grows meanwhile: the run fixes the rows that it reads."""

from __future__ import annotations

import json

import pytest

from tests.chat_fixtures import write_model
from toolkit.base.errors import RunError
from toolkit.cli import main
from toolkit.cli.run import run_command
from toolkit.playground.feedback import NewVote, VoteLog
from toolkit.runs import manifest, seal


def vote(log, number):
    turns = [{"role": "user", "content": f"the thing {number} is red?"}]
    return log.add(NewVote(turns, "yes, red", "no", "a" if number % 4 else "tie", "kim", ("x", "y"), "ab"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("votes")
    write_model(path / "base")
    return path


def recipe(folder, stage, **settings):
    path = folder / "recipes" / "t" / f"{stage}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "stage": stage,
        "model": str(folder / "base"),
        "data": {"name": str(folder / "feedback.sqlite"), "held_out": "none"},
        "trainer": {"max_length": 64, "num_train_epochs": 1},
        "batch_examples": 8,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
    }
    path.write_text(json.dumps({**content, **settings}))
    return path


@pytest.mark.slow
def test_a_run_reads_the_votes_there_were_and_is_reproduced_after_more_of_them(folder, capsys):
    log = VoteLog(folder / "feedback.sqlite")
    for number in range(24):
        vote(log, number)
    assert run_command(recipe(folder, "dpo"), [], runs_dir=folder / "runs") == 0
    run = folder / "runs/t/dpo"
    inputs = manifest.read(run)["inputs"]
    assert inputs["settings"]["data"]["name"] == f"{folder / 'feedback.sqlite'}@24"
    counted = json.loads((run / "evaluation.json").read_text())["data"]
    assert json.dumps(counted).count('"used": 18') == 1
    assert run_command(recipe(folder, "dpo"), [], runs_dir=folder / "runs") == 0  # nothing to do

    vote(log, 24)
    with pytest.raises(RunError, match=r"feedback.sqlite@24.* -> .*feedback.sqlite@25"):
        run_command(recipe(folder, "dpo"), [], runs_dir=folder / "runs")
    first = [f"data.name={folder / 'feedback.sqlite'}@24"]
    assert run_command(recipe(folder, "dpo"), first, runs_dir=folder / "runs") == 0
    assert seal.verify(run) == [] and main.main(["verify", str(run)]) == 0
    assert main.main(["reproduce", str(run), "--output", str(folder / "again")]) == 0
    log.close()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["reward", "sft"])
def test_other_stages_read_votes_as_they_read_preferences(folder, stage):
    log = VoteLog(folder / "feedback.sqlite")
    for number in range(40, 72):
        vote(log, number)
    log.close()
    data = {"name": str(folder / "feedback.sqlite")}
    assert run_command(recipe(folder, stage, data=data), [], runs_dir=folder / "runs") == 0
    assert seal.is_sealed(folder / "runs/t" / stage)
