"""Resuming in this process: incomplete resumes are detected; kept checkpoints; failing writes."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.pretrain import trainings
from tests.pretrain.conftest import train
from toolkit.pretrain import loop, optimizer, training_state
from toolkit.pretrain.step_log import StepLog
from toolkit.pretrain.stopping import StopCondition
from toolkit.runs import checkpoint, metrics

SETTINGS = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 32, "dropout": 0.1},
    "optimizer": {"name": "muon"}, "log_every_steps": 5, "samples": {"prompts": []},
}  # fmt: skip
train_step = loop.train_step


def crash_at(*wanted):
    left = list(wanted)

    def crash(context, number, rows, monitor):
        if left and number == left[0]:
            left.pop(0)
            raise ConnectionError("the machine is gone")
        return train_step(context, number, rows, monitor)

    return crash


def forget_optimizer(monkeypatch):
    monkeypatch.setattr(optimizer, "load_state", lambda *words: None)


def forget_step(monkeypatch):
    """Planted fault: weights resume from step 8 with the rows, rates and dropout of step 9."""
    load = training_state.load_checkpoint

    def wrong(*words, **more):
        state = load(*words, **more)
        return dataclasses.replace(state, step=state.step + 1)

    monkeypatch.setattr(training_state, "load_checkpoint", wrong)


def keep_later_lines(monkeypatch):
    monkeypatch.setattr(StepLog, "resume", lambda self, step, last_line: None)


def keep_later_metrics(monkeypatch):
    monkeypatch.setattr(metrics.Metrics, "truncate", lambda self, step: None)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, corpus) -> Path:
    """Return a run of SETTINGS that keeps all checkpoints."""
    return train(tmp_path_factory.mktemp("uninterrupted"), corpus, keep_checkpoints=3, **SETTINGS)


@pytest.mark.parametrize(
    ("broken", "noticed"),
    [
        (lambda monkeypatch: None, []),
        (forget_optimizer, ["weights", "optimizer", "steps", "metrics"]),
        (forget_step, ["weights", "optimizer", "steps", "metrics"]),
        (keep_later_lines, ["steps", "metrics"]),
        (keep_later_metrics, ["metrics"]),
    ],
)
def test_resume_after_two_crashes_in_one_epoch(uninterrupted, pretrain, monkeypatch, broken, noticed):
    """Tier B: crashes before the first and between two checkpoints; an incomplete resume is detected."""
    monkeypatch.setattr(loop, "train_step", crash_at(3, 10))
    with pytest.raises(ConnectionError):
        pretrain("broken", **SETTINGS)
    torch.rand(3)  # another state of the global generator
    with pytest.raises(ConnectionError):
        pretrain("broken", **SETTINGS)
    broken(monkeypatch)
    assert trainings.differing(uninterrupted, pretrain("broken", **SETTINGS)) == noticed


def test_newest_and_periodic_checkpoints_are_kept(pretrain):
    steps = {}
    for name, settings in (
        ("newest", {"keep_checkpoints": 2}),
        ("every", {"keep_checkpoints": 1, "keep_every_tokens": 256 * 6}),
    ):
        run = pretrain(name, checkpoint_every_tokens=256 * 2, **settings)
        checkpoints = checkpoint.steps(run / "checkpoints")
        assert all(checkpoint.is_whole(path) for _, path in checkpoints)
        steps[name] = [number for number, _ in checkpoints]
    assert steps == {"newest": [10, 12], "every": [6, 12]}


@pytest.mark.parametrize("background", [True, False])
def test_failed_write_ends_the_run_and_keeps_the_previous_checkpoint(
    pretrain, monkeypatch, tmp_path, background
):
    """The error of the writer thread is raised, and the failed checkpoint leaves no files."""
    write = training_state.Snapshot.write

    def full(self, folder, template):
        write(self, folder, template)
        if self.state.step == 8:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_state.Snapshot, "write", full)
    with pytest.raises(OSError, match="No space left"):
        pretrain(**SETTINGS | {"speed": {"background_saves": background}})
    run = tmp_path / "runs" / "t" / "first"
    assert [entry.name for entry in (run / "checkpoints").iterdir()] == ["step-00000004"]
    assert checkpoint.is_whole(run / "checkpoints" / "step-00000004")
    monkeypatch.undo()
    assert trainings.newest(pretrain(**SETTINGS | {"speed": {"background_saves": background}})) == 12


@pytest.mark.parametrize("copied", [True, False])
def test_background_write_saves_the_state_of_its_step(uninterrupted, pretrain, monkeypatch, copied):
    """Training continues during a checkpoint write, and the checkpoint has the weights of its step."""
    write = training_state.Snapshot.write
    threads = set()

    def slow(self, folder, template):
        threads.add(threading.current_thread())
        time.sleep(0.2)  # four steps take less
        write(self, folder, template)

    monkeypatch.setattr(training_state.Snapshot, "write", slow)
    if not copied:  # planted fault: the writer sees the weights that are being trained
        monkeypatch.setattr(training_state, "_copy_to_cpu", lambda tensor, *more: tensor.detach())
    run = pretrain("slow", keep_checkpoints=3, **SETTINGS)
    assert threads and threading.main_thread() not in threads
    name = "checkpoints/step-00000004/model.safetensors"
    assert ((run / name).read_bytes() == (uninterrupted / name).read_bytes()) is copied


class Watch:
    """A clock that the test advances."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_time_limit_reserves_time_for_the_slowest_save_and_step(monkeypatch):
    clock = Watch()
    monkeypatch.setattr("toolkit.pretrain.stopping.time", clock)
    writer = type("Writer", (), {"slowest_seconds": 0.0})()
    stopping = StopCondition(writer, limit_seconds=100.0, began=100.0)

    def after(seconds: float) -> str | None:
        clock.now += seconds
        return stopping.check()

    assert [after(10) for _ in range(8)] == [None] * 8  # 80 s; 5 in reserve and a step of 10
    assert after(4) is None and after(2) == "time limit"
    stopping = StopCondition(writer, limit_seconds=100.0, began=clock.now)
    writer.slowest_seconds = 20.0
    assert after(50) is None and after(1) == "time limit"  # at most half of the limit is reserved
    stopping = StopCondition(writer, limit_seconds=100.0, began=clock.now)
    assert [after(6) for _ in range(8)] == [None] * 8 and after(3) == "time limit"


def test_run_without_time_limit_never_stops(monkeypatch):
    clock = Watch()
    monkeypatch.setattr("toolkit.pretrain.stopping.time", clock)
    stopping = StopCondition(type("Writer", (), {"slowest_seconds": 0.0})(), limit_seconds=None, began=0.0)
    clock.now = 1e9
    assert stopping.check() is None
