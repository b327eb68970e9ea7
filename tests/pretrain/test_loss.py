"""The training loss equals that of transformers' GPT-2, without an attention mask."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from toolkit.config.schema import PretrainRecipe
from toolkit.models import kernels
from toolkit.pretrain import loss as loss_module
from toolkit.pretrain.loss import CAUSAL_ATTENTION, TrainingLoss, use_training_kernels


def test_loss_and_gradients_match_transformers(tiny_model):
    model = copy.deepcopy(tiny_model)
    rows = torch.randint(0, 261, (3, 33), generator=torch.Generator().manual_seed(0))
    reference = copy.deepcopy(tiny_model)
    expected = reference(rows, labels=rows).loss
    expected.backward()
    with use_training_kernels(model):
        loss = TrainingLoss(model, bf16=False)(rows)
        loss.backward()
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)


def test_bf16_keeps_the_loss_in_fp32(tiny_model):
    model = copy.deepcopy(tiny_model)
    rows = torch.randint(0, 261, (3, 33), generator=torch.Generator().manual_seed(0))
    exact, rounded = TrainingLoss(model, bf16=False)(rows), TrainingLoss(model, bf16=True)(rows)
    assert rounded.dtype == torch.float32 and rounded != exact
    assert rounded.item() == pytest.approx(exact.item(), rel=2e-3)


@pytest.mark.parametrize("length", [40, 127, 128, 256])  # rows of 128 or more are split in halves
def test_plain_attention_in_bf16_matches_reference(monkeypatch, length):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, length, 16, generator=generator).bfloat16()
    plain, _ = loss_module.causal_attention(None, query, key, value, None, scaling=0.25)
    monkeypatch.setattr(loss_module, "LONGEST_PLAIN", 0)
    flash, _ = loss_module.causal_attention(None, query, key, value, None, scaling=0.25)
    torch.testing.assert_close(plain, flash, atol=0.02, rtol=0.02)  # bf16 has 8 bits
    assert not torch.equal(plain, flash)


def test_half_rows_separate_documents():
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 128, 16, generator=generator).bfloat16()
    document = torch.arange(128) // 50  # one document crosses the middle
    same = (document[:, None] == document[None, :])[None, None]
    both, _ = loss_module.causal_attention(None, query, key, value, None, same_document=same, scaling=0.25)
    for start, end in ((0, 50), (50, 100), (100, 128)):
        parts = (tensor[:, :, start:end] for tensor in (query, key, value))
        alone, _ = loss_module.causal_attention(None, *parts, None, scaling=0.25)
        torch.testing.assert_close(both[:, start:end], alone, atol=0.02, rtol=0.02)


def test_logistic_gelu_matches_gelu():
    values = torch.linspace(-12, 12, 10_001, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(functional.gelu(values, approximate="tanh").sum(), values)
    (slope,) = torch.autograd.grad(kernels.SigmoidGelu()(values).sum(), values)
    ours, theirs = kernels.SigmoidGelu()(values), functional.gelu(values, approximate="tanh")
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    torch.testing.assert_close(slope, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("settings", "compiled", "fast"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"speed": {"logistic_gelu": False}}, True, False),
        ({"speed": {"logistic_gelu": True}}, False, True),
        ({"model": {"activation": "relu"}}, True, False),
    ],
)
def test_logistic_gelu_is_used_when_compiling_on_cpu(tiny_model, settings, compiled, fast):
    model = copy.deepcopy(tiny_model)
    recipe = PretrainRecipe(stage="pretrain", tokens="x", train_tokens=8192, **settings)
    used = [block.mlp.act for block in model.base_model.h]
    names = list(model.state_dict())

    def inside() -> list[bool]:
        return [isinstance(block.mlp.act, kernels.SigmoidGelu) for block in model.base_model.h]

    with loss_module.training_kernels(recipe, model, compiled=compiled)() as as_before:
        assert inside() == [fast] * len(used)
        assert list(model.state_dict()) == names  # it has no weights
        with as_before():
            assert not any(inside())
        assert inside() == [fast] * len(used)
    assert [block.mlp.act for block in model.base_model.h] == used


def test_logistic_gelu_requires_gelu_pytorch_tanh():
    with pytest.raises(ValueError, match="logistic_gelu has an effect only with"):
        PretrainRecipe(
            stage="pretrain", tokens="x", train_tokens=8192, model={"activation": "relu"},
            speed={"logistic_gelu": True},
        )  # fmt: skip


@pytest.mark.parametrize("bf16", [False, True])
def test_documents_of_a_row_are_separated(tiny_model, bf16):
    model = copy.deepcopy(tiny_model)
    generator = torch.Generator().manual_seed(0)
    end = model.config.eos_token_id
    texts = [torch.randint(0, 200, (length,), generator=generator) for length in (9, 5, 17)]
    stop = torch.tensor([end])
    row = torch.cat([stop, texts[0], stop, texts[1], stop, texts[2], stop])[None]  # (1, 35)
    alone = [torch.cat([stop, text, stop])[None] for text in texts]
    with use_training_kernels(model):
        apart = TrainingLoss(model, bf16=bf16, end_id=end)
        losses = torch.stack([TrainingLoss(model, bf16=bf16)(row_alone) for row_alone in alone])
        weights = torch.tensor([row_alone.shape[1] - 1.0 for row_alone in alone])
        expected = (losses * weights).sum() / weights.sum()
        assert apart(row).item() == pytest.approx(expected.item(), rel=1e-2 if bf16 else 1e-6)
        together = TrainingLoss(model, bf16=bf16)(row)
    assert abs(together.item() - expected.item()) > (1e-3 if bf16 else 1e-4)


def test_attention_is_restored(tiny_model, tmp_path):
    model = copy.deepcopy(tiny_model)
    before = model.config._attn_implementation
    with pytest.raises(ZeroDivisionError), use_training_kernels(model) as as_before:
        assert model.config._attn_implementation == CAUSAL_ATTENTION
        with as_before():
            assert model.config._attn_implementation == before
        assert model.config._attn_implementation == CAUSAL_ATTENTION
        raise ZeroDivisionError
    assert model.config._attn_implementation == before
    model.save_pretrained(tmp_path)
    assert "toolkit" not in (tmp_path / "config.json").read_text()
