"""Scoring matches a naive reference for any window and batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from toolkit.base.errors import ToolkitError
from toolkit.config.schema import ModelSettings
from toolkit.inference import logprobs as logprobs_module
from toolkit.models.gpt2 import build

END = 3


@pytest.fixture(scope="module")
def model():
    settings = ModelSettings(n_layer=2, n_head=2, n_embd=32, n_positions=16)
    model = build(settings, vocab_size=100, seed=5, end_id=END, pad_id=0).eval()
    with torch.no_grad():  # an untrained model is nearly uniform for any input
        for parameter in model.parameters():
            parameter.mul_(8)
    return model


@pytest.fixture(scope="module")
def documents():
    generator = np.random.default_rng(0)
    return [generator.integers(4, 100, size) for size in (1, 5, 40, 16, 0, 15, 17, 90, 2)]


@torch.no_grad()
def naive(model, document, window, stride, *, prefix=True, end=True):
    """Score one token at a time in the first window that contains it; the last window is full."""
    sequence = ([END] if prefix else []) + list(document) + ([END] if end else [])
    total = 0.0
    for place in range(1, len(sequence)):
        start = 0
        while start + window < place:
            start += stride
        start = max(0, min(start, len(sequence) - 1 - window))
        context = torch.tensor([sequence[start:place]])
        total -= torch.log_softmax(model(context).logits[0, -1].double(), 0)[sequence[place]].item()
    return total


@pytest.mark.parametrize(("window", "stride"), [(16, 8), (16, 16), (16, 1), (7, 3)])
def test_matches_token_by_token_scoring(model, documents, window, stride):
    got = logprobs_module.score_documents(
        model, documents, prefix_id=END, end_id=END, window=window, stride=stride, batch_tokens=100
    )
    expected = [naive(model, document, window, stride) for document in documents]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_without_prefix_and_end(model, documents):
    got = logprobs_module.score_documents(model, documents, prefix_id=None, end_id=None, window=16, stride=8)
    expected = [naive(model, document, 16, 8, prefix=False, end=False) for document in documents]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-9)
    assert got[0] == 0 and got[4] == 0  # one token without context; no token


@pytest.mark.parametrize("batch_tokens", [1, 33, 10_000])
def test_scores_do_not_depend_on_the_batch(model, documents, batch_tokens):
    settings = {"prefix_id": END, "end_id": END, "window": 16, "stride": 8}
    reference = logprobs_module.score_documents(model, documents, batch_tokens=512, **settings)
    got = logprobs_module.score_documents(model, documents, batch_tokens=batch_tokens, **settings)
    np.testing.assert_allclose(got, reference, rtol=1e-5)


def test_batches_contain_every_row_once_with_little_padding():
    generator = np.random.default_rng(0)
    rows = [logprobs_module._Row(np.zeros(size), np.ones(1)) for size in generator.integers(1, 200, 300)]
    batches = list(logprobs_module._batches(rows, 2048))
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(300))
    padded = [len(batch) * max(len(rows[index].inputs) for index in batch) for batch in batches]
    assert max(padded) <= 2048 and sum(padded) < 1.15 * sum(len(row.inputs) for row in rows)
    dozen = [logprobs_module._Row(np.zeros(size), np.ones(1)) for size in range(80, 200, 10)]
    # A single batch would have a third of padding.
    assert [len(batch) for batch in logprobs_module._batches(dozen, 2048)] == [
        4,
        4,
        4,
    ]
    long = [logprobs_module._Row(np.zeros(500), np.ones(1))] * 3
    assert [len(batch) for batch in logprobs_module._batches(long, 100)] == [1, 1, 1]


def test_uniform_model_scores_log_vocabulary(documents):
    settings = ModelSettings(n_layer=1, n_head=1, n_embd=8, n_positions=16)
    uniform = build(settings, vocab_size=100, seed=0, end_id=END)
    with torch.no_grad():
        uniform.transformer.wte.weight.zero_()
    got = logprobs_module.score_documents(uniform, documents, prefix_id=END, end_id=END, window=16)
    # 100 entries are padded to 128, and the padding counts against the model
    np.testing.assert_allclose(got, [(len(document) + 1) * np.log(128) for document in documents], rtol=1e-6)


def test_small_blocks_of_logits_and_full_logits_agree(model, documents, monkeypatch):
    settings = {"prefix_id": END, "end_id": END, "window": 16}
    reference = logprobs_module.score_documents(model, documents, **settings)
    monkeypatch.setattr(logprobs_module, "scored_at_once", lambda vocabulary, on_cpu: 3)
    np.testing.assert_allclose(
        logprobs_module.score_documents(model, documents, **settings), reference, rtol=1e-5
    )
    monkeypatch.setattr(logprobs_module, "PLAIN_HEADS", set())
    np.testing.assert_allclose(
        logprobs_module.score_documents(model, documents, **settings), reference, rtol=1e-5
    )


def test_padding_does_not_change_scores(model, documents, monkeypatch):
    settings = {"prefix_id": END, "end_id": END, "window": 16, "batch_tokens": 10_000}
    reference = logprobs_module.score_documents(model, documents, **settings)
    full = np.full
    monkeypatch.setattr(np, "full", lambda shape, value, **keywords: full(shape, 77, **keywords))
    assert (logprobs_module.score_documents(model, documents, **settings) == reference).all()


def test_scoring_disables_dropout_and_restores_the_mode(documents):
    settings = ModelSettings(n_layer=1, n_head=1, n_embd=8, n_positions=16, dropout=0.5)
    model = build(settings, vocab_size=100, seed=0, end_id=END).train()
    scores = [
        logprobs_module.score_documents(model, documents, prefix_id=END, end_id=END, window=16)
        for _ in range(2)
    ]
    assert model.training and (scores[0] == scores[1]).all()


def test_answers(model):
    generator = np.random.default_rng(1)
    prompts = [generator.integers(4, 100, size).tolist() for size in (1, 4, 9)]
    answers = [generator.integers(4, 100, size).tolist() for size in (5, 0, 8)]
    got = logprobs_module.answer_logprobs(model, prompts, answers, batch_examples=2)
    for prompt, answer, logprobs in zip(prompts, answers, got, strict=True):
        with torch.no_grad():
            every = torch.log_softmax(model(torch.tensor([prompt + answer[:-1]])).logits[0], -1)
        expected = [every[len(prompt) + i - 1, token].item() for i, token in enumerate(answer)]
        np.testing.assert_allclose(logprobs, expected, rtol=1e-4)


def test_errors(model):
    with pytest.raises(ToolkitError, match="longer than the model's 16 positions"):
        logprobs_module.score_documents(model, [[4]], prefix_id=END, end_id=END, window=17)
    with pytest.raises(ToolkitError, match="gaps"):
        logprobs_module.score_documents(model, [[4]], prefix_id=END, end_id=END, window=8, stride=9)
    with pytest.raises(ToolkitError, match="empty prompt"):
        logprobs_module.answer_logprobs(model, [[]], [[4]])
    with pytest.raises(ToolkitError, match="takes 16"):
        logprobs_module.answer_logprobs(model, [[4] * 12], [[4] * 6])


def test_no_documents(model):
    assert logprobs_module.score_documents(model, [], prefix_id=END, end_id=END, window=16).shape == (0,)
    assert logprobs_module.answer_logprobs(model, [], []) == []
