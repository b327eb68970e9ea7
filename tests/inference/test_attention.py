"""Attention weights are those that the model uses, and the scores of heads find planted heads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.architectures import ARCHITECTURES, build_architecture
from toolkit.base.errors import ToolkitError
from toolkit.inference import attention as module
from toolkit.inference.attention import attention, head_scores, pooled, roles, uniform, without_first
from toolkit.runtime.upstream_private import attention_implementation

IDS = list(range(40, 60))
REFUSED = ("falcon", "falcon_alibi", "mamba", "mamba2", "rwkv", "xlstm")
"""Falcon computes other logits if it is asked for its weights (transformers 5.23); the others have none."""


@torch.no_grad()
def logits(model, ids=IDS):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def planted(length, target):
    """A head that puts all weight of position i on target(i)."""
    weights = np.zeros((1, length, length))
    for place in range(length):
        weights[0, place, target(place)] = 1
    return weights


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in REFUSED])
def test_weights_are_causal_sum_to_1_and_leave_the_model_as_it_was(name, tiny_tokenizer):
    model = build_architecture(name, tiny_tokenizer)
    before, own = logits(model), attention_implementation(model)
    found = attention(model, IDS)
    for weights in found.weights:
        assert weights.shape[1:] == (20, 20)
        assert np.all(np.triu(weights, 1) == 0)
        sums = weights.sum(axis=-1)
        if name == "gpt_oss":  # a part of each row goes to a learned sink, which is no position
            assert np.all(sums < 1 + 1e-5)
        else:
            assert sums == pytest.approx(1, abs=1e-5)
    assert torch.equal(found.logits, before)
    assert torch.equal(logits(model), before)
    assert attention_implementation(model) == own


@torch.no_grad()
def test_weights_of_gpt2_are_the_softmax_of_its_queries_and_keys(tiny_model):
    found = attention(tiny_model, IDS)
    block, width = tiny_model.transformer.h[0], tiny_model.config.n_embd
    states = tiny_model.transformer.wte.weight[IDS] + tiny_model.transformer.wpe.weight[: len(IDS)]
    mixed = (block.ln_1(states) @ block.attn.c_attn.weight + block.attn.c_attn.bias).double().numpy()
    for head in range(2):
        part = slice(head * width // 2, (head + 1) * width // 2)
        queries, keys = mixed[:, :width][:, part], mixed[:, width : 2 * width][:, part]
        for place in range(len(IDS)):
            powers = [
                math.exp(queries[place] @ keys[other] / math.sqrt(width / 2)) for other in range(place + 1)
            ]
            expected = [power / sum(powers) for power in powers]
            assert found.weights[0][head, place, : place + 1] == pytest.approx(expected, abs=1e-5)


def test_a_sliding_window_is_seen(tiny_tokenizer):
    weights = attention(build_architecture("mistral", tiny_tokenizer), IDS).weights[0]
    assert np.all(np.tril(weights, -8) == 0)
    assert weights[:, 12, 5].min() > 0


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_without_usable_weights_is_refused_and_unchanged(name, tiny_tokenizer):
    model = build_architecture(name, tiny_tokenizer)
    before, own = logits(model), attention_implementation(model)
    with pytest.raises(ToolkitError, match="attention weights"):
        attention(model, IDS)
    assert torch.equal(logits(model), before)
    assert attention_implementation(model) == own


def test_a_failing_pass_leaves_the_model_as_it_was(tiny_model, monkeypatch):
    own = attention_implementation(tiny_model)

    def fail(model, ids, **arguments):
        if "output_attentions" in arguments:
            raise RuntimeError("out of memory")
        return model(input_ids=ids)

    monkeypatch.setattr(module, "forward", fail)
    with pytest.raises(RuntimeError):
        attention(tiny_model, IDS)
    assert attention_implementation(tiny_model) == own


def test_without_the_first_position_the_other_weights_sum_to_1():
    weights = np.array([[1.0, 0, 0], [0.9, 0.1, 0], [0.5, 0.125, 0.375]])
    kept = without_first(weights)
    assert np.isnan(kept[0]).all()
    assert kept[1:].tolist() == [[0, 1, 0], [0, 0.25, 0.75]]


def test_planted_heads_are_recognised():
    #      0  1  2  3  4  5  6   position 0 starts the text; 7 comes again at 4, 8 at 5
    ids = [0, 7, 8, 9, 7, 8, 3]
    heads = np.concatenate([
        planted(7, lambda place: max(place - 1, 0)),
        planted(7, lambda place: {4: 1, 5: 2}.get(place, 0)),
        planted(7, lambda place: {4: 2, 5: 3}.get(place, 0)),
        planted(7, lambda place: 0),
        uniform(7),
    ])  # fmt: skip
    scores, chance = head_scores(heads, ids), head_scores(uniform(7), ids)
    assert scores.previous[[0, 3]].tolist() == [1, 0]
    assert scores.same[[0, 1, 2]].tolist() == [0, 1, 0]
    assert scores.induction[[1, 2, 3]].tolist() == [0, 1, 0]
    assert scores.first[[3, 0]] == pytest.approx([1, 1 / 6])
    assert roles(scores, chance) == ["previous", "same", "induction", "first", None]


def test_entropy_and_chance_are_those_of_a_uniform_head():
    ids = [0, 5, 6, 5]
    scores = head_scores(uniform(4), ids)
    assert scores.entropy_bits[0] == pytest.approx((1 + math.log2(3) + 2) / 3)
    assert scores.previous[0] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert (scores.same[0], scores.induction[0]) == (0.25, 0.25)


def test_scores_of_repeats_are_none_without_repeats():
    scores = head_scores(uniform(4), [0, 5, 6, 7])
    assert scores.same is None and scores.induction is None
    assert head_scores(uniform(4), [5, 6, 5, 7]).same is None  # position 0 starts the text and is no repeat
    adjacent = head_scores(uniform(4), [0, 5, 5, 7])  # what followed the first 5 is the position itself
    assert adjacent.same is not None and adjacent.induction is None
    assert roles(adjacent, adjacent) == [None]


def test_a_small_picture_shows_the_largest_weights():
    weights = np.zeros((1, 5, 5))
    weights[0, 4, 1] = 0.7
    small = pooled(weights, 3)
    assert small.shape == (1, 3, 3)
    assert small[0].tolist() == [[0, 0, 0], [0, 0, 0], [0.7, 0, 0]]
    assert pooled(weights, 8).shape == (1, 5, 5)
