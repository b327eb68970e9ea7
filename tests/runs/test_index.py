"""Listing runs and finding files that are no longer needed."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.runs import small_runs
from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.runs import checkpoint, index, run_lock, seal
from toolkit.runs.opening import open_run


def unfinished(runs: Path, steps: tuple[int, ...] = (1, 2, 3), name: str = "t/tokenizer") -> Path:
    """Create an unfinished run with complete checkpoints."""
    with open_run(small_runs.tokenizer(name), runs_dir=runs) as run:
        for step in steps:
            checkpoint.save(run, step, lambda folder: (folder / "weights").write_text("w" * 100), keep=10)
    return runs / name


def names(items: list[index.Removable]) -> list[str]:
    return [item.path.name for item in items]


# The list


def test_runs_are_listed_with_stage_state_size_and_age(runs):
    small_runs.make(small_runs.tokenizer("a/tokenizer"), runs)
    small_runs.make(small_runs.tokenizer("b/c/tokenizer"), runs)
    small_runs.make(small_runs.corpus("a/corpus", parent="runs/a/tokenizer"), runs)
    unfinished(runs, name="b/tokenizer")
    (runs / "a" / "notes").mkdir()
    entries = index.list_runs(runs)
    assert [(entry.reference, entry.stage, entry.state) for entry in entries] == [
        ("a/corpus", "corpus", "sealed"),
        ("a/tokenizer", "tokenizer", "sealed"),
        ("b/c/tokenizer", "tokenizer", "sealed"),
        ("b/tokenizer", "tokenizer", "unfinished"),
    ]
    for entry in entries:
        assert entry.bytes == sum(file.stat().st_size for file in entry.path.rglob("*") if file.is_file())
        assert timedelta(seconds=-2) < datetime.now(UTC) - entry.changed < timedelta(minutes=5)
        assert entry.seconds >= 0


def test_list_of_one_stage_excludes_others(runs):
    small_runs.make(small_runs.tokenizer(), runs)
    small_runs.make(small_runs.corpus(), runs)
    assert [entry.reference for entry in index.list_runs(runs, stage="corpus")] == ["t/corpus"]
    assert index.list_runs(runs, stage="ppo") == []


def test_single_run_lists_itself(runs):
    path = small_runs.make(small_runs.tokenizer(), runs)
    assert [entry.reference for entry in index.list_runs(path)] == ["t/tokenizer"]


def test_links_and_other_folders_are_not_listed(runs, tmp_path):
    path = small_runs.make(small_runs.tokenizer(), runs)
    (runs / "link").symlink_to(path)
    (runs / "other").mkdir()
    (runs / "other" / "manifest.json").write_text('{"format": "of another program"}')
    assert [entry.reference for entry in index.list_runs(runs)] == ["t/tokenizer"]
    with pytest.raises(RunError, match="no such folder"):
        index.list_runs(tmp_path / "absent")


def test_state_follows_the_run_lifecycle(runs):
    path = runs / "t" / "tokenizer"
    assert index.state_of(path) == "new"
    unfinished(runs)
    assert index.state_of(path) == "unfinished"
    small_runs.make(small_runs.tokenizer(), runs)
    assert index.state_of(path) == "sealed"


# What may be removed


def test_unfinished_run_keeps_its_newest_complete_checkpoint(runs):
    path = unfinished(runs)
    assert names(index.removable(path)) == ["step-00000001", "step-00000002"]
    assert len(checkpoint.steps(path / "checkpoints")) == 3  # listing removes nothing
    removed = index.remove(path)
    assert names(removed) == ["step-00000001", "step-00000002"]
    assert removed[0].bytes > 100
    with open_run(small_runs.tokenizer(), runs_dir=runs) as run:
        assert checkpoint.latest(run)[0] == 3
    assert index.remove(path) == []


def test_damaged_newest_checkpoint_is_removed_and_previous_kept(runs):
    path = unfinished(runs)
    (path / "checkpoints" / "step-00000003" / "weights").write_text("another")
    assert names(index.remove(path)) == ["step-00000001", "step-00000003"]
    assert [step for step, _ in checkpoint.steps(path / "checkpoints")] == [2]


def test_nothing_is_removed_without_a_complete_checkpoint(runs):
    path = unfinished(runs)
    for _, folder in checkpoint.steps(path / "checkpoints"):
        (folder / "weights").write_text("another")
    assert index.remove(path) == []
    assert len(checkpoint.steps(path / "checkpoints")) == 3


def test_checkpoint_of_an_incident_is_kept(runs):
    path = unfinished(runs)
    folder = path / "incidents" / "step-00000002"
    folder.mkdir(parents=True)
    files.write_json(folder / "incident.json", {"checkpoint": "../../checkpoints/step-00000001"})
    assert names(index.removable(path)) == ["step-00000002"]


def test_checkpoints_requested_by_the_recipe_are_kept(runs):
    path = unfinished(runs)
    content = files.read_json(path / "manifest.json")
    content["operational"]["keep_every_tokens"] = 1000
    files.write_json(path / "manifest.json", content)
    assert index.removable(path) == []


def test_partially_written_files_are_removed(runs):
    path = unfinished(runs)
    half = files.temporary_sibling(path / "checkpoints" / "step-00000004")
    half.mkdir()
    (half / "weights").write_text("w")
    (path / "checkpoints" / "step-00000003" / ".weights.tmp-1-1").write_text("half")
    removed = names(index.remove(path))
    assert half.name in removed and ".weights.tmp-1-1" in removed
    assert [step for step, _ in checkpoint.steps(path / "checkpoints")] == [3]
    assert not half.exists() and checkpoint.is_whole(path / "checkpoints" / "step-00000003")


def test_files_needed_by_verify_are_kept(runs):
    path = unfinished(runs)
    small_runs.make(small_runs.tokenizer(), runs)
    before = files.list_files(path)
    assert index.removable(path) == [] and index.remove(path) == []
    assert files.list_files(path) == before and seal.verify(path) == []
    # The reason: every checkpoint of a sealed run is one of its outputs.
    shutil.rmtree(path / "checkpoints" / "step-00000001")
    assert any("step-00000001" in problem for problem in seal.verify(path))


def test_scratch_folder_of_a_sealed_run_is_removed(runs):
    path = small_runs.make(small_runs.tokenizer(), runs)
    (path / ".scratch").mkdir()
    (path / ".scratch" / "weights").write_text("w" * 50)
    assert [item.bytes for item in index.remove(path)] == [50]
    assert not (path / ".scratch").exists() and seal.verify(path) == []


def test_run_in_use_is_not_cleaned(runs):
    path = unfinished(runs)
    held = run_lock.hold(path)
    try:
        for action in (index.removable, index.remove):
            with pytest.raises(RunError, match="in use"):
                action(path)
    finally:
        held.release()
    assert len(checkpoint.steps(path / "checkpoints")) == 3
    assert index.state_of(path) == "unfinished"
