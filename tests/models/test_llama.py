"""The initial Llama: the stock model of transformers, reproducible weights, parameter counts."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from toolkit.config.schema import ModelSettings
from toolkit.models.architectures import blocks, flops_per_token, parameters
from toolkit.models.llama import build
from toolkit.models.shape import block_matrices, block_weights, num_parameters
from toolkit.models.shape import flops_per_token as planned_flops_per_token

SMALL = {"architecture": "llama", "n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 16}
SHAPES = [{}, {"n_kv_head": 1}, {"n_kv_head": 2, "n_inner": 40}]


@pytest.mark.parametrize("more", SHAPES)
def test_parameters_and_flops_are_those_of_the_built_model(more):
    settings = ModelSettings(**SMALL, **more)
    model = build(settings, vocab_size=100, seed=0, end_id=0)
    assert type(model) is LlamaForCausalLM and model.lm_head.weight is model.model.embed_tokens.weight
    assert parameters(model) == num_parameters(settings, vocab_size=100)
    matrices = [p for block in blocks(model) for p in block.parameters() if p.ndim == 2]
    assert sum(matrix.numel() for matrix in matrices) == block_weights(settings)
    for name, (inputs, outputs) in block_matrices(settings).items():
        (matrix, _) = (p for block in blocks(model) for n, p in block.named_parameters() if f"{name}." in n)
        assert matrix.shape == (outputs, inputs), name
    for length in (8, 16):
        planned = planned_flops_per_token(settings, vocab_size=100, sequence_length=length)
        assert planned == flops_per_token(model, length)


def test_published_shape_has_its_published_number_of_parameters():
    """SmolLM2-135M, https://huggingface.co/HuggingFaceTB/SmolLM2-135M: 134,515,008."""
    settings = ModelSettings(
        architecture="llama", n_layer=30, n_head=9, n_kv_head=3, n_embd=576, n_positions=8192
    )
    assert settings.inner_width == 1536
    assert num_parameters(settings, vocab_size=49152) == 134_515_008


def test_a_block_has_as_many_matrix_weights_as_gpt2_by_default():
    llama, gpt2 = (ModelSettings(architecture=name, n_embd=192, n_head=6) for name in ("llama", "gpt2"))
    assert block_weights(llama) == block_weights(gpt2)


def test_initialization_depends_only_on_the_seed():
    settings = ModelSettings(**SMALL)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(settings, vocab_size=100, seed=7, end_id=0)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    second = build(settings, vocab_size=100, seed=7, end_id=0)
    other = build(settings, vocab_size=100, seed=8, end_id=0)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.model.embed_tokens.weight, other.model.embed_tokens.weight)


def test_initial_weights_have_the_spread_of_gpt2():
    settings = ModelSettings(architecture="llama", n_layer=8, n_head=4, n_embd=128)
    block = build(settings, vocab_size=512, seed=0, end_id=0).model.layers[0]
    for matrix in (block.self_attn.q_proj, block.mlp.gate_proj):
        assert matrix.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for matrix in (block.self_attn.o_proj, block.mlp.down_proj):
        assert matrix.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)  # sqrt(2 * 8) = 4
    assert (block.input_layernorm.weight == 1).all()


def test_saved_model_loads_as_a_stock_llama_and_never_draws_padding(tmp_path):
    model = build(ModelSettings(**SMALL, n_kv_head=2), vocab_size=100, seed=0, end_id=0, pad_id=1)
    assert (model.model.embed_tokens.weight[100:] == 0).all()
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is LlamaForCausalLM and again.config.num_key_value_heads == 2
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    answer = again.generate(torch.zeros(8, 1, dtype=torch.long), do_sample=True, max_new_tokens=15)
    assert answer.max() < 100
