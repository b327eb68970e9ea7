"""fit(): row order, batches, bitwise resumption, NaN, sealed checkpoints, LoRA."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D
from trl import SFTConfig

from tests.chat_fixtures import load_recipe, metrics, run_stage, write_conversations, write_model
from toolkit.base.errors import DataError, ToolkitError
from toolkit.config import process_counts
from toolkit.config.schema import SftRecipe
from toolkit.data.chat.rows import RowTable, training_order
from toolkit.models.loading import load_causal_lm
from toolkit.runs import checkpoint
from toolkit.stages import adapters, sft, trainer_runner

RECIPE = """
    stage: sft
    model: {folder}/base
    data: {{name: {folder}/conversations.jsonl}}
    batch_examples: 8
    micro_batch_examples: 4
    log_every_steps: 3
    checkpoint_every_steps: 4
    device: cpu
    precision: fp32
    threads: 1
    trainer: {{max_steps: 12, learning_rate: 1.0e-3}}
"""


@pytest.fixture
def folder(tmp_path):
    write_model(
        tmp_path / "base", dropout=0.1
    )  # dropout draws random numbers, which a resumed run must draw again
    write_conversations(tmp_path / "conversations.jsonl")
    return tmp_path


def recipe(**settings) -> SftRecipe:
    return SftRecipe(stage="sft", model="m", data={"name": "d"}, **settings)


def test_each_epoch_uses_each_row_once_and_longer_training_shares_its_start():
    lengths = np.arange(1, 11)
    order = training_order(lengths, steps=5, batch=4, seed=1)
    assert len(order) == 20
    assert sorted(np.bincount(order)) == [2] * 10
    assert len(set(order[:8])) == 8 and set(order[:8]) != set(order[12:])  # two shuffles
    assert all((np.diff(lengths[group]) < 0).all() for group in order.reshape(5, 4)[:2])  # the longest first
    assert list(training_order(lengths, steps=7, batch=4, seed=1)[:20]) == list(order)
    assert list(training_order(lengths, steps=5, batch=4, seed=2)) != list(order)
    assert list(training_order(lengths, steps=3, batch=4, seed=1, strategy="sequential")) == [
        *range(10),
        0,
        1,
    ]
    with pytest.raises(DataError, match="no example"):
        training_order(np.zeros(0, dtype=int), steps=1, batch=1, seed=0)


def test_group_by_length_uses_the_same_rows_with_less_padding():
    lengths = np.random.default_rng(0).integers(10, 100, size=400)

    def padding(order):
        batches = lengths[order].reshape(-1, 8)
        return (batches.max(axis=1, keepdims=True) - batches).sum()

    plain, grouped = (training_order(lengths, steps=100, batch=8, seed=0, strategy=strategy)
                      for strategy in ("random", "group_by_length"))  # fmt: skip
    assert sorted(plain[:400]) == sorted(grouped[:400]) == list(range(400))
    assert padding(grouped) < 0.1 * padding(plain)
    means = lengths[grouped].reshape(-1, 8).mean(axis=1)
    # Batches of similar length are not consecutive.
    assert abs(np.corrcoef(means[:50], np.arange(50))[0, 1]) < 0.5


def test_row_table_round_trips():
    table = RowTable(["input_ids", "labels"])
    table.append({"input_ids": [1, 2, 3], "labels": [-100, 2, 3]})
    table.append({"input_ids": [4], "labels": [4]})
    assert list(table.lengths()) == [6, 2]
    assert table.dataset()[1] == {"input_ids": [4], "labels": [4]}
    assert table.dataset().select([1, 0])[1]["labels"] == [-100, 2, 3]
    with pytest.raises(KeyError):
        table.append({"input_ids": [1]})


@pytest.mark.parametrize(
    ("processes", "settings", "expected"),
    [
        (1, {"batch_examples": 16}, (16, 1)),
        (2, {"batch_examples": 16}, (8, 1)),
        (2, {"batch_examples": 16, "micro_batch_examples": 4}, (4, 2)),
        (3, {"batch_examples": 16}, "multiple of 3"),
        (32, {"batch_examples": 16}, "multiple of 32"),
        (2, {"batch_examples": 16, "micro_batch_examples": 16}, "divisor of 8"),
        (1, {"batch_examples": 16, "micro_batch_examples": 5}, "divisor of 16"),
    ],
)
def test_batch_is_shared_equally_or_refused(processes, settings, expected):
    if isinstance(expected, tuple):
        assert process_counts.split_batch(recipe(**settings), processes=processes) == expected
    else:
        with pytest.raises(ToolkitError, match="batch_examples") as caught:
            process_counts.split_batch(recipe(**settings), processes=processes)
        assert expected in caught.value.fix


def test_steps_follow_from_epochs_or_max_steps():
    assert (
        trainer_runner.num_steps(recipe(batch_examples=8), SFTConfig, examples=20) == 8
    )  # 3 epochs of 20 in batches of 8
    assert (
        trainer_runner.num_steps(
            recipe(batch_examples=8, trainer={"num_train_epochs": 0.5}), SFTConfig, examples=20
        )
        == 2
    )
    assert trainer_runner.num_steps(recipe(trainer={"max_steps": 7}), SFTConfig, examples=20) == 7
    with pytest.raises(ToolkitError, match="mutually exclusive"):
        trainer_runner.num_steps(
            recipe(trainer={"max_steps": 7, "num_train_epochs": 1}), SFTConfig, examples=20
        )


def test_rows_never_exceed_the_context(folder):
    model, _ = load_causal_lm((str(folder / "base"), None))
    assert trainer_runner.max_length(recipe(), SFTConfig, model) == 96  # TRL's own default is 1024
    assert trainer_runner.max_length(recipe(trainer={"max_length": None}), SFTConfig, model) == 96
    assert trainer_runner.max_length(recipe(trainer={"max_length": 50}), SFTConfig, model) == 50
    with pytest.raises(ToolkitError, match="96 positions"):
        trainer_runner.max_length(recipe(trainer={"max_length": 97}), SFTConfig, model)


KILL_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
from tests.chat_fixtures import load_recipe, run_stage
from toolkit.stages import adapters, sft, trainer_runner

move = trainer_runner._move
def killed(written, folder):
    move(written, folder)
    if written.name == "checkpoint-8":
        os.kill(os.getpid(), signal.SIGKILL)
trainer_runner._move = killed
folder = Path(sys.argv[1])
run_stage(sft, folder, load_recipe(folder, "killed", sys.argv[2]))
"""


def test_run_killed_during_save_resumes_bitwise(folder):
    text = RECIPE.format(folder=folder)
    whole = run_stage(sft, folder, load_recipe(folder, "whole", text))
    here = Path(__file__).parents[2]
    child = subprocess.run(
        [sys.executable, "-c", KILL_WHILE_SAVING, str(folder), text], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), *sys.path])},
        timeout=300,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    killed = folder / "runs" / "killed"
    assert [path.name for path in killed.glob("checkpoints/step-*")] == ["step-00000004"]
    assert list(killed.glob("checkpoints/.*")) and list(
        killed.glob(".trainer/*")
    )  # what the kill left behind
    assert not (killed / "model").exists()
    assert run_stage(sft, folder, load_recipe(folder, "killed", text)) == killed
    assert (killed / "model/model.safetensors").read_bytes() == (
        whole / "model/model.safetensors"
    ).read_bytes()
    assert metrics(killed) == metrics(whole)
    assert [row["step"] for row in metrics(killed)] == [0, 1, 3, 4, 6, 8, 9, 12]  # and while it saves
    assert [path.name for path in (killed / "checkpoints").iterdir()] == ["step-00000012"]
    assert not list(killed.glob(".trainer*"))


def test_checkpoints_are_sealed_without_pickled_settings_or_paths(folder):
    path = run_stage(sft, folder, load_recipe(folder, "run", RECIPE.format(folder=folder)))
    newest = path / "checkpoints/step-00000012"
    assert checkpoint.is_whole(newest)
    assert not (newest / "training_args.bin").exists()
    AutoModelForCausalLM.from_pretrained(newest)
    for file in [*(path / "model").iterdir(), *newest.iterdir()]:
        assert str(folder).encode() not in file.read_bytes(), file
    assert {file.suffix for file in (path / "model").iterdir()} == {".json", ".safetensors", ".jinja"}
    facts = json.loads((path / "manifest.json").read_text())["facts"]
    assert facts["trainer"]["per_device_train_batch_size"] == 4
    assert facts["trainer"]["gradient_accumulation_steps"] == 2
    assert facts["trainer"]["learning_rate"] == 1e-3
    assert facts["precision"] == "fp32"


def test_non_finite_loss_stops_the_run(folder):
    text = RECIPE.format(folder=folder).replace("1.0e-3", "1.0e+30")
    with pytest.raises(ToolkitError, match="loss is nan|loss is inf|grad_norm is") as caught:
        run_stage(sft, folder, load_recipe(folder, "run", text))
    assert "learning_rate" in caught.value.fix
    assert not (folder / "runs/run/model").exists()
    assert not list((folder / "runs/run").glob("checkpoints/step-*"))


def test_interrupted_run_saves_a_checkpoint(folder, monkeypatch):
    monkeypatch.setattr(trainer_runner.signals, "stop_requested", lambda: True)
    with pytest.raises(KeyboardInterrupt):
        run_stage(sft, folder, load_recipe(folder, "run", RECIPE.format(folder=folder)))
    assert checkpoint.is_whole(folder / "runs/run/checkpoints/step-00000001")
    assert not (folder / "runs/run/model").exists()


def test_settings_without_effect_are_refused(folder):
    text = RECIPE.format(folder=folder).replace("max_steps: 12", "max_steps: 12, truncation_mode: keep_start")
    with pytest.raises(ToolkitError, match="truncation_mode"):
        run_stage(sft, folder, load_recipe(folder, "run", text))


def test_lora_is_merged_into_a_plain_model(folder):
    text = RECIPE.format(folder=folder).replace("threads: 1", "threads: 1\n    lora: {r: 4, alpha: 8.0}")
    path = run_stage(sft, folder, load_recipe(folder, "run", text.replace("1.0e-3", "1.0e-2")))
    before, after = load_file(folder / "base/model.safetensors"), load_file(path / "model/model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {
        name for name in after if name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))
    }
    rank = torch.linalg.matrix_rank(after["transformer.h.0.attn.c_attn.weight"]
                                    - before["transformer.h.0.attn.c_attn.weight"], rtol=1e-3)  # fmt: skip
    assert int(rank) == 4
    # the loss with adapters equals the loss of the sealed merged model
    evaluation = json.loads((path / "evaluation.json").read_text())
    assert metrics(path)[-1]["held_out_loss"] == pytest.approx(evaluation["held_out_loss"], rel=1e-5)
    assert evaluation["held_out_loss"] < evaluation["held_out_loss_before"] - 0.01


def test_lora_handles_transposed_gpt2_weights(folder):
    model, _ = load_causal_lm((str(folder / "base"), None))
    assert isinstance(model.transformer.h[0].attn.c_attn, Conv1D)
    assert adapters.lora(recipe(lora={}), model, "CAUSAL_LM").fan_in_fan_out is True
    assert adapters.lora(recipe(), model, "CAUSAL_LM") is None
    with pytest.raises(ToolkitError, match="q_proj") as caught:
        adapters.lora(recipe(lora={"target_modules": ["q_proj"]}), model, "CAUSAL_LM")
    assert "c_attn" in caught.value.fix


KILL_MAIN_WHILE_SAVING = """
import os, runpy, signal
from toolkit.stages import trainer_runner

move = trainer_runner._move
def killed(written, folder):
    move(written, folder)
    if written.name == "checkpoint-8" and os.environ.get("KILL"):
        os.kill(os.getpid(), signal.SIGKILL)
trainer_runner._move = killed
runpy.run_module("toolkit", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_two_processes_use_the_same_rows_and_resume_bitwise(folder):
    """Rows do not depend on the number of processes, and a killed run of two processes resumes bitwise."""
    (folder / "program.py").write_text(KILL_MAIN_WHILE_SAVING)
    write_model(folder / "base")  # without dropout, whose random numbers depend on the process
    write_model(folder / "noisy", dropout=0.1)
    text = RECIPE.format(folder=folder)
    load_recipe(folder, "plain", text.replace("micro_batch_examples: 4", "micro_batch_examples: 2"))
    load_recipe(folder, "noisy", text.replace(f"{folder}/base", f"{folder}/noisy"))

    def toolkit(runs, recipe_name, *launcher, **variables):
        command = [
            sys.executable,
            *launcher,
            str(folder / "program.py"),
            "run",
            f"recipes/{recipe_name}.yaml",
        ]
        return subprocess.run(
            [*command, "--runs-dir", runs], cwd=folder, capture_output=True, text=True, timeout=300,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **variables},
        )  # fmt: skip

    two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert (done := toolkit("one", "plain")).returncode == 0, done.stderr
    assert (done := toolkit("two", "plain", *two)).returncode == 0, done.stderr
    for alone, together in zip(metrics(folder / "one/plain"), metrics(folder / "two/plain"), strict=True):
        for name in {"loss", "grad_norm", "held_out_loss"} & alone.keys():  # other rows differ by 1 % or more
            assert together[name] == pytest.approx(alone[name], rel=1e-4), (name, alone["step"])
    assert (done := toolkit("two", "noisy", *two)).returncode == 0, done.stderr
    assert toolkit("killed", "noisy", *two, KILL="1").returncode != 0
    assert [path.name for path in (folder / "killed/noisy/checkpoints").glob("step-*")] == ["step-00000004"]
    assert (done := toolkit("killed", "noisy", *two)).returncode == 0, done.stderr
    whole, killed = (folder / runs / "noisy/model/model.safetensors" for runs in ("two", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    assert metrics(folder / "two/noisy") == metrics(folder / "killed/noisy")


def test_configuration_of_adapters_has_the_same_bytes_in_every_process(tmp_path):
    """PEFT writes sets, whose order depends on the seed of Python's hashes."""
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"target_modules": ["b", "a"], "exclude_modules": None, "layers": [2, 1]}))
    adapters.sort_modules(tmp_path)
    assert json.loads(path.read_text()) == {
        "target_modules": ["a", "b"],
        "exclude_modules": None,
        "layers": [2, 1],
    }
    path.unlink()
    adapters.sort_modules(tmp_path)
    assert not path.exists()
