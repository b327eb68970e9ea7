"""Kept weights: at which steps, what is in their folders, and that they do not change the training."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.pretrain import trainings
from tests.pretrain.conftest import train, write_recipe
from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.cli import main
from toolkit.cli.run import run_command
from toolkit.config import loader
from toolkit.inference.opening import open_model
from toolkit.models.loading import load_causal_lm
from toolkit.pretrain import kept_weights, loop, training_state
from toolkit.runs import evaluation, references, seal

SETTINGS = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 32, "dropout": 0.1},
    "optimizer": {"name": "muon"}, "log_every_steps": 5, "schedule": {"name": "constant"},
    "samples": {"prompts": ["the ", "a "], "max_new_tokens": 8},
}  # fmt: skip
KEEP = SETTINGS | {"keep_weights_at_steps": "log"}
STEPS = [0, 1, 2, 5, 10, 12]
train_step = loop.train_step


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def kept(folder, corpus) -> Path:
    """A sealed run of 12 steps that keeps weights."""
    assert run_command(write_recipe(folder, corpus, "kept", **KEEP), runs_dir=folder / "runs") == 0
    return folder / "runs" / "t" / "kept"


def test_the_steps_are_1_2_5_of_every_power_of_ten(tmp_path, corpus):
    def steps(**settings) -> list[int]:
        recipe = loader.load(write_recipe(tmp_path, corpus, **settings)).recipe
        return [step for step in range(recipe.steps + 1) if recipe.keeps_weights_at(step)]

    many = {"train_tokens": 256 * 1234}
    assert steps(**many) == []
    expected = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 1234]
    assert steps(**many, keep_weights_at_steps="log") == expected
    assert steps(train_tokens=256 * 20, keep_weights_at_steps="log") == [0, 1, 2, 5, 10, 20]


def test_every_step_is_a_model_folder_as_the_final_one(kept):
    assert sorted(entry.name for entry in (kept / "steps").iterdir()) == [f"{step:06d}" for step in STEPS]
    for step in STEPS:
        names = files.list_files(kept_weights.folder(kept, step))
        assert names == sorted([*files.list_files(kept / "model"), "samples.json", "seal.json"])
        load_causal_lm((str(kept_weights.folder(kept, step)), None))
    for name in files.list_files(kept / "model"):
        assert (kept_weights.folder(kept, 12) / name).read_bytes() == (kept / "model" / name).read_bytes()


@pytest.mark.parametrize("steps", [2, 5])
def test_the_weights_are_those_of_a_shorter_training(kept, pretrain, steps):
    """With a constant learning rate a shorter training begins as a longer one does."""
    shorter = pretrain("shorter", **SETTINGS | {"train_tokens": 256 * steps})
    other = kept_weights.folder(kept, steps) / "model.safetensors"
    assert (shorter / "model" / "model.safetensors").read_bytes() == other.read_bytes()


@pytest.mark.parametrize("background", [True, False])
def test_the_training_is_the_same_without(kept, pretrain, background):
    without = pretrain("without", **SETTINGS | {"speed": {"background_saves": background}})
    assert trainings.differing(kept, without) == ["kept"]
    assert not (without / "steps").exists()
    assert "kept_steps" not in json.loads((without / "evaluation.json").read_text())


def test_the_samples_are_in_the_folders_and_in_the_evaluation(kept):
    steps = evaluation.read(kept, "pretrain").kept_steps
    assert [(entry.step, entry.tokens) for entry in steps] == [(step, 256 * step) for step in STEPS]
    for entry in steps:
        content = json.loads((kept_weights.folder(kept, entry.step) / "samples.json").read_text())
        assert content == entry.to_json()
        assert [sample.prompt for sample in entry.samples] == ["the ", "a "]
        assert len({sample.seed for sample in entry.samples}) == 2
    assert len({entry.samples[0].text for entry in steps}) > 2
    logged = [row for row in trainings.result(kept)["metrics"] if row["step"] in (0, 10) and "samples" in row]
    texts = {entry.step: [sample.text for sample in entry.samples] for entry in steps}
    assert logged
    for row in logged:
        assert [sample["text"] for sample in row["samples"]] == texts[row["step"]]


def test_commands_and_recipes_can_name_a_step(kept, folder):
    path = kept_weights.folder(kept, 10)
    assert not open_model(str(path)).is_chat_model
    assert main.main(["generate", str(path), "the ", "--max-new-tokens", "4"]) == 0
    assert references.model("runs/t/kept/steps/000010", runs_dir=folder / "runs") == (str(path), None)
    models = [f"runs/t/kept/steps/{step:06d}" for step in (0, 10)]
    recipe = folder / "recipes" / "t" / "compared.yaml"
    text = folder / "text.jsonl"
    text.write_text('{"text": "the river sings"}\n' * 20)
    data = {"name": str(text), "held_out": {"documents": 0.5}}
    recipe.write_text(json.dumps({"stage": "evaluate", "models": models, "perplexity": {"data": data}}))
    assert run_command(recipe, runs_dir=folder / "runs") == 0
    compared = folder / "runs" / "t" / "compared"
    bits = evaluation.read(compared, "evaluate")
    assert bits["000010"].bits_per_byte.estimate < bits["000000"].bits_per_byte.estimate
    assert not seal.verify(compared)


def test_verify_finds_a_changed_byte(kept):
    assert seal.verify(kept) == []
    file = kept_weights.folder(kept, 2) / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        (problem,) = seal.verify(kept)
        assert "steps/000002/model.safetensors: changed since the run was sealed" in problem
    finally:
        file.write_bytes(content)


def test_a_replay_compares_the_kept_weights(kept, capfd):
    assert main.main(["verify", str(kept), "--replay", "12", "--json"]) == 0
    states = [state["what"] for state in json.loads(capfd.readouterr().out)["replay"]["states"]]
    assert [name for name in states if name.startswith("steps/")] == [
        f"steps/{step:06d} weights" for step in STEPS[1:]
    ]


@pytest.mark.parametrize("from_the_training", [False, True])
def test_a_resumed_run_keeps_the_same_bytes(kept, pretrain, monkeypatch, from_the_training):
    """Crashes before the first checkpoint and after step 10, which is kept again from step 8 on.

    Broken on purpose: samples that draw from a generator that training uses.
    """
    if from_the_training:
        monkeypatch.setattr(loop, "_sample_seeds", lambda recipe: torch.randint(2**31, (2,)).tolist())
    left = [3, 10]

    def crash(context, number, rows, monitor):
        if left and number == left[0]:
            left.pop(0)
            raise ConnectionError("the machine is gone")
        return train_step(context, number, rows, monitor)

    monkeypatch.setattr(loop, "train_step", crash)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            pretrain("broken", **KEEP)
        torch.rand(3)  # another state of the global generator
    broken = pretrain("broken", **KEEP)
    assert ("kept" in trainings.differing(kept, broken)) is from_the_training
    if not from_the_training:
        assert trainings.differing(kept, broken) == []


@pytest.mark.parametrize("copied", [True, False])
def test_a_slow_write_in_the_background_is_of_its_own_step(kept, pretrain, monkeypatch, copied):
    write = kept_weights.KeptWeights.write
    threads = set()

    def slow(self, run, exporter):
        threads.add(threading.current_thread())
        time.sleep(0.2)  # a step takes less
        write(self, run, exporter)

    monkeypatch.setattr(kept_weights.KeptWeights, "write", slow)
    if not copied:  # broken: what is written is what is being trained
        monkeypatch.setattr(training_state, "_copy_to_cpu", lambda tensor, *more: tensor.detach())
    run = pretrain("slow", **KEEP)
    assert threads and threading.main_thread() not in threads
    first, second = (load_file(kept_weights.folder(path, 5) / "model.safetensors") for path in (run, kept))
    assert all(torch.equal(first[name], second[name]) for name in second) is copied


def test_a_failed_write_leaves_no_folder_and_is_made_up_for(kept, folder, corpus, monkeypatch):
    """No checkpoint of the step is sealed before its weights are kept: the same command keeps them again."""
    settings = KEEP | {"checkpoint_every_tokens": 256 * 5}
    write = training_state.ModelExporter.write

    def full(self, path, weights):
        write(self, path, weights)
        if path.name.startswith(".000005"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_state.ModelExporter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        train(folder, corpus, "full", **settings)
    names = [entry.name for entry in (folder / "runs" / "t" / "full" / "steps").iterdir()]
    assert sorted(names) == ["000000", "000001", "000002"]
    monkeypatch.undo()
    assert trainings.differing(kept, train(folder, corpus, "full", **settings)) == []


def test_damaged_kept_weights_are_refused_when_the_run_resumes(tmp_path, kept):
    run = tmp_path / "run"
    shutil.copytree(kept, run)
    kept_weights.require_whole(run, 12)
    file = kept_weights.folder(run, 5) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\7")
    kept_weights.require_whole(run, 4)  # step 5 is written again
    with pytest.raises(RunError, match="model.safetensors: changed") as caught:
        kept_weights.require_whole(run, 5)
    assert caught.value.where == str(file.parent)
    (file.parent / "seal.json").unlink()  # of an older version
    kept_weights.require_whole(run, 5)
