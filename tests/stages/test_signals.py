"""Every signal that stops a run saves a checkpoint: on 1 and 2 processes, with data-loader workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chat_fixtures import load_recipe, write_conversations, write_model, write_preferences
from tests.pretrain import trainings
from toolkit.runs import checkpoint, metrics, seal
from toolkit.runtime import signals

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LONG = 20_000
TRAINER = {"max_steps": LONG, "learning_rate": 1e-4}
BATCH = {"batch_examples": 4, "checkpoint_every_steps": LONG, "log_every_steps": 1}
STAGES = {
    "sft": {"data": "conversations", "trainer": TRAINER, **BATCH},
    "reward": {"data": "preferences", "trainer": TRAINER, **BATCH},
    "dpo": {"data": "preferences", "trainer": TRAINER, **BATCH},
    "ppo": {
        "data": "preferences",
        "reward_model": "runs/judge",
        "checkpoint_every_steps": LONG,
        "trainer": {
            "episodes": 8 * LONG,
            "rollout_examples": 8,
            "max_prompt_tokens": 32,
            "max_new_tokens": 8,
        },
    },
}
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("signals")
    write_model(path / "base")
    write_conversations(path / "conversations.jsonl")
    write_preferences(path / "preferences.jsonl")
    judge = {**STAGES["reward"], "trainer": {"max_steps": 2}, "checkpoint_every_steps": 2}
    process = start(path, "judge", {"stage": "reward", **judge})
    assert process.wait(300) == 0, process.communicate()[1]
    return path


def start(folder: Path, name: str, settings: dict, *, processes: int = 1, workers: int = 0):
    """Start a stage in a process group of its own, as a shell does."""
    content = {"model": f"{folder}/base", "device": "cpu", "precision": "fp32", "threads": 1, **settings}
    content["data"] = {"name": f"{folder}/{settings['data']}.jsonl"}
    if workers:
        content["trainer"] = {**settings["trainer"], "dataloader_num_workers": workers}
    load_recipe(folder, name, json.dumps(content))
    launcher = LAUNCHER if processes > 1 else ()
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "toolkit", "run", f"recipes/{name}.yaml"],
        cwd=folder, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(trainings.ROOT), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def is_saved(folder: Path, name: str, process: subprocess.Popen, status: int) -> None:
    """Check that a stopped run has a whole checkpoint of its last step, from which the command resumes."""
    ended, err = trainings.wait_for_end(process)
    run = folder / "runs" / name
    step, path = checkpoint.steps(run / "checkpoints")[-1]
    assert ended == status, err
    assert checkpoint.is_whole(path) and not seal.is_sealed(run) and 3 <= step < LONG
    assert f"interrupted; the same command resumes from step {step}" in err
    assert err.count("stopping after this step") == 1 and "toolkit/stages" not in err


def trains(folder: Path, name: str, process: subprocess.Popen) -> None:
    file = folder / "runs" / name / "metrics.jsonl"
    trainings.wait_for(process, lambda: len(metrics.read(file)) >= 5)


@pytest.mark.parametrize("number", signals.STOPPING, ids=lambda number: number.name)
def test_signal_to_all_processes_of_a_terminal_saves_with_workers(folder, number):
    name = f"group-{number.name}"
    process = start(folder, name, {"stage": "sft", **STAGES["sft"]}, workers=2)
    trains(folder, name, process)
    os.killpg(process.pid, number)
    is_saved(folder, name, process, 130)


@pytest.mark.parametrize("stage", STAGES)
def test_signal_to_the_process_saves_on_every_stage(folder, stage):
    process = start(folder, f"alone-{stage}", {"stage": stage, **STAGES[stage]})
    trains(folder, f"alone-{stage}", process)
    process.send_signal(signal.SIGUSR1)
    is_saved(folder, f"alone-{stage}", process, 130)


@pytest.mark.parametrize("stage", STAGES)
def test_sigterm_to_torchrun_saves_on_every_stage(folder, stage):
    process = start(folder, f"two-{stage}", {"stage": stage, **STAGES[stage]}, processes=2)
    trains(folder, f"two-{stage}", process)
    process.send_signal(signal.SIGTERM)
    is_saved(folder, f"two-{stage}", process, 1)  # torchrun's own status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1], ids=lambda n: n.name)
def test_signal_to_two_processes_saves_with_workers(folder, number):
    """SIGUSR1 goes to the processes, as from a cluster's manager: torchrun itself would end at once."""
    name = f"two-{number.name}"
    process = start(folder, name, {"stage": "sft", **STAGES["sft"]}, processes=2, workers=1)
    trains(folder, name, process)
    if number == signal.SIGUSR1:
        for rank in signals.children(process.pid):
            os.kill(rank, number)
    else:
        os.killpg(process.pid, number)
    is_saved(folder, name, process, 1)
