"""SIGTERM, Ctrl-C and the time limit: all processes save and stop at the same step and resume bitwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.pretrain import trainings
from tests.pretrain.conftest import write_recipe
from toolkit.runs import checkpoint, metrics, seal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS = {
    "train_tokens": 256 * 120, "checkpoint_every_tokens": 256 * 50, "optimizer": {"name": "muon"},
    "samples": {"prompts": []}, "log_every_steps": 1, "evaluate_every_tokens": 256 * 120,
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 32, "dropout": 0.1},
}  # fmt: skip
# MULTI_GPU without a GPU: `device: cpu` in the recipe makes them CPU processes
LAUNCH = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
num_processes: 2
num_machines: 1
machine_rank: 0
mixed_precision: "no"
use_cpu: false
main_process_port: 0
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus):
    """Return {number of processes: uninterrupted run}."""
    runs = {}
    for number in (1, 2):
        folder = tmp_path_factory.mktemp(f"whole-{number}")
        recipe = write_recipe(folder, corpus, "whole", **SETTINGS)
        runs[number] = trainings.finish(recipe, folder=folder, processes=number)
    return runs


def stopped_by(process: subprocess.Popen, run, number: int, *, group: bool) -> tuple[int, str]:
    """Send a signal once ten steps are done; return the exit status and stderr."""
    trainings.wait_for(process, lambda: trainings.steps_done(run) >= 10)
    (os.killpg if group else os.kill)(process.pid, number)
    return trainings.wait_for_end(process)


def saved_where_it_stopped(run) -> int:
    """Return the step of the newest checkpoint, after checking that it is complete and the last step."""
    step, path = checkpoint.steps(run / "checkpoints")[-1]
    assert checkpoint.is_whole(path) and not seal.is_sealed(run)
    assert trainings.steps_done(run) == step == metrics.read(run / "steps.jsonl")[-1]["step"]
    assert 10 <= step < 120
    return step


@pytest.mark.parametrize(
    ("processes", "number", "group"),
    [
        (1, signal.SIGTERM, False),
        (1, signal.SIGINT, True),
        (2, signal.SIGTERM, False),
        (2, signal.SIGINT, True),
    ],
)
def test_signal_saves_at_the_end_of_the_step(tmp_path, corpus, whole, processes, number, group):
    recipe = write_recipe(tmp_path, corpus, "stopped", **SETTINGS)
    run = trainings.run_dir(recipe, tmp_path)
    process = trainings.start(recipe, folder=tmp_path, processes=processes, fault="slow steps")
    status, err = stopped_by(process, run, number, group=group)
    step = saved_where_it_stopped(run)
    assert f"interrupted; the same command resumes from step {step}" in err
    assert err.count("stopping after this step") == 1
    # torchrun exits with its own status and a traceback of the launcher
    assert status == (130 if processes == 1 else 1)
    assert err.count("Traceback") == (0 if processes == 1 else 1) and "toolkit/pretrain" not in err
    trainings.finish(recipe, folder=tmp_path, processes=processes)
    assert trainings.differing(whole[processes], run) == []


def launch(recipe, folder, *, processes: int = 2) -> subprocess.Popen:
    (folder / "two.yaml").write_text(LAUNCH.replace("num_processes: 2", f"num_processes: {processes}"))
    command = [*trainings.command(recipe, folder=folder), "--launch", str(folder / "two.yaml")]
    return subprocess.Popen(
        command, cwd=trainings.ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize(("number", "group"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_signal_under_launch_exits_130_without_traceback(tmp_path, corpus, whole, number, group):
    settings = SETTINGS | {"train_tokens": 256 * 2000, "checkpoint_every_tokens": 256 * 1000}
    recipe = write_recipe(tmp_path, corpus, "launched", **settings)
    run = trainings.run_dir(recipe, tmp_path)
    status, err = stopped_by(launch(recipe, tmp_path), run, number, group=group)
    step, path = checkpoint.steps(run / "checkpoints")[-1]
    assert checkpoint.is_whole(path) and trainings.steps_done(run) == step
    assert status == 130 and "Traceback" not in err and "Failed" not in err and "FAILED" not in err
    assert err.count("stopping after this step") == 1
    assert f"interrupted; the same command resumes from step {step}" in err


def test_wrong_number_of_processes_is_one_line_under_launch(tmp_path, corpus):
    """It is refused before a process is started."""
    recipe = write_recipe(tmp_path, corpus, "three", **SETTINGS)
    status, err = trainings.wait_for_end(launch(recipe, tmp_path, processes=3))
    assert status == 2 and err.count("is not a multiple of 96 (32 tokens a row on each of 3 process") == 1
    assert "; use 192\n" in err and "Traceback" not in err and "Failures" not in err


@pytest.mark.parametrize("how", ["alone", "launched"])
def test_time_limit_saves_and_exits_130(tmp_path, corpus, how):
    """The limit may change between attempts; the result equals that of a run without a limit."""
    settings = SETTINGS | {"train_tokens": 256 * 40, "checkpoint_every_tokens": 256 * 40}
    recipe = write_recipe(tmp_path, corpus, "limited", time_limit_minutes=0.01, **settings)
    run = trainings.run_dir(recipe, tmp_path)
    process = trainings.start(recipe, folder=tmp_path) if how == "alone" else launch(recipe, tmp_path)
    status, err = trainings.wait_for_end(process)
    assert status == 130, err
    step, path = checkpoint.steps(run / "checkpoints")[-1]
    assert step == 1 and checkpoint.is_whole(path)  # the limit expired before the first step finished
    assert err.count("the time limit of 0.01 minutes is near: saved after step 1") == 1
    assert "resumes from step 1" in err and "Traceback" not in err
    if how == "launched":
        return
    write_recipe(tmp_path, corpus, "limited", time_limit_minutes=60.0, **settings)
    trainings.finish(recipe, folder=tmp_path)
    unlimited = trainings.finish(write_recipe(tmp_path, corpus, "unlimited", **settings), folder=tmp_path)
    assert trainings.differing(unlimited, run) == []


def test_launcher_reports_other_exit_statuses(tmp_path):
    """Only an agreed end exits with 0; after other exits the launcher must end the remaining processes."""
    program = "import sys; from toolkit.runtime import signals; {}; sys.exit(signals.exit_status({}))"
    status_file = tmp_path / "status"
    for before, status, expected in (
        ("signals.stopped_in_order()", 130, 0),
        ("signals.stopped_in_order()", 1, 0),
        ("signals.stopped_in_order()", 0, 0),
        ("pass", 1, 1),
        ("pass", 130, 130),
    ):
        for rank in "01":
            status_file.unlink(missing_ok=True)
            done = subprocess.run(
                [sys.executable, "-c", program.format(before, status)],
                env=os.environ | {"TOOLKIT_STATUS": str(status_file), "RANK": rank},
                cwd=trainings.ROOT,
            )
            assert done.returncode == expected
            assert status_file.exists() is (expected == 0 and status != 0 and rank == "0")
            assert rank == "1" or not status_file.exists() or status_file.read_text() == str(status)
