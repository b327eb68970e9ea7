"""Sampling: rows are independent of their batch, seeded, and never contain forbidden tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast

from toolkit.base.errors import ToolkitError, UsageError
from toolkit.data.chat import template
from toolkit.inference.reward_scores import reward_scores
from toolkit.inference.sampling import SamplingSettings, choose, forbidden_bias, generate, restrict, stream

VOCAB, END, PAD = 48, 0, 1
IDS = {"end_id": END, "pad_id": PAD}
PROMPTS = [[7, 8, 9], [5], [6, 7, 8, 9, 10, 11], [12, 13], [20, 21, 22]]


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=64,
        n_positions=48,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.12,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    model = GPT2LMHeadModel(config).eval()
    model.generation_config.suppress_tokens = list(range(VOCAB, 64))
    return model


def reference_answer(model, prompt, *, seed, steps, temperature):
    """Sample one row without cache and padding."""
    ids, nats = list(prompt), []
    numbers = np.random.Generator(np.random.Philox(key=seed)).random(steps)
    for number in numbers:
        logits = model(torch.tensor([ids])).logits[0, -1].detach().double() / (temperature or 1)
        logits[PAD], logits[VOCAB:] = -torch.inf, -torch.inf
        logprobs = logits.log_softmax(-1)
        total = logprobs.exp().cumsum(-1)
        token = int(logprobs.argmax()) if temperature == 0 else int((total <= number).sum())
        nats.append(float(logprobs[token]))
        ids.append(token)
        if token == END:
            return ids[len(prompt) : -1], True, nats
    return ids[len(prompt) :], False, nats


@pytest.mark.parametrize("temperature", [0, 0.7, 1.0, 1.5])
def test_sampling_matches_a_per_row_loop(model, temperature):
    seeds = [11, 22, 33, 44, 55]
    answers = generate(model, PROMPTS, seed=seeds, max_new_tokens=30, temperature=temperature, **IDS)
    for row, prompt in enumerate(PROMPTS):
        ids, ended, nats = reference_answer(model, prompt, seed=seeds[row], steps=30, temperature=temperature)
        assert answers.ids[row] == ids
        assert answers.ended[row] == ended
        np.testing.assert_allclose(answers.logprobs[row], nats, atol=2e-5)
        assert len(answers.logprobs[row]) == len(ids) + ended


def test_some_answers_end_early_and_some_do_not(model):
    """The tests above must exercise rows that finish early."""
    answers = generate(model, PROMPTS * 4, seed=0, max_new_tokens=20, **IDS)
    assert 0 < sum(answers.ended) < len(answers.ended)
    assert len({len(ids) for ids in answers.ids}) > 5


@pytest.mark.parametrize("batch_rows", [1, 2, 64])
def test_samples_do_not_depend_on_the_batch(model, batch_rows):
    whole = generate(model, PROMPTS * 3, seed=5, max_new_tokens=25, **IDS)
    parts = generate(model, PROMPTS * 3, seed=5, max_new_tokens=25, **IDS, batch_rows=batch_rows)
    assert whole.ids == parts.ids and whole.ended == parts.ended


def test_fewer_new_tokens_give_a_prefix(model):
    long = generate(model, PROMPTS, seed=5, max_new_tokens=25, **IDS)
    short = generate(model, PROMPTS, seed=5, max_new_tokens=10, **IDS)
    assert short.ids == [ids[:10] for ids in long.ids]


def test_stream_matches_generate(model):
    for temperature in (0, 1.0):
        answers = generate(model, PROMPTS, seed=[9] * 5, max_new_tokens=25, temperature=temperature, **IDS)
        for prompt, ids in zip(PROMPTS, answers.ids, strict=True):
            streamed = stream(model, prompt, seed=9, max_new_tokens=25, temperature=temperature, **IDS)
            assert list(streamed) == ids


def test_sample_frequencies_match_model_probabilities(model):
    prompt, draws = [5, 6], 4000
    answers = generate(
        model,
        [prompt] * draws,
        seed=1,
        max_new_tokens=1,
        temperature=0.8,
        end_id=None,
        pad_id=PAD,
        batch_rows=1000,
    )
    logits = model(torch.tensor([prompt])).logits[0, -1].detach() / 0.8
    logits = logits + forbidden_bias(model, pad_id=PAD, end_id=None)
    expected = logits.softmax(-1).numpy()
    counts = np.bincount([ids[0] for ids in answers.ids], minlength=64)
    deviation = (counts - draws * expected) / np.sqrt(draws * expected * (1 - expected) + 1e-9)
    assert np.abs(deviation[expected > 1e-3]).max() < 4
    assert counts[PAD] == 0 and counts[VOCAB:].sum() == 0


def test_padding_and_entries_beyond_the_vocabulary_are_never_sampled(model):
    model_with_bias = GPT2LMHeadModel(model.config).eval()
    model_with_bias.generation_config.suppress_tokens = list(range(VOCAB, 64))
    with torch.no_grad():  # with equal rows a forbidden token would occur in 17 of 64 draws
        model_with_bias.lm_head.weight.copy_(torch.ones(64, 32) * 1e-3)
    answers = generate(model_with_bias, [[3]] * 200, seed=2, max_new_tokens=5, end_id=None, pad_id=PAD)
    drawn = {token for ids in answers.ids for token in ids}
    assert drawn == set(range(VOCAB)) - {PAD}
    np.testing.assert_allclose(np.concatenate(answers.logprobs), -np.log(VOCAB - 1), atol=1e-5)


def test_padding_equal_to_end_of_text_may_be_sampled(model):
    assert forbidden_bias(model, pad_id=END, end_id=END)[END] == 0
    assert forbidden_bias(model, pad_id=PAD, end_id=END)[PAD] < -1e8


def test_padding_that_ends_an_answer_may_be_sampled(model):
    assert forbidden_bias(model, pad_id=PAD, end_id=[END, PAD])[PAD] == 0
    seeds = list(range(200))
    answers = generate(
        model, [[3]] * 200, seed=seeds, max_new_tokens=40, temperature=2.0, end_id=[END, PAD], pad_id=PAD
    )
    assert {END, PAD} <= set(answers.stops)
    assert not any(PAD in ids or END in ids for ids in answers.ids)


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_answers_end_at_the_first_of_several_stop_tokens(model, temperature):
    """The longer answers of a single stop token, cut at the other ones."""
    more, options = (10, 33, 21), {"max_new_tokens": 30, "temperature": temperature, "pad_id": PAD}
    seeds = list(range(40))
    whole = generate(model, [[7, 8]] * 40, seed=seeds, end_id=END, **options)
    cut = generate(model, [[7, 8]] * 40, seed=seeds, end_id=(END, *more), **options)
    assert {stop for stop in cut.stops if stop is not None} > {END}
    for row, sampled in enumerate(whole.ids_with_stops()):
        first = next((i for i, token in enumerate(sampled) if token in (END, *more)), None)
        assert cut.ended[row] == (first is not None)
        assert cut.ids[row] == sampled[:first] and cut.stops[row] == (
            sampled[first] if cut.ended[row] else None
        )
        assert cut.ids_with_stops()[row] == (sampled if first is None else sampled[: first + 1])
        length = len(cut.ids_with_stops()[row])
        np.testing.assert_allclose(cut.logprobs[row], whole.logprobs[row][:length], atol=1e-5)
        streamed = list(stream(model, [7, 8], seed=seeds[row], end_id=(END, *more), **options))
        assert streamed == cut.ids[row]


def test_one_stop_token_in_a_list_samples_the_same_bits(model):
    seeds, options = [1, 2, 3, 4, 5], {"max_new_tokens": 30, "pad_id": PAD}
    alone, listed = (generate(model, PROMPTS, seed=seeds, end_id=end, **options) for end in (END, [END]))
    assert alone.ids == listed.ids and alone.stops == listed.stops
    assert all((a == b).all() for a, b in zip(alone.logprobs, listed.logprobs, strict=True))


def test_restrict_matches_hand_computed_values():
    logprobs = torch.log(torch.tensor([[0.5, 0.1, 0.25, 0.15], [0.1, 0.2, 0.3, 0.4]]))

    def kept(**rules):
        return torch.isfinite(restrict(logprobs, **rules)).tolist()

    assert kept(top_k=0, top_p=1.0) == [[True] * 4] * 2
    assert kept(top_k=2, top_p=1.0) == [[True, False, True, False], [False, False, True, True]]
    assert kept(top_k=0, top_p=0.6) == [[True, False, True, False], [False, False, True, True]]
    assert kept(top_k=0, top_p=0.5) == [[True, False, False, False], [False, False, True, True]]
    assert kept(top_k=1, top_p=0.9) == [[True, False, False, False], [False, False, False, True]]
    # after top_k=2 the largest of the second row is 4/7 = 0.571, which exceeds 0.55
    assert kept(top_k=2, top_p=0.55)[1] == [False, False, False, True]


def test_choose_boundary_cases():
    logprobs = torch.log(torch.tensor([[0.25, 0.0, 0.5, 0.25]]))
    sampling = SamplingSettings(max_new_tokens=1)
    numbers = [0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 1e-12]
    drawn = choose(logprobs.expand(6, 4), torch.tensor(numbers, dtype=torch.float64), sampling)
    assert drawn.tolist() == [0, 0, 2, 2, 3, 3]
    nothing_last = torch.log(torch.tensor([[0.4, 0.6, 0.0]]))
    assert int(choose(nothing_last, torch.tensor([1 - 1e-12]), sampling)) == 1


def test_top_k_and_top_p_do_not_change_logprobs(model):
    free = generate(model, PROMPTS, seed=3, max_new_tokens=1, temperature=0, **IDS)
    held = generate(model, PROMPTS, seed=3, max_new_tokens=1, top_k=1, **IDS)
    assert free.ids == held.ids
    np.testing.assert_array_equal(np.array(free.logprobs), np.array(held.logprobs))


def test_invalid_sampling_requests_are_refused(model):
    with pytest.raises(UsageError, match="top_p"):
        generate(model, [[5]], seed=0, max_new_tokens=3, top_p=0.0, **IDS)
    with pytest.raises(ToolkitError, match="no token"):
        generate(model, [[5], []], seed=0, max_new_tokens=3, **IDS)
    with pytest.raises(ToolkitError, match="context of 48"):
        generate(model, [[5] * 30], seed=0, max_new_tokens=19, **IDS)
    generate(model, [[5] * 30], seed=0, max_new_tokens=18, **IDS)
    assert len(list(stream(model, [5] * 40, seed=0, max_new_tokens=100, end_id=None, pad_id=PAD))) == 8


def test_dynamic_cache_gives_the_same_samples(model, monkeypatch):
    fast = generate(model, PROMPTS * 2, seed=4, max_new_tokens=20, **IDS)
    monkeypatch.setattr("toolkit.inference.decoding.PREALLOCATED", ())
    plain = generate(model, PROMPTS * 2, seed=4, max_new_tokens=20, **IDS)
    assert fast.ids == plain.ids and fast.ended == plain.ended


def test_training_mode_is_restored(model):
    model.train()
    generate(model, [[5]], seed=0, max_new_tokens=2, **IDS)
    assert model.training
    model.eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate([*template.SPECIAL_TOKENS, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=template.END_OF_TEXT, pad_token=template.PAD
    )
    template.configure(tokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def reward_model(tokenizer) -> GPT2ForSequenceClassification:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=40,
        n_embd=32,
        n_layer=2,
        n_head=2,
        num_labels=1,
        initializer_range=0.3,
        eos_token_id=0,
        pad_token_id=tokenizer.pad_token_id,
    )
    return GPT2ForSequenceClassification(config).eval()


def test_reward_scores_include_end_of_text_only_for_finished_answers(reward_model, tokenizer):
    prompts = [[{"role": "user", "content": text}] for text in ("Hi", "Who?", "A")]
    answers, ended = ["yes", "", "no<|user|>"], [True, False, False]
    scores = reward_scores(reward_model, tokenizer, prompts, answers=answers, ended=ended)
    expected = []
    for text in [
        "<|user|>Hi<|assistant|>yes<|endoftext|>",
        "<|user|>Who?<|assistant|>",
        "<|user|>A<|assistant|>no< |user|>",
    ]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        hidden = reward_model.transformer(ids).last_hidden_state[0, -1]
        expected.append(reward_model.score(hidden).item())
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    other = reward_scores(reward_model, tokenizer, prompts, answers=answers, ended=[not end for end in ended])
    assert np.abs(other - scores).min() > 1e-3
    single = [
        reward_scores(reward_model, tokenizer, [p], answers=[a], ended=[e])[0]
        for p, a, e in zip(prompts, answers, ended, strict=True)
    ]
    np.testing.assert_allclose(single, scores, atol=1e-5)


def test_reward_score_of_an_answer_longer_than_the_context(reward_model, tokenizer):
    prompt = [{"role": "user", "content": "x" * 60}]
    scores = reward_scores(
        reward_model, tokenizer, [prompt, prompt], answers=["y" * 90, "y" * 90], ended=[True, False]
    )
    assert np.isfinite(scores).all() and scores[0] != scores[1]
