"""Bits per token, ranks, entropies and divergences, against evaluation and direct computations in torch."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.architectures import REPRESENTATIVES, build_architecture
from toolkit.base.errors import UsageError
from toolkit.evaluate import perplexity
from toolkit.inference import surprise as module
from toolkit.inference.logprobs import answer_logprobs
from toolkit.inference.opening import OpenModel
from toolkit.inference.surprise import Reading, Surprise, parts_of, require_comparable, surprise, totals

TEXT = "The fox finds a key. 鍵を見つけた🦊"
LONG = TEXT * 4


def perturbed(model, size=0.3):
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
    return other


@pytest.fixture(scope="module")
def opened(tiny_model, tiny_tokenizer):
    return OpenModel(perturbed(tiny_model), tiny_tokenizer, is_chat_model=True)


@pytest.fixture(scope="module")
def other(tiny_model, tiny_tokenizer):
    return OpenModel(perturbed(tiny_model, 0.2), tiny_tokenizer, is_chat_model=True)


def whole(opened, reading, **options):
    return surprise(opened, reading, start=reading.start, stop=len(reading.ids), **options)[0]


@pytest.mark.parametrize("text", [TEXT, LONG], ids=["one_window", "several_windows"])
@pytest.mark.parametrize("score_end", [True, False])
def test_totals_are_those_of_toolkit_evaluate(opened, text, score_end):
    held_out = perplexity.HeldOutText("text", texts=[text], floor=None)
    settings = perplexity.ScoringSettings(score_end=score_end)
    scores = perplexity.measure(opened.model, opened.tokenizer, held_out, settings=settings)
    metrics = perplexity.summarize(scores, held_out, seed=0)
    reading = Reading.of(opened, text, score_end=score_end)
    found = totals(opened, reading, whole(opened, reading).bits)
    assert found.bits == pytest.approx(scores.nats[0] / math.log(2), abs=1e-4)
    assert found.bits_per_byte == pytest.approx(metrics.bits_per_byte.estimate, abs=1e-4)
    assert found.perplexity == pytest.approx(metrics.perplexity.estimate, rel=1e-5)
    assert found.tokens == metrics.tokens


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_each_number_of_each_architecture_is_that_of_its_logits(name, tiny_tokenizer):
    opened = OpenModel(build_architecture(name, tiny_tokenizer), tiny_tokenizer, is_chat_model=True)
    reading = Reading.of(opened, TEXT)
    with torch.no_grad():
        logits = opened.model(torch.tensor([reading.ids])).logits[0, :-1].double()
    targets, logprobs = torch.tensor(reading.ids[1:]), torch.log_softmax(logits, -1)
    found = whole(opened, reading)
    of_targets = logprobs[torch.arange(len(targets)), targets]
    np.testing.assert_allclose(found.bits, -of_targets / math.log(2), atol=1e-3)
    order = logprobs.argsort(-1, descending=True)
    ranks = [int((row == target).nonzero()) + 1 for row, target in zip(order, targets, strict=True)]
    assert found.ranks.tolist() == ranks
    entropies = torch.distributions.Categorical(logits=logits).entropy() / math.log(2)
    np.testing.assert_allclose(found.entropies, entropies, atol=1e-3)
    assert found.best.tolist() == order[:, 0].tolist()
    np.testing.assert_allclose(found.best_bits, -logprobs.max(-1).values / math.log(2), atol=1e-3)


def test_divergence_is_that_of_torch(opened, other):
    reading = Reading.of(opened, TEXT)
    _, kept = surprise(opened, reading, start=1, stop=len(reading.ids), keep=True)
    found = whole(other, reading, reference=kept)
    ids = torch.tensor([reading.ids])
    with torch.no_grad():
        p, q = (torch.log_softmax(one.model(ids).logits[0, :-1].double(), -1) for one in (other, opened))
    expected = functional.kl_div(q, p, log_target=True, reduction="none").sum(-1) / math.log(2)
    np.testing.assert_allclose(found.divergences, expected, rtol=1e-4, atol=1e-5)
    assert found.divergences.max() > 0.1
    assert np.allclose(whole(opened, reading, reference=kept).divergences, 0, atol=1e-6)


def test_a_text_in_parts_gives_the_same_numbers(opened, other, monkeypatch):
    monkeypatch.setattr(module, "MAX_ENTRIES", 50 * opened.model.config.vocab_size)
    reading = Reading.of(opened, LONG)
    parts = parts_of(reading, opened.model.config.vocab_size)
    assert len(parts) > 3
    found = []
    for start, stop in parts:
        _, kept = surprise(opened, reading, start=start, stop=stop, keep=True)
        found.append(surprise(other, reading, start=start, stop=stop, reference=kept)[0])
    joined = Surprise.joined(found)
    _, kept = surprise(opened, reading, start=reading.start, stop=len(reading.ids), keep=True)
    expected = whole(other, reading, reference=kept)
    np.testing.assert_allclose(joined.bits, expected.bits, atol=1e-4)
    np.testing.assert_allclose(joined.divergences, expected.divergences, rtol=1e-4, atol=1e-5)
    assert joined.ranks.tolist() == expected.ranks.tolist()


def test_an_answer_is_scored_after_its_prompt(opened):
    reading = Reading.of(opened, "A key.", prompt="What?")
    prompt = opened.chat_ids([{"role": "user", "content": "What?"}])
    (expected,) = answer_logprobs(opened.model, [prompt], [reading.ids[len(prompt) :]])
    np.testing.assert_allclose(whole(opened, reading).bits, -expected / math.log(2), atol=1e-4)
    assert reading.ids[-1] == opened.tokenizer.eos_token_id
    assert reading.tokens == len("A key.") + 1


def test_models_of_other_tokens_are_not_compared(opened, tiny_tokenizer):
    longer = copy.deepcopy(tiny_tokenizer)
    longer.add_tokens(["<new>"])
    stranger = OpenModel(opened.model, longer, is_chat_model=False)
    with pytest.raises(UsageError, match="different tokenizers"):
        require_comparable(opened, stranger, names=("a", "b"))
    wide = build_architecture("llama", tiny_tokenizer)
    with pytest.raises(UsageError, match="different numbers of entries"):
        require_comparable(opened, OpenModel(wide, tiny_tokenizer, is_chat_model=False), names=("a", "b"))


def test_a_prompt_needs_a_chat_template(opened, tiny_tokenizer):
    plain = copy.deepcopy(tiny_tokenizer)
    plain.chat_template = None
    with pytest.raises(UsageError, match="no chat template"):
        Reading.of(OpenModel(opened.model, plain, is_chat_model=False), "a", prompt="b")
