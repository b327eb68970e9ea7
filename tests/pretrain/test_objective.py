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


@pytest.mark.parametrize("bf16", [False, True])
def test_documents_of_a_row_are_kept_apart(tiny_model, bf16):
    model = copy.deepcopy(tiny_model)
    generator = torch.Generator().manual_seed(0)
    end = model.config.eos_token_id
    texts = [torch.randint(0, 200, (length,), generator=generator) for length in (9, 5, 17)]
    stop = torch.tensor([end])
    row = torch.cat([stop, texts[0], stop, texts[1], stop, texts[2], stop])[None]  # (1, 35)
    alone = [torch.cat([stop, text, stop])[None] for text in texts]
    with attention_for_training(model):
        apart = TrainingLoss(model, bf16=bf16, end_id=end)
        losses = torch.stack([TrainingLoss(model, bf16=bf16)(one) for one in alone])
        weights = torch.tensor([one.shape[1] - 1.0 for one in alone])
        expected = (losses * weights).sum() / weights.sum()
        assert apart(row).item() == pytest.approx(expected.item(), rel=1e-2 if bf16 else 1e-6)
        together = TrainingLoss(model, bf16=bf16)(row)
    assert abs(together.item() - expected.item()) > (1e-3 if bf16 else 1e-4)


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
