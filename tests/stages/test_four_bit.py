"""Training adapters with the other weights in 4 bits: what is written, and where it is refused."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.chat_fixtures import load_recipe, run_stage, working_in, write_conversations, write_preferences
from tests.stages.tiny_models import base_tokenizer, write_tiny
from toolkit.base.errors import RecipeError, ToolkitError
from toolkit.execution import machine_checks
from toolkit.models import saving
from toolkit.stages import dpo, reward, sft

LORA = {"r": 4, "target_modules": "all-linear", "load_in_4bit": True}
STAGES = {"sft": sft, "reward": reward, "dpo": dpo}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("four_bit")
    write_conversations(path / "conversations.jsonl")
    write_preferences(path / "preferences.jsonl")
    return path


def loaded(folder, stage, model, **settings):
    data = "conversations" if stage == "sft" else "preferences"
    content = {
        "stage": stage, "model": str(model), "data": {"name": f"{folder}/{data}.jsonl"}, "lora": LORA,
        "batch_examples": 8, "precision": "fp32", "threads": 1,
        "trainer": {"max_steps": 3, "learning_rate": 1e-2}, **settings,
    }  # fmt: skip
    precision = content["precision"]
    return load_recipe(folder, f"{model.name}-{stage}-{precision}", json.dumps(content))


@pytest.mark.parametrize(
    ("has_gpu", "installed", "said"),
    [
        (True, True, None),
        (True, False, "needs the package bitsandbytes (pip install bitsandbytes)"),
        (False, True, "needs an NVIDIA GPU"),
        (False, False, "needs an NVIDIA GPU and the package bitsandbytes (pip install bitsandbytes)"),
    ],
)
def test_check_says_what_is_missing(folder, monkeypatch, has_gpu, installed, said):
    spec = importlib.util.find_spec("torch") if installed else None
    monkeypatch.setattr(machine_checks.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(machine_checks.hardware, "has_gpu", lambda: has_gpu)
    problems = machine_checks.problems(loaded(folder, "sft", folder / "base"))
    assert [(problem.key, problem.what) for problem in problems] == (
        [("lora.load_in_4bit", said)] if said else []
    )


def test_ppo_refuses_it(folder):
    text = json.dumps({
        "stage": "ppo", "model": "a/b", "reward_model": "c/d", "data": {"name": "pairs.jsonl"}, "lora": LORA,
    })  # fmt: skip
    with pytest.raises(RecipeError, match="only sft, reward and dpo train with weights in 4 bits"):
        load_recipe(folder, "ppo", text)


@pytest.fixture
def on_cpu(monkeypatch):
    """Let bitsandbytes compute on a CPU without its packed format, which can only be read."""
    modules = pytest.importorskip("bitsandbytes.nn.modules", reason="bitsandbytes is not installed")
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: False)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_written_is_what_was_trained(on_cpu, folder, stage, precision):
    """The logits of the trained and of the written model are compared before the seal (`ModelWriter`)."""
    model = write_tiny(folder / f"llama-{stage}-{precision}", "llama", base_tokenizer())
    if stage != "sft":
        first = loaded(folder, "sft", model, device="cpu", lora=None)
        with working_in(folder, first) as run:
            sft.run(first.recipe, run)
            run.seal()
        model = run.model_dir
    path = run_stage(STAGES[stage], folder, loaded(folder, stage, model, device="cpu", precision=precision))
    config = json.loads((path / "model" / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "float32"
    if stage == "sft":
        weights = AutoModelForCausalLM.from_pretrained(path / "model").state_dict()
        before = AutoModelForCausalLM.from_pretrained(model).state_dict()
        gate = "model.layers.0.mlp.gate_proj.weight"
        assert not torch.equal(weights[gate], before[gate])
        norm = "model.norm.weight"
        assert torch.equal(weights[norm], before[norm])


@pytest.mark.slow
def test_adapters_on_other_weights_than_the_trained_ones_are_not_sealed(on_cpu, folder, monkeypatch):
    model = write_tiny(folder / "llama-other", "llama", base_tokenizer())
    dequantized = saving.four_bit.dequantized

    def altered(trained):
        plain = dequantized(trained)
        with torch.no_grad():
            plain.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight.mul_(1.01)
        return plain

    monkeypatch.setattr(saving.four_bit, "dequantized", altered)
    with pytest.raises(ToolkitError, match="the merged model computes other logits than the trained one"):
        run_stage(sft, folder, loaded(folder, "sft", model, device="cpu"))


@pytest.mark.slow
def test_transposed_weights_are_refused_before_the_first_step(on_cpu, folder):
    model = write_tiny(folder / "gpt2", "gpt2", base_tokenizer())
    with pytest.raises(ToolkitError, match="stores its weights transposed"):
        run_stage(sft, folder, loaded(folder, "sft", model, device="cpu"))
