"""Two processes train like one: the same tokens, and equal numbers and weights up to rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.ppo.training import run_stage
from toolkit.runs import metrics


def launch(settings, tmp_path):
    """Return the folder of a run on two processes."""
    content = settings.model_dump(exclude_none=True, exclude_defaults=True, mode="json")
    path = tmp_path / "ppo.yaml"
    path.write_text(yaml.safe_dump({"stage": "ppo", "run": "t/ppo", **content}))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "toolkit", "run",
        str(path), "--runs-dir", str(tmp_path / "two"),
    ]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two = tmp_path / "two/t/ppo"
    assert json.loads((two / "manifest.json").read_text())["world_size"] == 2
    return two


@pytest.mark.slow
def test_two_processes_match_one_process(opened, recipe, judge, tmp_path):
    looked = {"judge": judge, "every_rollouts": 1, "prompts": 3, "patience": 5}
    settings = recipe(
        rollout_examples=16, entropy_coefficient=0.01, kl_target=3.0, threads=1, early_stopping=looked
    )
    one = run_stage(opened, settings)
    two = launch(settings, tmp_path)
    rows, alone = metrics.read(two / "metrics.jsonl"), metrics.read(one / "metrics.jsonl")
    assert rows[1]["samples"][0]["answer"] == alone[1]["samples"][0]["answer"]
    assert len([row for row in alone if "kl" in row]) == 2
    assert len([row for row in alone if "held_out_score" in row]) == 3
    for row, expected in zip(rows, alone, strict=True):
        numbers = {key: value for key, value in expected.items() if key not in ("time", "samples")}
        assert {key: row[key] for key in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-4)
    first, second = (load_file(folder / "model/model.safetensors") for folder in (two, one))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=2e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_trl_algorithms_on_two_processes_share_scale_and_start_at_reference(recipe, tmp_path, algorithm):
    settings = recipe(algorithm=algorithm, answers_per_prompt=2, threads=1, learning_rate=3e-3)
    two = launch(settings, tmp_path)
    rows = metrics.read(two / "metrics.jsonl")
    assert [row["step"] for row in rows] == [4, 8, 12, 16]
    scale = json.loads((two / "manifest.json").read_text())["facts"]["first_rollout"]["scale"]
    assert scale["mean"] == pytest.approx(rows[0]["score"], rel=1e-4)  # the mean over both processes
    if algorithm == "rloo":
        assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)
