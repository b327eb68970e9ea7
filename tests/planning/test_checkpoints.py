"""The plan of a recipe that starts from a checkpoint has the numbers of the built model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
import trl
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, LlamaConfig, LlamaForCausalLM

from tests.architectures import ARCHITECTURES, LLAMA_LIKE, WITH_HEAD_DIM, build_architecture
from toolkit.base.errors import ToolkitError
from toolkit.config.loader import load
from toolkit.config.schema import LoraSettings
from toolkit.config.schema.trainers import TRL_MAX_LENGTH
from toolkit.models import architectures, checkpoint_shape
from toolkit.models.description import position_limit
from toolkit.planning import checkpoint_cost
from toolkit.planning.plan import Question, plan_recipes

RECIPES = Path(__file__).parents[2] / "recipes"
OWN_POSITIONS = ("roberta_decoder",)
"""Its first positions are those of padding, which config.json does not say."""


def saved_tied_llama(folder: Path, **changes) -> LlamaForCausalLM:
    model = LlamaForCausalLM(LlamaConfig(**LLAMA_LIKE, vocab_size=300, tie_word_embeddings=True, **changes))
    model.save_pretrained(folder)
    return model


def planned(model: Path | str, *overrides: str, recipe: str = "own-model", runs_dir: Path = Path("runs")):
    plan = plan_recipes(
        RECIPES / recipe, [f"model={model}", *overrides], question=Question(probe=False, runs_dir=runs_dir)
    )
    return {row.stage: row for row in plan.stages}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_rows_and_positions_are_those_of_the_model(name, tmp_path, tiny_tokenizer):
    model = build_architecture(name, tiny_tokenizer)
    model.save_pretrained(tmp_path)
    shape = checkpoint_shape.of_folder(tmp_path)
    assert shape.parameters == architectures.parameters(model)
    assert shape.vocabulary == model.get_input_embeddings().num_embeddings
    assert name in OWN_POSITIONS or shape.positions == position_limit(model.config)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "qwen3", "phi", "gpt_neox", "bloom", "opt"])
def test_flops_are_those_of_the_model(name, tmp_path, tiny_tokenizer):
    model = build_architecture(name, tiny_tokenizer)
    model.save_pretrained(tmp_path)
    shape = checkpoint_shape.of_folder(tmp_path)
    assert shape.flops_per_token(64) == architectures.flops_per_token(model, 64)
    assert shape.layers == 2


def test_tied_weights_count_once_also_if_they_are_stored_twice(tmp_path):
    model = saved_tied_llama(tmp_path)
    tied = checkpoint_shape.of_folder(tmp_path)
    assert tied.parameters == architectures.parameters(model)
    assert tied.flops_per_token(64) == architectures.flops_per_token(model, 64)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, tmp_path / "model.safetensors")
    assert checkpoint_shape.of_folder(tmp_path).parameters == tied.parameters


def test_constants_of_old_files_are_no_parameters(tmp_path, tiny_tokenizer):
    model = build_architecture("gpt2", tiny_tokenizer)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 256, 256)
    weights["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(weights, tmp_path / "model.safetensors")
    assert checkpoint_shape.of_folder(tmp_path).parameters == architectures.parameters(model)


def test_of_experts_only_those_multiply_that_a_token_is_given_to(tmp_path, tiny_tokenizer):
    model = build_architecture("mixtral", tiny_tokenizer)
    model.save_pretrained(tmp_path)
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    table = model.get_input_embeddings().weight.numel()
    multiplying = architectures.parameters(model) - table - experts // 2  # 2 of 4 experts
    assert checkpoint_shape.of_folder(tmp_path).flops_per_token(64) == 6 * multiplying + 12 * 2 * 32 * 64
    assert "are trained, without those of experts" in planned(tmp_path)["sft"].note


def test_what_reads_images_is_trained_but_does_not_multiply_text(tmp_path):
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 1}
    text = {**WITH_HEAD_DIM, "vocab_size": 300, "layer_types": ["full_attention"] * 2}
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision))
    model.save_pretrained(tmp_path)
    shape = checkpoint_shape.of_folder(tmp_path)
    language = sum(parameter.numel() for parameter in model.model.language_model.parameters())
    assert shape.parameters == architectures.parameters(model) > shape.multiplying == language
    assert (shape.layers, shape.positions, shape.vocabulary) == (2, 256, 300)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("targets", ["all-linear", ["o_proj", "c_attn"]])
def test_adapters_have_as_many_parameters_as_those_of_peft(name, targets, tmp_path, tiny_tokenizer):
    model = build_architecture(name, tiny_tokenizer)
    model.save_pretrained(tmp_path)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    lora = LoraSettings(r=4, target_modules=targets)
    shape = checkpoint_shape.of_folder(tmp_path)
    assert shape.adapter_parameters(lora) == trained > 0
    full, frozen = shape.flops_per_token(64), shape.flops_per_token(64, lora=lora)
    assert full - frozen == 2 * shape.multiplying - 6 * trained
    assert shape.state_bytes(lora=lora) == 4 * shape.parameters + 16 * trained


def test_the_plan_of_a_folder_of_recipes_starts_from_the_checkpoint(tmp_path, tiny_tokenizer):
    model = build_architecture("llama", tiny_tokenizer)
    model.save_pretrained(tmp_path)
    rows = planned(tmp_path)
    count, shape = architectures.parameters(model), checkpoint_shape.of_folder(tmp_path)
    adapters = sum(16 * sum(sides) for sides in shape.linear.values())  # r of recipes/own-model
    for stage, models in (("sft", 1), ("reward", 1), ("dpo", 2)):  # dpo: the reference
        assert rows[stage].parameters == count
        assert rows[stage].state_bytes == 4 * models * count + 16 * adapters
        assert "2 layers of width 32, 268 rows, 256 positions" in rows[stage].note
        assert "the time is not known" in rows[stage].note and rows[stage].seconds is None
        assert rows[stage].peak_bytes > rows[stage].state_bytes + rows[stage].memory["activations"]
    full = planned(tmp_path, "lora=null", "data={name: pairs.jsonl, examples: 160}", "trainer.max_length=128")
    assert full["sft"].state_bytes == 16 * count
    assert full["sft"].flops == 160 * 128 * architectures.flops_per_token(model, 128)
    assert "no layer is named c_attn" in planned(tmp_path, "lora={target_modules: [c_attn]}")["sft"].note


def test_memory_counts_what_the_settings_change(tmp_path, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(checkpoint_cost, "computes_in_bf16", lambda recipe: False)
    build_architecture("llama", tiny_tokenizer).save_pretrained(tmp_path)

    def memory(*overrides):
        return planned(tmp_path, *overrides)["sft"].memory

    base = memory()
    layers, width, inner, tokens = 2, 32, 64, 4 * 256
    per_token = layers * (16 * width + 4 * (6 * width + 4 * inner))
    assert base["activations"] == tokens * per_token
    assert base["logits"] == 14 * tokens * 268
    assert memory("micro_batch_examples=1")["activations"] * 4 == base["activations"]
    assert memory("trainer.activation_checkpointing=true")["activations"] < base["activations"]
    shape = checkpoint_shape.of_folder(tmp_path)
    in_4bit = sum(first * second for first, second in shape.linear.values())
    saved = base["state"] - memory("lora.load_in_4bit=true")["state"]
    assert saved == int(3.48 * in_4bit)


def test_the_time_follows_from_timed_products(tmp_path, tiny_tokenizer, monkeypatch):
    build_architecture("llama", tiny_tokenizer).save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(
        checkpoint_cost, "flops_per_second", lambda recipe, shape, *, tokens: asked.append(tokens) or 1e9
    )
    overrides = [f"model={tmp_path}", "data={name: pairs.jsonl, examples: 160}"]
    plan = plan_recipes(RECIPES / "own-model", overrides, question=Question())
    rows = {row.stage: row for row in plan.stages}
    assert asked == [4 * 256]  # once for a model
    for stage, passes in (("sft", 1), ("dpo", 4 / 3)):
        row = rows[stage]
        assert row.basis == "scaled" and row.seconds == pytest.approx(row.flops / 1e9)
        assert row.tokens_per_second == pytest.approx(row.tokens / row.seconds), passes
    unknown = plan_recipes(RECIPES / "own-model", [f"model={tmp_path}"], question=Question())
    row = unknown.stages[0]
    assert row.seconds is None and row.tokens_per_second > 0  # as many rows as the data have


@pytest.mark.slow
def test_products_are_timed_in_a_program_of_their_own(tmp_path, tiny_tokenizer, monkeypatch):
    build_architecture("llama", tiny_tokenizer).save_pretrained(tmp_path)
    monkeypatch.setattr(checkpoint_cost, "PROBE_SECONDS", 0.0)
    recipe = load(RECIPES / "own-model/sft.yaml", [f"model={tmp_path}"]).recipe
    shape = checkpoint_shape.of_folder(tmp_path)
    assert checkpoint_cost.flops_per_second(recipe, shape, tokens=64) > 1e6


def test_rows_have_the_default_length_of_trl_where_a_model_takes_more(tmp_path):
    for config in (trl.SFTConfig, trl.RewardConfig, trl.DPOConfig):
        assert config.__dataclass_fields__["max_length"].default == TRL_MAX_LENGTH
    recipe = tmp_path / "sft.yaml"
    model = saved_tied_llama(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"max_position_embeddings": 131_072}))
    recipe.write_text(
        f"stage: sft\nmodel: {tmp_path}/model\ndata: {{name: storyworld, examples: 10}}\n"
        "trainer: {max_steps: 1}\n"
    )
    [row] = plan_recipes(recipe).stages
    assert row.tokens == 16 * 1024 and "131,072 positions" in row.note
    assert row.flops == row.tokens * architectures.flops_per_token(model, 1024)


def test_adapters_have_the_shape_of_their_base(tmp_path):
    model = saved_tied_llama(tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text('{"base_model_name_or_path": "../base"}')
    assert planned(tmp_path / "adapter")["sft"].parameters == architectures.parameters(model)


def test_a_model_that_is_not_here_is_named_and_a_damaged_file_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    row = planned("someone/absent-model")["sft"]
    assert row.parameters is None and "someone/absent-model has no weights in safetensors" in row.note
    saved_tied_llama(snapshot := tmp_path / "cache/models--someone--absent-model/snapshots" / ("a" * 40))
    (refs := snapshot.parents[1] / "refs").mkdir()
    (refs / "main").write_text("a" * 40)
    assert planned("someone/absent-model")["sft"].parameters > 0
    weights = snapshot / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(ToolkitError, match="is cut off"):
        planned("someone/absent-model")


def test_planning_a_checkpoint_does_not_import_torch(tmp_path):
    saved_tied_llama(tmp_path)
    code = (
        "import sys; from toolkit.cli import main; "
        f"assert main.main(['plan', 'recipes/own-model', 'model={tmp_path}', '--no-probe']) == 0; "
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=RECIPES.parent, capture_output=True, text=True)
    assert done.stdout == "[]\n" and "sft: examples" in done.stderr, done.stderr
