"""What a reward model prefers, against scores that are computed by hand or by the ppo stage."""

from __future__ import annotations

import copy
import itertools
import threading

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from toolkit.base.errors import UsageError
from toolkit.base.rng import derive
from toolkit.data.chat import fitting, template
from toolkit.inference import reward_probe
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.opening import OpenModel
from toolkit.inference.reward_probe import changed_answers, words_of
from toolkit.inference.sampling import generate
from toolkit.models.loading import save_model
from toolkit.models.stop_tokens import StopTokens
from toolkit.ppo import rewards
from toolkit.ppo.episode import Episode

PROMPT = "Say it"


def gpt2(tokenizer) -> GPT2ForSequenceClassification:
    torch.manual_seed(2)
    config = GPT2Config(
        vocab_size=320, n_positions=64, n_embd=32, n_layer=2, n_head=2, num_labels=1, initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return GPT2ForSequenceClassification(config).eval()


def llama(tokenizer) -> LlamaForSequenceClassification:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=320, max_position_embeddings=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_labels=1, initializer_range=0.2, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForSequenceClassification(config).eval()


@pytest.fixture(scope="module")
def gpt2_reward(tiny_tokenizer) -> OpenModel:
    return OpenModel(gpt2(tiny_tokenizer), tiny_tokenizer, True)


@pytest.fixture(scope="module")
def llama_reward(tiny_tokenizer) -> OpenModel:
    """A Llama whose tokenizer has a chat template of its own, with another token at the end of an answer."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = None
    template.configure(tokenizer, "chatml")
    return OpenModel(llama(tokenizer), tokenizer, True)


@pytest.fixture(params=["gpt2_reward", "llama_reward"])
def reward(request) -> OpenModel:
    return request.getfixturevalue(request.param)


def ppo_score(reward: OpenModel, answer: str, *, ended: bool) -> float:
    episode = Episode(0, [{"role": "user", "content": PROMPT}], [], [], ended, answer)
    term = rewards.Reward("judge", 1.0, reward.model, reward.tokenizer)
    [scored] = rewards.score([term], [episode])
    return scored.score


@pytest.mark.parametrize("answer", ["A red fox.", "", "<|assistant|> é\n"], ids=["words", "empty", "special"])
def test_the_score_has_the_bits_of_the_ppo_stage(reward, answer):
    found = reward_probe.probe(reward, PROMPT, answer)
    assert found.score == ppo_score(reward, answer, ended=True)
    assert found.unended == ppo_score(reward, answer, ended=False)
    assert found.score != found.unended


def test_each_word_adds_the_score_minus_the_score_without_it(reward):
    found = reward_probe.probe(reward, PROMPT, "one two  three")
    assert [one.word.text for one in found.words] == ["one", "two", "three"]
    for one, left in zip(found.words, ["two  three", "one  three", "one two"], strict=True):
        expected = ppo_score(reward, left, ended=True)
        assert one.score == pytest.approx(expected, abs=1e-5)
        assert one.effect == pytest.approx(found.score - expected, abs=1e-5)


def test_words_without_a_change_have_no_effect(reward):
    found = reward_probe.probe(reward, PROMPT, "a b b", change="swap")
    assert [one.effect is None for one in found.words] == [False, True, True]
    assert found.words[0].score == pytest.approx(ppo_score(reward, "b a b", ended=True), abs=1e-5)


def test_changes_of_words_keep_everything_else():
    answer = " Hi,  you\nthere "
    words = words_of(answer)
    assert changed_answers(answer, words, "delete") == [" you\nthere ", " Hi,\nthere ", " Hi,  you "]
    assert changed_answers(answer, words, "swap") == [" you  Hi,\nthere ", " Hi,  there\nyou ", None]
    assert changed_answers(answer, words, "replace", "you") == [" you  you\nthere ", None, " Hi,  you\nyou "]


def test_a_text_without_spaces_has_its_characters_as_words():
    assert [word.text for word in words_of("虹はrainbow です。")] == ["虹", "は", "rainbow", "で", "す", "。"]


def test_too_many_words_are_refused():
    with pytest.raises(UsageError, match="has 201 words"):
        words_of("a " * 201)


def test_a_cut_answer_is_scored_with_and_without_its_end(reward):
    taste = reward_probe.length_taste(reward, PROMPT, "one two")
    beginnings = ["", "one", "one two"]
    assert [count for count, _, _ in taste.cut] == [0, 1, 2]
    for (_, ended, unended), text in zip(taste.cut, beginnings, strict=True):
        assert ended == pytest.approx(ppo_score(reward, text, ended=True), abs=1e-5)
        assert unended == pytest.approx(ppo_score(reward, text, ended=False), abs=1e-5)


def test_an_answer_is_repeated_as_often_as_the_context_allows(gpt2_reward):
    """A token a byte: n times `one two` are 8 n - 1 tokens, beside 3 special ones and 6 of the prompt."""
    assert reward_probe.token_count(gpt2_reward, PROMPT, "one two") == 7 + 9
    assert 8 * 7 - 1 + 9 == gpt2_reward.context_length == 64
    taste = reward_probe.length_taste(gpt2_reward, PROMPT, "one two").repeated
    assert [words for words, _ in taste] == [2 * times for times in range(1, 8)]
    assert taste[2][1] == pytest.approx(
        ppo_score(gpt2_reward, "one two one two one two", ended=True), abs=1e-5
    )


def test_a_score_of_a_part_is_known(gpt2_reward):
    assert not reward_probe.is_cut(gpt2_reward, PROMPT, "a" * 55)
    assert reward_probe.is_cut(gpt2_reward, PROMPT, "a" * 56)


def test_samples_are_those_of_the_ppo_stage_s_sampler(tiny_model, tiny_tokenizer):
    opened = OpenModel(tiny_model, tiny_tokenizer, True)
    settings = GenerationSettings(max_new_tokens=8, temperature=1.0, top_k=0, top_p=1.0, seed=5)
    found = [*itertools.chain(*reward_probe.sample_answers(opened, PROMPT, count=18, settings=settings))]
    ids = fitting.prompt_ids(tiny_tokenizer, [{"role": "user", "content": PROMPT}])
    seeds = [derive(5, "reward room", number) for number in range(18)]
    ends = StopTokens.of(tiny_model, tiny_tokenizer).ids
    expected = generate(
        tiny_model, [ids] * 18, seed=seeds, end_id=ends, pad_id=tiny_tokenizer.pad_token_id, max_new_tokens=8
    )
    assert [one.text for one in found] == [
        tiny_tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for tokens in expected.ids
    ]
    assert [one.logprob for one in found] == pytest.approx(
        [nats.sum() for nats in expected.logprobs], rel=1e-5
    )
    assert [one.ended for one in found] == expected.ended


def test_models_without_a_chat_template_read_and_continue_text(gpt2_reward, tiny_model, tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = None
    reward = OpenModel(gpt2_reward.model, tokenizer, False)
    found = reward_probe.probe(reward, "Once ", "upon a")
    ids = [*template.encode_text(tokenizer, "Once upon a"), tokenizer.eos_token_id]
    with torch.no_grad():
        assert found.score == reward.model(input_ids=torch.tensor([ids])).logits.item()
    assert reward_probe.token_count(reward, "Once ", "upon a") == len(ids)
    text_model = OpenModel(tiny_model, tokenizer, False)
    settings = GenerationSettings(max_new_tokens=4, temperature=1.0, top_k=0, top_p=1.0)
    [samples] = reward_probe.sample_answers(text_model, "Once ", count=2, settings=settings)
    expected = generate(
        tiny_model, [text_model.text_ids("Once ")] * 2, seed=[derive(0, "reward room", n) for n in (0, 1)],
        end_id=StopTokens.of(tiny_model, tokenizer).ids, pad_id=tokenizer.pad_token_id, max_new_tokens=4,
    )  # fmt: skip
    assert [one.tokens for one in samples] == [len(tokens) for tokens in expected.ids]


def test_sampling_stops_when_it_is_cancelled(tiny_model, tiny_tokenizer):
    cancelled = threading.Event()
    opened = OpenModel(tiny_model, tiny_tokenizer, True)
    settings = GenerationSettings(max_new_tokens=2, temperature=1.0, top_k=0, top_p=1.0)
    found = reward_probe.sample_answers(opened, PROMPT, count=64, settings=settings, cancelled=cancelled)
    assert len(next(found)) == 16
    cancelled.set()
    assert list(found) == []


def test_the_expected_best_of_n_is_the_mean_over_all_subsets():
    scored, values, words = [3.0, 1, 2, 0, 5], [0.0, 4, 1, 2, 1], [1, 2, 3, 4, 5]
    found = reward_probe.favourites(scored, values, words, seed=0)
    assert (found.best, found.judged_best) == (4, 1)
    for n, by_score, by_judge in found.best_of:
        subsets = [*itertools.combinations(range(5), n)]
        assert by_score == pytest.approx(
            np.mean([values[max(some, key=scored.__getitem__)] for some in subsets])
        )
        assert by_judge == pytest.approx(np.mean([max(values[one] for one in some) for some in subsets]))
    assert [n for n, _, _ in found.best_of] == [1, 2, 4, 5]
    assert found.length.estimate == pytest.approx(np.corrcoef(scored, words)[0, 1])
    assert found.judge.estimate == pytest.approx(np.corrcoef(scored, values)[0, 1])


def test_a_reward_model_opens_from_its_folder(gpt2_reward, tmp_path):
    save_model(gpt2_reward.model, gpt2_reward.tokenizer, tmp_path / "model")
    opened = reward_probe.open_reward_model(str(tmp_path / "model"))
    assert (
        reward_probe.probe(opened, PROMPT, "A fox.").score
        == reward_probe.probe(gpt2_reward, PROMPT, "A fox.").score
    )
