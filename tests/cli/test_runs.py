"""`toolkit runs`: the list of runs and `--clean`."""

from __future__ import annotations

import json
import sys

import pytest

from tests.runs import small_runs
from tests.runs.test_index import unfinished
from toolkit.base.errors import UsageError
from toolkit.cli import runs as verb
from toolkit.cli.main import main
from toolkit.runs import checkpoint, run_lock


@pytest.fixture
def two(runs):
    """Create a sealed and an unfinished run."""
    small_runs.make(small_runs.tokenizer("a/tokenizer"), runs)
    return unfinished(runs, name="b/tokenizer")


def steps(path):
    return [step for step, _ in checkpoint.steps(path / "checkpoints")]


def test_table_and_json_list_both_runs(two, runs, capsys):
    assert main(["runs", str(runs)]) == 0
    table = capsys.readouterr().out
    for text in ("a/tokenizer", "sealed", "b/tokenizer", "unfinished"):
        assert text in table
    assert main(["runs", str(runs), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["reference"], run["stage"], run["state"]) for run in listed] == [
        ("a/tokenizer", "tokenizer", "sealed"),
        ("b/tokenizer", "tokenizer", "unfinished"),
    ]
    assert listed[0].keys() >= {"path", "bytes", "changed", "seconds"}


def test_stage_filter_selects_and_unknown_stage_is_refused(two, runs, capsys):
    assert main(["runs", str(runs), "--stage", "ppo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == []
    assert main(["runs", str(runs), "--stage", "tokeniser"]) == 2
    assert "tokenizer" in capsys.readouterr().err


def test_dry_run_removes_nothing(two, runs, capsys):
    assert main(["runs", str(runs), "--clean", "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert [item["path"][-8:] for item in content["removable"]] == ["00000001", "00000002"]
    assert content["removed"] == [] and steps(two) == [1, 2, 3]
    assert "step-00000001" in captured.err and "step-00000003" not in captured.err.replace("from step 3", "")


def test_yes_removes_old_checkpoints_without_prompt(two, runs, capsys):
    assert main(["runs", str(runs), "--clean", "--yes", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["removed"]) == 2
    assert steps(two) == [3]
    assert main(["runs", str(runs), "--clean", "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "status", "left"), [("y\n", 0, [3]), ("n\n", 1, [1, 2, 3]), ("", 1, [1, 2, 3])]
)
def test_clean_lists_before_prompting_and_requires_confirmation(
    two, runs, capsys, monkeypatch, answer, status, left
):
    shown = []

    class Terminal:
        def isatty(self):
            return True

        def readline(self):
            shown.append(capsys.readouterr().err)
            return answer

    monkeypatch.setattr(sys, "stdin", Terminal())
    assert main(["runs", str(runs), "--clean"]) == status
    assert "step-00000001" in shown[0] and "[y/N]" in shown[0]
    assert steps(two) == left


def test_clean_without_terminal_requires_yes(two, runs, capsys):
    assert main(["runs", str(runs), "--clean"]) == 2
    assert "--yes" in capsys.readouterr().err and steps(two) == [1, 2, 3]


def test_run_in_use_is_skipped(two, runs, capsys):
    held = run_lock.hold(two)
    try:
        assert main(["runs", str(runs), "--clean", "--yes", "--json"]) == 0
    finally:
        held.release()
    captured = capsys.readouterr()
    assert json.loads(captured.out)["in_use"] == [str(two)] and "in use" in captured.err
    assert steps(two) == [1, 2, 3]


def test_clean_options_require_clean(capsys):
    assert main(["runs", "--yes"]) == 2
    assert "--clean" in capsys.readouterr().err


def test_age_formatting():
    assert [verb.age_text(seconds) for seconds in (5, 7300, 86400, 5 * 86400)] == [
        "5s", "2h01m", "24h00m", "5 days",
    ]  # fmt: skip


def test_size_formatting():
    assert [verb.size(count) for count in (0, 999, 1000, 2_345_678, 3 * 10**12)] == [
        "0 B", "999 B", "1.0 kB", "2.3 MB", "3.0 TB",
    ]  # fmt: skip
    with pytest.raises(UsageError):
        verb._known("none")
