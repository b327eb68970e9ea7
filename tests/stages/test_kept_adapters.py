"""`lora.merge: false`: the sealed model is an adapter in PEFT's format, and loads wherever a model does."""

from __future__ import annotations

import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.chat_fixtures import (
    byte_tokenizer,
    load_recipe,
    metrics,
    run_stage,
    write_conversations,
    write_preferences,
)
from tests.stages.tiny_models import base_tokenizer, write_tiny
from toolkit.base.errors import RecipeError, ToolkitError
from toolkit.models import adapters
from toolkit.models.loading import load_causal_lm, load_reward_model
from toolkit.models.soundness import probe_logits
from toolkit.models.stop_tokens import StopTokens
from toolkit.ppo import stage as ppo
from toolkit.publish.repository import write_repository
from toolkit.runs import seal
from toolkit.stages import dpo, reward, sft

slow = pytest.mark.slow
STAGES = {"sft": sft, "dpo": dpo, "reward": reward}
KEPT = {"target_modules": "all-linear", "r": 4, "merge": False}
FILES = {
    "adapter_config.json", "adapter_model.safetensors", "config.json", "chat_template.jinja",
    "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept")
    write_conversations(path / "conversations.jsonl")
    write_preferences(path / "preferences.jsonl")
    write_tiny(path / "llama", "llama", byte_tokenizer())
    return path


@pytest.fixture
def train(folder):
    """Run four steps of a stage, and return the run's folder."""

    def run(stage, model, name, **settings):
        data = "conversations" if stage == "sft" else "preferences"
        content = {
            "stage": stage, "model": str(model), "data": {"name": f"{folder}/{data}.jsonl"},
            "batch_examples": 8, "device": "cpu", "precision": "fp32", "threads": 1,
            "trainer": {"max_steps": 4, "learning_rate": 1e-2}, "lora": KEPT, **settings,
        }  # fmt: skip
        return run_stage(STAGES[stage], folder, load_recipe(folder, name, json.dumps(content)))

    return run


def logits(path, load=load_causal_lm):
    return probe(load((str(path / "model"), None))[0])


def probe(model):
    return probe_logits(model, [list(range(5, 40))])[0]


@pytest.mark.parametrize(
    "stage", ["sft", pytest.param("dpo", marks=slow), pytest.param("reward", marks=slow)]
)
def test_the_adapter_is_the_model_that_merging_writes(folder, train, stage):
    load = load_reward_model if stage == "reward" else load_causal_lm
    kept = train(stage, folder / "llama", f"kept-{stage}")
    merged = train(stage, folder / "llama", f"merged-{stage}", lora={**KEPT, "merge": True})
    assert {path.name for path in (kept / "model").iterdir()} - {"generation_config.json"} == FILES
    torch.testing.assert_close(logits(kept, load), logits(merged, load), rtol=1e-5, atol=1e-6)
    if stage == "reward":
        scales = [load((str(path / "model"), None))[0].config.score_std for path in (kept, merged)]
        assert scales[0] == pytest.approx(scales[1], rel=1e-5)
    first, second = (json.loads((path / "evaluation.json").read_text()) for path in (kept, merged))
    assert first["held_out_loss"] == pytest.approx(second["held_out_loss"], rel=1e-5)


@slow
@pytest.mark.parametrize("name", ["llama", "llama_tied", "gptj"])
def test_the_rows_of_new_tokens_are_in_the_adapter(folder, train, name):
    base = write_tiny(folder / f"base-{name}", name, base_tokenizer())
    kept = train("sft", base, f"kept-rows-{name}")
    merged = train("sft", base, f"merged-rows-{name}", lora={**KEPT, "merge": True})
    torch.testing.assert_close(logits(kept), logits(merged), rtol=1e-5, atol=1e-6)
    model, tokenizer = load_causal_lm((str(kept / "model"), None))
    expected = StopTokens.of(*load_causal_lm((str(merged / "model"), None)))
    assert StopTokens.of(model, tokenizer) == expected
    assert model.generation_config.suppress_tokens  # rows without a token


@slow
def test_peft_itself_reads_the_adapter(folder, train):
    kept = train("sft", folder / "llama", "kept-for-peft")
    base = AutoModelForCausalLM.from_pretrained(folder / "llama")
    found = peft.PeftModel.from_pretrained(base, kept / "model")
    torch.testing.assert_close(probe(found), logits(kept), rtol=1e-4, atol=1e-5)


def test_a_training_goes_on_from_an_adapter_and_both_move_together(folder, train, tmp_path):
    seal.seal(train("sft", folder / "llama", "first"))
    second = train("dpo", "runs/first", "second")
    settings = json.loads((second / "model/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "../../first/model"
    assert metrics(second)[0]["held_out_margin"] == 0.0
    before = logits(second)
    for name in ("first", "second"):
        shutil.copytree(folder / f"runs/{name}", tmp_path / f"there/runs/{name}")
    shutil.copytree(folder / "llama", tmp_path / "there/llama")
    shutil.move(folder / "runs/first", folder / "runs/gone")
    assert torch.equal(logits(tmp_path / "there/runs/second"), before)
    with pytest.raises(ToolkitError, match="its base model cannot be loaded"):
        logits(second)


@slow
def test_a_reward_model_begins_with_an_adapter(folder, train):
    """Its new head replaces that of the language model, whose rows of new tokens are in the adapter."""
    base = write_tiny(folder / "for-reward", "llama", base_tokenizer())
    seal.seal(train("sft", base, "rows-first"))
    kept = train("reward", "runs/rows-first", "reward-second")
    seal.seal(train("sft", base, "rows-first-merged", lora={**KEPT, "merge": True}))
    merged = train("reward", "runs/rows-first-merged", "reward-second-merged", lora={**KEPT, "merge": True})
    torch.testing.assert_close(
        logits(kept, load_reward_model), logits(merged, load_reward_model), rtol=1e-4, atol=1e-5
    )


@slow
def test_ppo_begins_with_an_adapter_and_keeps_one(folder, train):
    seal.seal(train("reward", folder / "llama", "ppo-reward"))
    seal.seal(train("sft", folder / "llama", "ppo-sft"))
    recipe = {
        "stage": "ppo", "model": "runs/ppo-sft", "reward_model": "runs/ppo-reward", "threads": 1,
        "data": {"name": f"{folder}/preferences.jsonl"}, "device": "cpu", "precision": "fp32",
        "trainer": {
            "episodes": 16, "rollout_examples": 8, "epochs": 1, "learning_rate": 1e-2,
            "max_prompt_tokens": 48, "max_new_tokens": 8, "score_scale": "reward_model",
        },
    }  # fmt: skip
    runs = []
    for merge in (False, True):
        recipe["lora"] = {**KEPT, "merge": merge}
        torch.manual_seed(0)  # the adapters of PPO begin with draws of the global generator
        runs.append(run_stage(ppo, folder, load_recipe(folder, f"ppo-{merge}", json.dumps(recipe))))
    kept, merged = runs
    assert (kept / "model/adapter_model.safetensors").exists()
    torch.testing.assert_close(logits(kept), logits(merged), rtol=1e-5, atol=1e-6)
    assert not torch.equal(logits(kept), logits(folder / "runs/ppo-sft"))


@slow
@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_a_published_adapter_is_a_plain_model(folder, train, tmp_path, stage):
    kept = train(stage, folder / "llama", f"published-{stage}")
    seal.seal(kept)
    write_repository(kept, "someone/model", tmp_path / "model")
    assert (tmp_path / "model/model.safetensors").exists()
    assert not (tmp_path / "model/adapter_config.json").exists()
    load = load_reward_model if stage == "reward" else load_causal_lm
    assert torch.equal(logits(tmp_path, load), logits(kept, load))


@slow
def test_checkpoints_name_the_base_relative_to_themselves(folder, train):
    kept = train("sft", folder / "llama", "kept-checkpoint")
    [settings] = kept.glob("checkpoints/*/adapter_config.json")
    assert json.loads(settings.read_text())["base_model_name_or_path"] == "../../../../llama"
    assert torch.equal(probe(load_causal_lm((str(settings.parent), None))[0]), logits(kept))


def test_the_settings_are_written_in_a_fixed_order(folder, train):
    kept = train("sft", folder / "llama", "kept-order")
    targets = json.loads((kept / "model/adapter_config.json").read_text())["target_modules"]
    assert len(targets) == 14 and targets == sorted(targets)


@slow
def test_an_adapter_of_a_bf16_checkpoint_is_that_of_its_values(folder, train):
    base = write_tiny(folder / "bf16", "llama", byte_tokenizer(), dtype=torch.bfloat16)
    kept = train("sft", base, "kept-bf16")
    evaluation = json.loads((kept / "evaluation.json").read_text())
    assert metrics(kept)[-1]["held_out_loss"] == pytest.approx(evaluation["held_out_loss"], rel=1e-5)
    written = load_file(kept / "model/adapter_model.safetensors").values()
    assert {tensor.dtype for tensor in written} == {torch.float32}


# What is not the trained model is not sealed


def spoil_a_weight(path):
    weights = load_file(path)
    name = next(name for name in weights if "lora_B" in name)
    weights[name][0, 0] += 1e-6
    save_file(weights, path)


def spoil_many(path):
    save_file({name: 2 * weight for name, weight in load_file(path).items()}, path)


def lose_a_weight(path):
    weights = load_file(path)
    del weights[next(iter(weights))]
    save_file(weights, path)


@slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (spoil_a_weight, "the written adapter differs from the trained one"),
        (spoil_many, "the written adapter differs from the trained one"),
        (lose_a_weight, "cannot be loaded: is an adapter that does not fit its base model: it lacks"),
    ],
)
def test_an_adapter_that_is_written_wrongly_is_not_sealed(folder, train, monkeypatch, damage, words):
    write = adapters.TrainedAdapter.write

    def spoiled(self, folder, *, base):
        write(self, folder, base=base)
        damage(folder / adapters.WEIGHTS)

    monkeypatch.setattr(adapters.TrainedAdapter, "write", spoiled)
    with pytest.raises(ToolkitError, match=words):
        train("sft", folder / "llama", f"spoiled-{damage.__name__}")
    assert not (folder / f"runs/spoiled-{damage.__name__}/model").exists()


@slow
def test_another_base_is_found_before_the_seal(folder, train, monkeypatch):
    other = write_tiny(folder / "other", "llama", byte_tokenizer(), rope_theta=10.0)
    write = adapters.TrainedAdapter.write
    monkeypatch.setattr(
        adapters.TrainedAdapter,
        "write",
        lambda self, path, *, base: write(self, path, base=(str(other), None)),
    )
    with pytest.raises(ToolkitError, match="the written adapter computes other logits than the trained one"):
        train("sft", folder / "llama", "another-base")


def test_weights_in_4_bits_need_merging(folder):
    with pytest.raises(RecipeError, match=r"lora.merge: contradicts load_in_4bit"):
        load_recipe(folder, "four", json.dumps({
            "stage": "sft", "model": "a/b", "data": {"name": "d.jsonl"},
            "lora": {"merge": False, "load_in_4bit": True},
        }))  # fmt: skip
