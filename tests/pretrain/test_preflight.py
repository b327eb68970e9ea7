"""The preflight passes a correct setup and reports each planted fault."""

from __future__ import annotations

import copy

import pytest
import torch

from toolkit.base.errors import ToolkitError
from toolkit.config.schema import ModelSettings, PretrainRecipe
from toolkit.pretrain import loss as loss_module
from toolkit.pretrain import preflight
from toolkit.pretrain.loss import TrainingLoss

SHAPE = ModelSettings(n_layer=2, n_head=2, n_embd=32, n_positions=64)


def recipe(**settings):
    return PretrainRecipe(stage="pretrain", tokens="x", model=SHAPE, train_tokens=8192, **settings)


@pytest.fixture
def look(tiny_model):
    """Run the preflight on a fresh copy of the small model."""

    def check(*, apart=False, compiled=True, **settings):
        model = copy.deepcopy(tiny_model)
        end = model.config.eos_token_id
        loss = TrainingLoss(model, bf16=settings.pop("bf16", False), end_id=end if apart else None)
        read = recipe(separate_documents=apart, **settings)
        kernels = loss_module.training_kernels(read, model, compiled=compiled)
        preflight.check(
            loss, read, kernels, vocab_size=261, compiled=compiled, run_name="t/first", verbose=True
        )
        return model

    return check


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_preflight_passes_a_correct_setup(look, capsys, apart, bf16):
    model = look(apart=apart, bf16=bf16)
    assert "no token depends on one it must not see" in capsys.readouterr().err
    assert model.config._attn_implementation != loss_module.CAUSAL_ATTENTION  # nothing changed


def test_dense_mask_is_detected(look):
    with pytest.raises(ToolkitError, match="2 of 2 attentions get a dense mask"):
        look(speed={"causal_attention": False})


def test_graph_break_is_detected(look, monkeypatch):
    hidden = TrainingLoss.hidden

    def broken(self, rows):
        torch._dynamo.graph_break()
        return hidden(self, rows)

    monkeypatch.setattr(TrainingLoss, "hidden", broken)
    with pytest.raises(ToolkitError, match="the graph breaks"):
        look()


def test_attention_between_documents_is_detected(look, monkeypatch):
    apart = loss_module.document_inputs

    def positions_only(inputs, end_id):
        return {"position_ids": apart(inputs, end_id)["position_ids"]}

    monkeypatch.setattr(loss_module, "document_inputs", positions_only)
    with pytest.raises(ToolkitError, match="documents leak"):
        look(apart=True, compiled=False)


def test_attention_to_future_tokens_is_detected(look, monkeypatch):
    monkeypatch.setattr(
        loss_module.functional,
        "scaled_dot_product_attention",
        lambda query, key, value, **rest: (query @ key.transpose(2, 3) / 4).softmax(-1) @ value,
    )
    with pytest.raises(ToolkitError, match="attention sees the future") as caught:
        look()
    assert "the graph has no attention kernel" in str(caught.value)  # both at once


def test_auto_preflight_runs_if_compiled():
    assert preflight.is_enabled(recipe(), compiled=True) and not preflight.is_enabled(
        recipe(), compiled=False
    )
    assert preflight.is_enabled(recipe(preflight=True), compiled=False)
    assert not preflight.is_enabled(recipe(preflight=False), compiled=True)
