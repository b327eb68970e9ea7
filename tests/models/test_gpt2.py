"""The initial GPT-2: reproducible weights, parameter counts and vocabulary padding."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2LMHeadModel

from toolkit.config.schema import ModelSettings
from toolkit.models.architectures import parameters
from toolkit.models.gpt2 import build
from toolkit.models.shape import flops_per_token, num_parameters, padded_vocabulary

SMALL = ModelSettings(n_layer=2, n_head=2, n_embd=32, n_positions=16)


def test_initialization_depends_only_on_the_seed():
    torch.manual_seed(1)
    first = build(SMALL, vocab_size=100, seed=7, end_id=0)
    state = torch.get_rng_state()
    torch.rand(5)
    second = build(SMALL, vocab_size=100, seed=7, end_id=0)
    other = build(SMALL, vocab_size=100, seed=8, end_id=0)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.transformer.wte.weight, other.transformer.wte.weight)
    torch.set_rng_state(state)
    before = torch.get_rng_state()
    build(SMALL, vocab_size=100, seed=7, end_id=0)
    assert torch.equal(before, torch.get_rng_state())  # the global generator is unchanged


def test_initial_weights():
    model = build(ModelSettings(n_layer=8, n_head=4, n_embd=128), vocab_size=512, seed=0, end_id=0)
    block = model.transformer.h[0]
    assert block.attn.c_attn.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)  # sqrt(2 * 8) = 4
    assert (block.ln_1.weight == 1).all() and (block.mlp.c_fc.bias == 0).all()
    assert model.lm_head.weight is model.transformer.wte.weight


def test_vocabulary_is_padded():
    assert [padded_vocabulary(size) for size in (1, 64, 65, 50257)] == [64, 64, 128, 50304]
    model = build(SMALL, vocab_size=100, seed=0, end_id=0, pad_id=1)
    assert model.transformer.wte.weight.shape == (128, 32)
    assert (model.transformer.wte.weight[100:] == 0).all()
    assert model.generation_config.suppress_tokens == list(range(100, 128))
    answer = model.generate(torch.zeros(8, 1, dtype=torch.long), do_sample=True, max_new_tokens=15)
    assert answer.max() < 100
    assert build(SMALL, vocab_size=128, seed=0, end_id=0).generation_config.suppress_tokens is None


def test_parameter_counts():
    model = build(SMALL, vocab_size=100, seed=0, end_id=0)
    assert parameters(model) == num_parameters(SMALL, vocab_size=100)
    published = ModelSettings(n_layer=12, n_head=12, n_embd=768, n_positions=1024)
    # GPT-2 small has 124,439,808 parameters with 50257 rows; 47 rows of padding are 36,096 more
    assert num_parameters(published, vocab_size=50257) == 124_439_808 + 47 * 768
    # nanoGPT, estimate_mfu: 6 N + 12 L H Q T with N = 124.4e6 less the positions
    expected = 6 * (124_439_808 + 47 * 768 - 1024 * 768) + 12 * 12 * 12 * 64 * 1024
    assert flops_per_token(published, vocab_size=50257, sequence_length=1024) == expected


def test_dropout_and_activation_reach_the_model():
    model = build(ModelSettings(dropout=0.25, activation="relu"), vocab_size=64, seed=0, end_id=0)
    config = model.config
    assert {config.resid_pdrop, config.embd_pdrop, config.attn_pdrop} == {0.25}
    assert config.activation_function == "relu"


def test_saved_model_loads_as_gpt2(tmp_path):
    model = build(SMALL, vocab_size=100, seed=0, end_id=0)
    model.save_pretrained(tmp_path)
    again = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_sinusoidal_position_shift_is_linear():
    settings = ModelSettings(n_layer=1, n_head=1, n_embd=32, n_positions=64, position_init="sinusoidal")
    model = build(settings, vocab_size=100, seed=0, end_id=0)
    table = model.transformer.wpe.weight.detach().double()
    assert table.requires_grad is False and model.transformer.wpe.weight.requires_grad
    assert table.square().mean().sqrt().item() == pytest.approx(0.02, rel=1e-3)
    sines, cosines = table[:, :16] / (0.02 * 2**0.5), table[:, 16:] / (0.02 * 2**0.5)
    assert sines[0].abs().max() == 0 and sines[1, 0].item() == pytest.approx(0.8414709848, rel=1e-6)  # sin 1
    steps = 64.0 ** -(torch.arange(16).double() / 16)  # radians from one position to the next
    turned = sines[:-1] * steps.cos() + cosines[:-1] * steps.sin()  # the same rotation at every position
    assert (turned - sines[1:]).abs().max() < 1e-5
    plain = build(settings.model_copy(update={"position_init": "normal"}), vocab_size=100, seed=0, end_id=0)
    assert torch.equal(plain.transformer.wte.weight, model.transformer.wte.weight)


def test_copying_heads_pass_on_what_they_attend_to():
    settings = ModelSettings(n_layer=2, n_head=4, n_embd=32, n_positions=16, attention_init="copy")
    model = build(settings, vocab_size=100, seed=0, end_id=0)
    rotations = []
    for block in model.transformer.h:
        values, projection = block.attn.c_attn.weight[:, 64:].detach(), block.attn.c_proj.weight.detach()
        assert torch.allclose(values @ projection, 2.0 * torch.eye(32), atol=1e-5)
        rotations.append(values)
    assert not torch.allclose(*rotations)
    # A position that attends to only one token gets twice its normalized embedding.
    block = model.transformer.h[0]
    hidden = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(block.attn(hidden)[0], 2.0 * hidden, atol=1e-5)
    plain = build(settings.model_copy(update={"attention_init": "normal"}), vocab_size=100, seed=0, end_id=0)
    for name, weight in plain.named_parameters():
        same = torch.equal(weight, model.get_parameter(name))
        assert same != name.endswith(("attn.c_attn.weight", "attn.c_proj.weight")), name
