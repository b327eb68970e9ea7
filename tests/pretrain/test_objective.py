"""The training loss is GPT-2's own, without a mask."""

from __future__ import annotations

import copy

import pytest
import torch

from toolkit.pretrain import objective
from toolkit.pretrain.objective import CAUSAL_ATTENTION, TrainingLoss, attention_for_training


def test_loss_and_gradients_are_those_of_transformers(tiny_model):
    model = copy.deepcopy(tiny_model)
    rows = torch.randint(0, 261, (3, 33), generator=torch.Generator().manual_seed(0))
    reference = copy.deepcopy(tiny_model)
    expected = reference(rows, labels=rows).loss
    expected.backward()
    with attention_for_training(model):
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


def test_plain_attention_in_bf16_is_attention(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 40, 16, generator=generator).bfloat16()
    plain, _ = objective.causal_attention(None, query, key, value, None, scaling=0.25)
    monkeypatch.setattr(objective, "LONGEST_PLAIN", 0)
    flash, _ = objective.causal_attention(None, query, key, value, None, scaling=0.25)
    torch.testing.assert_close(plain, flash, atol=0.02, rtol=0.02)  # bf16 has 8 bits
    assert not torch.equal(plain, flash)


def test_attention_is_restored(tiny_model, tmp_path):
    model = copy.deepcopy(tiny_model)
    before = model.config._attn_implementation
    with pytest.raises(ZeroDivisionError), attention_for_training(model) as as_before:
        assert model.config._attn_implementation == CAUSAL_ATTENTION
        with as_before():
            assert model.config._attn_implementation == before
        assert model.config._attn_implementation == CAUSAL_ATTENTION
        raise ZeroDivisionError
    assert model.config._attn_implementation == before
    model.save_pretrained(tmp_path)
    assert "toolkit" not in (tmp_path / "config.json").read_text()
