"""The complete ppo stage: its outputs and bitwise resumption."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.ppo.training import Killed, run_stage, run_twice
from tests.stages.tiny_models import write_tiny
from toolkit.base.errors import ToolkitError
from toolkit.models.saving import ModelWriter
from toolkit.ppo import rewards
from toolkit.runs import metrics

NUMBERS = {
    "score",
    "reward",
    "kl",
    "entropy",
    "clip_fraction",
    "value_clip_fraction",
    "explained_variance",
    "length",
    "ended",
    "kl_coefficient",
    "policy_loss",
    "value_loss",
    "episodes",
    "step",
}


def test_run_outputs(opened, recipe, world):
    path = run_stage(opened, recipe(kl_target=3.0))
    rows = metrics.read(path / "metrics.jsonl")
    shown, rows = [row for row in rows if "samples" in row], [row for row in rows if "score" in row]
    assert [row["step"] for row in rows] == [4, 8, 12, 16] == [row["step"] for row in shown]
    assert [row["episodes"] for row in rows] == [8, 16, 24, 32]
    assert all(row.keys() >= NUMBERS for row in rows)
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4) and abs(rows[-1]["kl"]) > 1e-3
    assert rows[0]["kl_coefficient"] == 0.05 and rows[1]["kl_coefficient"] == pytest.approx(0.05 * 0.98)
    assert 0 < sum(row["ended"] for row in rows) < 4
    assert shown[0]["samples"][0]["prompt"].split()[0] in ("Say", "Count")
    evaluation = json.loads((path / "evaluation.json").read_text())
    assert evaluation["n"] == 8 and evaluation["seed"] == 3
    assert evaluation["score"] == pytest.approx(rows[-1]["score"])
    assert evaluation["kl"] == pytest.approx(rows[-1]["kl"], abs=1e-5)
    assert evaluation["reference"]["score"] == pytest.approx(rows[0]["score"])
    low, high = evaluation["score_interval"]
    assert low < evaluation["score"] < high
    before = AutoModelForCausalLM.from_pretrained(world / "policy").state_dict()
    after = AutoModelForCausalLM.from_pretrained(path / "model").state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    AutoModelForCausalLM.from_pretrained(path / "checkpoints" / "step-00000016")


def test_resumed_run_is_bitwise_identical(opened, recipe, monkeypatch):
    settings = recipe(checkpoint_every_steps=2, kl_target=3.0, entropy_coefficient=0.01)
    whole, resumed = run_twice(opened, settings, monkeypatch)
    for name in ("model.safetensors", "critic.safetensors"):
        first, second = (load_file(path / "checkpoints/step-00000016" / name) for path in (whole, resumed))
        assert first.keys() == second.keys() and len(first)
        assert all(torch.equal(first[key], second[key]) for key in first), name
    first, second = (
        torch.load(path / "checkpoints/step-00000016/optimizer.pt", weights_only=True)
        for path in (whole, resumed)
    )
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    assert (whole / "evaluation.json").read_text() == (resumed / "evaluation.json").read_text()
    first, second = (
        [
            {key: value for key, value in row.items() if key != "time"}
            for row in metrics.read(path / "metrics.jsonl")
        ]
        for path in (whole, resumed)
    )
    assert first == second


def test_run_killed_after_its_last_checkpoint_only_writes_the_model(opened, recipe, monkeypatch):
    whole = run_stage(opened, recipe(), "whole")
    monkeypatch.setattr(ModelWriter, "write", lambda *arguments, **named: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run_stage(opened, recipe(), "cut")
    monkeypatch.undo()
    resumed = run_stage(opened, recipe(), "cut")
    assert (whole / "evaluation.json").read_text() == (resumed / "evaluation.json").read_text()
    first, second = ((path / "model/model.safetensors").read_bytes() for path in (whole, resumed))
    assert first == second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 60}, "exceed the policy's context of 64"),
        ({"learning_rate": 1e30}, "collapsed"),
        ({"learning_rate": 1e30, "episodes": 8, "epochs": 1, "minibatches": 1}, "not finite after step 1"),
    ],
)
def test_refusals(opened, recipe, changes, message):
    with pytest.raises(ToolkitError, match=message):
        run_stage(opened, recipe(**changes))


def test_nan_score_stops_the_run_and_names_the_reward(opened, recipe, monkeypatch):
    monkeypatch.setattr(
        rewards, "reward_scores", lambda *models, answers, ended: [float("nan")] * len(answers)
    )
    with pytest.raises(ToolkitError, match="8 of 8 answers have a score that is NaN") as caught:
        run_stage(opened, recipe())
    assert caught.value.where == "reward reward"


def test_adapters_are_trained_and_merged(opened, recipe, world):
    path = run_stage(opened, recipe(lora={"r": 4, "target_modules": ["c_attn"]}, learning_rate=1e-2))
    before = AutoModelForCausalLM.from_pretrained(world / "policy").state_dict()
    after = AutoModelForCausalLM.from_pretrained(path / "model").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("c_attn.weight" in name for name in changed)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
@pytest.mark.parametrize("lora", [None, {"r": 4, "target_modules": "all-linear"}])
def test_a_foreign_policy_keeps_its_configuration_and_dtype(
    opened, recipe, tmp_path, tiny_tokenizer, algorithm, lora
):
    base = write_tiny(tmp_path / "llama", "llama", tiny_tokenizer, dtype=torch.bfloat16, bos_token_id=3)
    changed = recipe(lora=lora, learning_rate=1e-2)
    settings = changed.trainer.model_copy(update={"answers_per_prompt": 4 if algorithm == "rloo" else None})
    changed = changed.model_copy(update={"model": str(base), "algorithm": algorithm, "trainer": settings})
    path = run_stage(opened, changed)
    assert {tensor.dtype for tensor in load_file(path / "model/model.safetensors").values()} == {
        torch.bfloat16
    }
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (base, path / "model"))
    assert before == after
    assert any(
        not torch.equal(tensor, load_file(base / "model.safetensors")[name])
        for name, tensor in load_file(path / "model/model.safetensors").items()
    )


@pytest.mark.parametrize("changes", [{"episodes": 33}, {"minibatches": 3}])
def test_episodes_are_a_multiple_of_the_rollout(recipe, changes):
    with pytest.raises(ValueError, match="not a multiple"):
        recipe(**changes)
