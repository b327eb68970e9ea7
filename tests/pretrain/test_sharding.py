"""FSDP2 on two CPU processes matches unsharded training and writes full weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from tests.pretrain import trainings
from tests.pretrain.conftest import write_recipe
from toolkit.base.errors import ToolkitError, UsageError
from toolkit.config import loader
from toolkit.execution import launching
from toolkit.pretrain import stage, step_log
from toolkit.runs import layout
from toolkit.runs.opening import open_run
from toolkit.runtime import accelerate_config, devices

pytestmark = pytest.mark.timeout(900)  # eleven runs on two processes: 2 minutes of CPU time

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = sorted((ROOT / "recipes/accelerate").glob("*.yaml"))
STEPS, HALF = 20, 12
SETTINGS = {
    "train_tokens": 256 * STEPS, "micro_batch_tokens": 64, "checkpoint_every_tokens": 256 * 4,
    "keep_checkpoints": 5, "evaluate_every_tokens": 256 * 10, "optimizer": {"name": "muon"},
    "keep_weights_at_steps": "log",
    "schedule": {"name": "constant"},  # a shorter training starts like a longer one
}  # fmt: skip
SHORT = {"train_tokens": 256 * 6}
GROUPED = {"architecture": "llama", "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32}
LLAMA = SHORT | {"model": GROUPED | {"n_positions": 32}}
"""Short, because rounding grows faster than in GPT-2: after 20 steps the norms differ by 1e-4."""
LOSS, NORM, WEIGHT = 1e-6, 1e-5, 3e-5
"""Tolerances, relative but for weights. Measured over 20 steps: 1.2e-7, 1.6e-6 and 3.3e-6 (AdamW 5.7e-7)."""


def launched(*recipes: Path, folder: Path, **variables: str) -> None:
    """Run recipes one after the other on two processes."""
    program = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*program, str(ROOT / "tests/pretrain/sharded_program.py"), *map(str, recipes)]
    done = subprocess.run(
        [sys.executable, *command, "--runs-dir", str(folder / "runs")], cwd=ROOT, text=True,
        capture_output=True, timeout=600, env=os.environ | variables,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def alone(recipe: Path, folder: Path) -> None:
    """Run a recipe in this process without sharding."""
    loaded = loader.load(recipe)
    with open_run(loaded, runs_dir=folder / "runs") as run:
        devices.configure(loaded.recipe)
        stage.run(loaded.recipe, run)


def rewind(run: Path, copy: str) -> None:
    """Copy a finished run in the state after half of its steps."""
    second = run.with_name(copy)
    shutil.copytree(run, second)
    (second / layout.LOCK).unlink(missing_ok=True)
    for path in (second / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > HALF:
            shutil.rmtree(path)


def require_same_steps(first: Path, second: Path, *, steps: int = STEPS) -> None:
    """Require the same losses and norms of the first steps of two runs, within rounding."""
    before, again = (step_log.read(run / step_log.FILE)[:steps] for run in (first, second))
    assert len(before) == steps and [a.batch for a in before] == [b.batch for b in again]
    np.testing.assert_allclose([b.loss for b in again], [a.loss for a in before], rtol=LOSS)
    np.testing.assert_allclose([b.norm for b in again], [a.norm for a in before], rtol=NORM)


def require_agreement(first: Path, second: Path, *, steps: int = STEPS) -> None:
    """Require the same steps, model and measurements of two runs, within rounding."""
    require_same_steps(first, second, steps=steps)
    weights, others = (load_file(run / "model" / "model.safetensors") for run in (first, second))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, atol=WEIGHT, rtol=0)
    results = [json.loads((run / "evaluation.json").read_text()) for run in (first, second)]
    assert results[0]["bits_per_byte"] == pytest.approx(results[1]["bits_per_byte"], rel=LOSS)
    assert results[0]["samples"] == results[1]["samples"]


def accounts(run: Path) -> list[dict]:
    """Return the layout of the weights on each process."""
    return [json.loads(run.with_name(f"{run.name}.{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus) -> Path:
    """Return the folder of runs: unsharded on one process, sharded on two, and with planted faults."""
    folder = tmp_path_factory.mktemp("sharding")
    adamw = {"optimizer": {"name": "adamw"}}
    for name, settings in {"plain": {}, "plain-adamw": adamw, "plain-llama": LLAMA}.items():
        alone(write_recipe(folder, corpus, name, **SETTINGS | settings), folder)
    variants = {
        "spread": {}, "spread-adamw": adamw, "spread-llama": LLAMA, "broken-muon": SHORT,
        "broken-norm": SHORT, "broken-files": SHORT, "incident": SHORT | {"guard": {"action": "skip"}},
        "spread-bf16": SHORT | {"precision": "bf16"},
    }  # fmt: skip
    recipes = [
        write_recipe(folder, corpus, name, **SETTINGS | settings, shard_weights=True)
        for name, settings in variants.items()
    ]
    launched(*recipes, folder=folder)
    return folder / "runs" / "t"


@pytest.mark.slow
def test_each_process_holds_half_of_the_weights(trained):
    plain = GPT2LMHeadModel.from_pretrained(trained / "plain" / "model")
    weights = sum(parameter.numel() for parameter in plain.parameters())
    matrices = sum(p.numel() for name, p in plain.named_parameters() if ".h." in name and p.ndim == 2)
    for name, numbers in (("spread", 3 * weights - matrices), ("spread-adamw", 3 * weights)):
        for account in accounts(trained / name):
            assert account["spread_weights"] and account["spread_states"] == [True]
            assert account["tied"] and account["dtypes"] == ["torch.float32"]
            assert account["bytes"] == 4 * numbers / 2  # all first dimensions are even
    assert accounts(trained / "spread")[0]["states"] == ["exp_avg", "exp_avg_sq", "momentum_buffer"]


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "steps"), [("", STEPS), ("-adamw", STEPS), ("-llama", 6)])
def test_sharded_losses_match_unsharded(trained, variant, steps):
    require_agreement(trained / f"plain{variant}", trained / f"spread{variant}", steps=steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["broken-muon", "broken-norm"])
def test_saving_a_shard_instead_of_full_weights_is_detected(trained, name):
    with pytest.raises(AssertionError):
        require_same_steps(trained / "plain", trained / name, steps=6)


@pytest.mark.slow
def test_kept_weights_are_whole_models(trained):
    for step in (0, 1, 2, 5, 10, 20):
        plain, spread = (trained / name / "steps" / f"{step:06d}" for name in ("plain", "spread"))
        weights, others = (load_file(path / "model.safetensors") for path in (plain, spread))
        assert weights.keys() == others.keys()
        for name, tensor in weights.items():
            torch.testing.assert_close(others[name], tensor, atol=WEIGHT, rtol=0)
        assert (plain / "samples.json").read_bytes() == (spread / "samples.json").read_bytes()
    final = trained / "spread" / "model" / "model.safetensors"
    assert final.read_bytes() == (spread / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_sharded_checkpoints_contain_full_models(trained):
    last = GPT2LMHeadModel.from_pretrained(trained / "spread" / "checkpoints" / f"step-{STEPS:08d}")
    final = load_file(trained / "spread" / "model" / "model.safetensors")
    assert all(torch.equal(last.state_dict()[name], tensor) for name, tensor in final.items())
    with pytest.raises(RuntimeError, match="size"):
        GPT2LMHeadModel.from_pretrained(trained / "broken-files" / "checkpoints" / "step-00000006")


@pytest.mark.slow
def test_bf16_keeps_weights_in_fp32(trained):
    steps, halves = (step_log.read(trained / name / step_log.FILE) for name in ("spread", "spread-bf16"))
    assert accounts(trained / "spread-bf16")[0]["dtypes"] == ["torch.float32"]
    differences = [abs(a.loss - b.loss) / a.loss for a, b in zip(steps, halves, strict=False)]
    assert 1e-6 < max(differences) < 2e-2


@pytest.mark.slow
def test_sharded_incident_contains_the_full_state(trained):
    run = trained / "incident"
    before = run / "checkpoints" / "step-00000004"
    kept = run / "incidents" / "step-00000005" / "state"
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (kept / name).read_bytes() == (before / name).read_bytes()
    assert [step.step for step in step_log.read(run / step_log.FILE) if step.skipped] == [5]


@pytest.mark.slow
def test_sharded_run_resumes_on_any_number_of_processes(trained, corpus):
    folder = trained.parents[1]
    settings = SETTINGS | {"optimizer": {"name": "muon"}}
    recipes = []
    for source, name, shard in (
        ("spread", "again", True), ("spread", "to-ddp", False), ("plain", "from-plain", True),
        ("spread", "to-plain", "auto"),
    ):  # fmt: skip
        rewind(trained / source, name)
        recipes.append(write_recipe(folder, corpus, name, **settings, shard_weights=shard))
    launched(*recipes[:3], folder=folder)
    alone(recipes[3], folder)
    assert not trainings.differing(trained / "spread", trained / "again")
    assert not accounts(trained / "to-ddp")[0]["spread_weights"]
    for name in ("to-ddp", "from-plain", "to-plain"):
        assert trainings.differing(trained / "spread", trained / name)  # it resumed, with different results
        require_agreement(trained / "plain", trained / name)


@pytest.mark.slow
def test_auto_shards_on_cpu_if_accelerate_config_asks_for_fsdp(tmp_path, corpus):
    """On a CPU, Accelerate replaces FSDP by DDP; the toolkit shards the weights nevertheless."""
    recipe = write_recipe(tmp_path, corpus)
    launched(recipe, folder=tmp_path, ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    run = tmp_path / "runs" / "t" / "first"
    assert yaml.safe_load((run / "resolved.yaml").read_text())["shard_weights"] is True
    for account in accounts(run):
        assert account["accelerate"] == "MULTI_CPU" and account["spread_weights"]


# Launches


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_configuration_files_load_in_accelerate(path):
    configuration = load_config_from_file(str(path))  # raises on unknown keys
    assert configuration.num_processes == 1
    launching.check_configuration(path)
    assert f"--config_file recipes/accelerate/{path.name}" in path.read_text()


def test_fsdp_config_file_uses_fsdp2():
    assert [path.name for path in CONFIGURATIONS] == ["fsdp.yaml", "gpus.yaml"]
    configuration = load_config_from_file(str(CONFIGURATIONS[0]))
    assert configuration.distributed_type == "FSDP" and configuration.fsdp_config["fsdp_version"] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fsdp_config": {"fsdp_version": 1}}, "FSDP1"),
        ({"fsdp_config": {}}, "FSDP1"),
        ({"fsdp_config": {"fsdp_version": 2, "fsdp_offload_params": True}}, "fsdp_offload_params"),
        ({"distributed_type": "DEEPSPEED"}, "DEEPSPEED"),
        ({"distributed_type": "MEGATRON_LM"}, "MEGATRON_LM"),
    ],
)
def test_unsupported_configurations_are_refused(tmp_path, change, words):
    path = tmp_path / "launch.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(CONFIGURATIONS[0].read_text()) | change))
    with pytest.raises(UsageError, match=words):
        launching.check_configuration(path)


@pytest.mark.parametrize(
    ("variables", "settings", "words"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}, "DEEPSPEED"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, {}, "MEGATRON_LM"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, {}, "FSDP1"),
        ({"ACCELERATE_USE_FSDP": "true"}, {}, "FSDP1"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, {"shard_weights": False}, "shard_weights"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, {"exact": True}, "exact keeps all weights"),
    ],
)
def test_unsupported_launches_are_refused(tmp_path, corpus, monkeypatch, variables, settings, words):
    for name, value in ({"WORLD_SIZE": "2", "RANK": "0"} | variables).items():
        monkeypatch.setenv(name, value)
    settings = {"micro_batch_tokens": 64} | settings
    recipe = write_recipe(tmp_path, corpus, **settings)
    with pytest.raises(ToolkitError, match=words):
        accelerate_config.require_supported(loader.load(recipe).recipe)
