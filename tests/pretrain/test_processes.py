"""Pretraining in subprocesses: resuming after kills, and two processes."""

from __future__ import annotations

import random
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.pretrain import trainings
from tests.pretrain.conftest import write_recipe
from toolkit.base import files
from toolkit.runs import checkpoint, metrics, seal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# 55 rows of 8 are one epoch: all kills fall into the first one
SETTINGS = {
    "train_tokens": 256 * 50, "checkpoint_every_tokens": 256 * 5, "optimizer": {"name": "muon"},
    "samples": {"prompts": []}, "log_every_steps": 1, "evaluate_every_tokens": 256 * 7,
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 32, "dropout": 0.1},
    "guard": {"z_score": 50.0, "window": 10}, "keep_weights_at_steps": "log",
}  # fmt: skip


def half_written(run, name: str = "checkpoints") -> bool:
    """Return whether a write of a folder of `name` is in progress or was interrupted."""
    folder = run / name
    return folder.is_dir() and any(files.is_temporary(entry.name) for entry in folder.iterdir())


def losses(run):
    return [row["loss"] for row in metrics.read(run / "metrics.jsonl") if "loss" in row]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("whole")
    return trainings.finish(write_recipe(folder, corpus, "whole", **SETTINGS), folder=folder)


def test_resume_after_kills_during_steps_and_saves_is_identical(tmp_path, corpus, whole):
    """Tier B: after six SIGKILLs within one epoch, the final files equal those of an uninterrupted run."""
    recipe = write_recipe(tmp_path, corpus, "killed", **SETTINGS)
    run = trainings.run_dir(recipe, tmp_path)
    generator = random.Random(0)
    first = generator.randint(1, 4)  # before the first checkpoint
    conditions = [lambda: half_written(run, "steps"), lambda: trainings.steps_done(run) >= first]
    conditions += [lambda: half_written(run)] * 2
    later = generator.randint(20, 25)
    conditions += [lambda: trainings.steps_done(run) >= later, lambda: half_written(run)]
    in_the_middle = 0
    for condition in conditions:
        process = trainings.start(recipe, folder=tmp_path, fault="slow steps")
        before = trainings.newest(run)
        assert trainings.kill_when(process, condition), process.stderr
        assert process.returncode == -signal.SIGKILL and not seal.is_sealed(run)
        in_the_middle += half_written(run)
        checkpoints = checkpoint.steps(run / "checkpoints")
        assert all(checkpoint.is_whole(path) for _, path in checkpoints)
        assert trainings.newest(run) >= before
        # the log reaches the checkpoint from which the run resumes
        rows = metrics.read(run / "steps.jsonl")
        assert not checkpoints or rows[-1]["step"] >= checkpoints[-1][0]
    assert in_the_middle >= 1
    trainings.finish(recipe, folder=tmp_path)
    assert seal.is_sealed(run) and not seal.verify(run)
    assert trainings.differing(whole, run) == []


def test_unsealed_checkpoint_write_is_detected(tmp_path, corpus, whole):
    """Planted fault: without the seal, a run killed during a checkpoint write cannot resume correctly."""
    recipe = write_recipe(tmp_path, corpus, "broken", **SETTINGS)
    run = trainings.run_dir(recipe, tmp_path)

    def middle() -> bool:
        return any(not (path / "training.json").exists() for _, path in checkpoint.steps(run / "checkpoints"))

    process = trainings.start(recipe, folder=tmp_path, fault="write in place")
    assert trainings.kill_when(process, middle) and middle()
    status, _ = trainings.wait_for_end(trainings.start(recipe, folder=tmp_path, fault="write in place"))
    assert status != 0 or trainings.differing(whole, run) != []
    # a run without the fault ignores the damaged checkpoint and starts from a complete one
    status, err = trainings.wait_for_end(trainings.start(recipe, folder=tmp_path))
    assert status == 0 and "not used, because it changed since it was sealed" in err
    assert trainings.differing(whole, run) == []


def test_two_processes_keep_the_same_weights_and_samples(tmp_path, corpus):
    """With `exact`, bytes do not depend on the processes; without it, the last step equals the model."""
    settings = {"keep_weights_at_steps": "log", "micro_batch_tokens": 64}
    runs = {}
    for name, processes, exact in (("one", 1, True), ("two", 2, True), ("rounded", 2, False)):
        recipe = write_recipe(tmp_path, corpus, name, **settings, exact=exact)
        runs[name] = trainings.finish(recipe, folder=tmp_path, processes=processes)
        assert sorted(path.name for path in (runs[name] / "steps").iterdir()) == [
            "000000", "000001", "000002", "000005", "000010", "000012",
        ]  # fmt: skip
        assert not seal.verify(runs[name])
        final, last = (runs[name] / folder / "model.safetensors" for folder in ("model", "steps/000012"))
        assert final.read_bytes() == last.read_bytes()
    assert trainings.result(runs["one"])["kept"] == trainings.result(runs["two"])["kept"]


def test_two_processes_match_one_process_in_pretraining(tmp_path, corpus):
    settings = {"log_every_steps": 1, "train_tokens": 256 * 20, "micro_batch_tokens": 64}
    single = trainings.finish(write_recipe(tmp_path, corpus, "one", **settings), folder=tmp_path)
    pair = trainings.finish(write_recipe(tmp_path, corpus, "two", **settings), folder=tmp_path, processes=2)
    assert len(losses(single)) == 20
    np.testing.assert_allclose(losses(pair), losses(single), rtol=1e-4)
    first, second = (load_file(run / "model" / "model.safetensors") for run in (single, pair))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-3, rtol=1e-3)
