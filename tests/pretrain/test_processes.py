"""Pretraining in processes of its own: killed and started again, and on two processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.pretrain.conftest import write_recipe
from toolkit.runs import checkpoint, lock, metrics

pytestmark = pytest.mark.slow


def command(recipe, folder, *, processes=1):
    program = [sys.executable, "-m", "toolkit"]
    if processes > 1:
        launch = [
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
            "-m",
            "toolkit",
        ]
        program = [sys.executable, "-m", *launch]
    return [*program, "run", str(recipe), "--runs-dir", str(folder / "runs")]


def finish(recipe, folder, **settings):
    done = subprocess.run(command(recipe, folder, **settings), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "t" / recipe.stem


def losses(run):
    return [row["loss"] for row in metrics.read(run / "metrics.jsonl") if "loss" in row]


def test_killed_and_run_again_is_bitwise_the_same(tmp_path, corpus):
    """Tier B: SIGKILL at any time, the same command again: the same bytes as if nothing had happened."""
    settings = {
        "train_tokens": 256 * 300, "checkpoint_every_tokens": 256 * 40, "optimizer": {"name": "muon"},
        "samples": {"prompts": []}, "log_every_steps": 7,
    }  # fmt: skip
    whole = finish(write_recipe(tmp_path, corpus, "whole", **settings), tmp_path)
    recipe = write_recipe(tmp_path, corpus, "killed", **settings)
    killed = tmp_path / "runs" / "t" / "killed"
    for wanted in (1, 120):
        process = subprocess.Popen(command(recipe, tmp_path), stderr=subprocess.PIPE, text=True)
        while process.poll() is None:
            found = checkpoint.steps(killed / "checkpoints")
            if found and found[-1][0] >= wanted:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
        assert not lock.is_sealed(killed)
    finish(recipe, tmp_path)
    assert lock.is_sealed(killed) and not lock.verify(killed)
    for name in ("model/model.safetensors", "checkpoints/step-00000300/optimizer.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert losses(killed) == losses(whole)


def test_two_processes_learn_as_one(tmp_path, corpus):
    settings = {"log_every_steps": 1, "train_tokens": 256 * 20, "micro_batch_tokens": 64}
    one = finish(write_recipe(tmp_path, corpus, "one", **settings), tmp_path)
    two = finish(write_recipe(tmp_path, corpus, "two", **settings), tmp_path, processes=2)
    assert len(losses(one)) == 20
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-4)
    first, second = (load_file(run / "model" / "model.safetensors") for run in (one, two))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-3, rtol=1e-3)
