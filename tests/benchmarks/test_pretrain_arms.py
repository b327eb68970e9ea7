"""The arms of the pretraining benchmark apply their options in every step."""

from __future__ import annotations

import gc

import pytest
import torch

from benchmarks import pretrain_arms as arms
from toolkit.models import kernels
from toolkit.pretrain import loss

SHAPE = arms.Shape(n_layer=2, n_head=2, n_embd=32, vocab_size=64, length=16, rows=2, threads=1)


@pytest.fixture(autouse=True)
def usual_allocator(monkeypatch):
    monkeypatch.setattr(arms.allocator, "configure", lambda device, *, keep: False)


@pytest.mark.parametrize("on", [True, False])
def test_arm_uses_the_configured_attention_and_gelu(monkeypatch, on):
    calls = {"attention": 0, "gelu": 0}
    attend, activate = loss.causal_attention, kernels.SigmoidGelu.forward

    def counted_attention(*arguments, **settings):
        calls["attention"] += 1
        return attend(*arguments, **settings)

    def counted_gelu(self, values):
        calls["gelu"] += 1
        return activate(self, values)

    monkeypatch.setattr(kernels.SigmoidGelu, "forward", counted_gelu)
    loss.AttentionInterface.register(loss.CAUSAL_ATTENTION, counted_attention)
    try:
        step = arms.ours(SHAPE, arms.Options(causal_attention=on, logistic_gelu=on))
        gc.collect()  # objects held only by the function that built the step are gone
        for number in range(2):
            step(arms.tokens(SHAPE, number))
    finally:
        loss.AttentionInterface.register(loss.CAUSAL_ATTENTION, attend)
    expected = 2 * SHAPE.n_layer if on else 0
    assert calls == {"attention": expected, "gelu": expected}


def test_arms_start_with_equal_loss_and_learn():
    def losses(name, options):
        step = arms.make(name, SHAPE, options, None)
        return [float(step(arms.tokens(SHAPE, number % 2))) for number in range(12)]

    on = arms.Options(logistic_gelu=True)
    ours, trainer = losses("ours", on), losses("Trainer", on)
    assert trainer[0] == pytest.approx(ours[0], rel=0.01)  # one target fewer per row
    for name, options in arms.without(on).items():
        actual = losses("ours", options)
        assert actual[0] == pytest.approx(ours[0], rel=1e-3), name
        assert actual[-1] < actual[0] - 0.01, name
    assert ours[-1] < ours[0] - 0.01 and trainer[-1] < trainer[0] - 0.01


def test_every_enabled_option_has_an_ablation_arm():
    on = arms.Options(compile=True, logistic_gelu=True)
    off = arms.without(on)
    changed = {key for option in off.values() for key in vars(on) if getattr(option, key) != getattr(on, key)}
    assert changed == set(vars(on))
    # Otherwise logistic_gelu would also replace gelu_new.
    assert off["gelu_pytorch_tanh"].logistic_gelu is False


def test_every_arm_trains_on_the_same_tokens():
    assert torch.equal(arms.tokens(SHAPE, 3), arms.tokens(SHAPE, 3))
    assert not torch.equal(arms.tokens(SHAPE, 3), arms.tokens(SHAPE, 4))
