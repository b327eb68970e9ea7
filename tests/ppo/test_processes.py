"""Two processes train as one does: the same tokens, and the same numbers and weights beyond rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from toolkit.ppo import stage
from toolkit.runs import metrics


@pytest.mark.slow
def test_two_processes_train_as_one(opened, recipe, tmp_path):
    settings = recipe(rollout_examples=16, entropy_coefficient=0.01, kl_target=3.0, threads=1)
    with opened(settings) as run:
        stage.run(settings, run)
    content = settings.model_dump(exclude_none=True, exclude_defaults=True, mode="json")
    path = tmp_path / "ppo.yaml"
    path.write_text(yaml.safe_dump({"stage": "ppo", "run": "t/ppo", **content}))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "-m",
        "toolkit",
        "run",
        str(path),
        "--runs-dir",
        str(tmp_path / "two"),
    ]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two = tmp_path / "two/t/ppo"
    manifest = json.loads((two / "manifest.json").read_text())
    assert manifest["world_size"] == 2
    rows, alone = metrics.read(two / "metrics.jsonl"), metrics.read(run.path / "metrics.jsonl")
    assert rows[0]["samples"][0]["answer"] == alone[0]["samples"][0]["answer"]
    assert len([row for row in alone if "kl" in row]) == 2
    for row, expected in zip(rows, alone, strict=True):
        numbers = {key: value for key, value in expected.items() if key not in ("time", "samples")}
        assert {key: row[key] for key in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-4)
    first, second = (load_file(folder / "model/model.safetensors") for folder in (two, run.path))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=2e-4, rtol=0)
