"""Policies whose answers end with any of several tokens: episodes, scores, penalties and probabilities."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from tests.ppo.training import run_stage, train
from toolkit.data.chat import fitting
from toolkit.inference import reward_scores
from toolkit.models.loading import load_causal_lm, save_model
from toolkit.models.stop_tokens import StopTokens
from toolkit.ppo import rewards
from toolkit.ppo.advantages import ScoreScale, set_rewards

MORE = list(range(60, 70))
"""Ordinary tokens."""


@pytest.fixture
def policy(world, tmp_path):
    """Return a folder with the policy of the other tests, whose generation_config names many ends."""
    folder = tmp_path / "many-ends"
    model, tokenizer = load_causal_lm((str(world / "policy"), None))
    model.generation_config.eos_token_id = [0, *MORE]
    save_model(model, tokenizer, folder)
    return folder


def test_episodes_end_with_the_token_that_was_sampled(policy, make_trainer, monkeypatch):
    scored, score_ids = [], reward_scores.score_ids

    def spied(model, rows, **settings):
        scored.extend(rows)
        return score_ids(model, rows, **settings)

    monkeypatch.setattr(reward_scores, "score_ids", spied)
    trainer = make_trainer(policy=str(policy), rollout_examples=32)
    tokenizer, model = trainer.processing_class, trainer.model
    assert set(StopTokens.of(model.policy, tokenizer).ids) == {0, *MORE}
    episodes = rewards.score(trainer.rewards, trainer.collector.sample(1))
    trainer.collector.forward(episodes)
    set_rewards(episodes, ScoreScale(), missing_end_penalty=5.0)
    assert {episode.ended for episode in episodes} == {True, False}
    for episode, row in zip(episodes, scored, strict=True):
        prompt, answer = episode.prompt_ids, episode.answer_ids
        assert episode.ended == (answer[-1] in {0, *MORE}) and not set(answer[:-1]) & {0, *MORE}
        assert episode.reward == pytest.approx(episode.score - 5.0 * (not episode.ended))
        # the reward model reads the end that it was trained on
        head, tail = fitting.example_ids(tokenizer, episode.prompt, episode.text)
        if len(head) + len(tail) <= 64:  # bytes that are no text become longer
            assert row == head + (tail if episode.ended else tail[:-1])
        assert (row[-1] == tokenizer.eos_token_id) == episode.ended
        logits = model.policy(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        nats = (logits + model.forbidden).log_softmax(-1)[torch.arange(len(answer)), answer]
        np.testing.assert_allclose(episode.arrays["logprobs"], nats.detach().numpy(), atol=1e-4)
    assert any(episode.answer_ids[-1] in MORE for episode in episodes)


@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_run_records_its_stop_tokens_and_counts_all_ends(policy, opened, recipe, algorithm):
    groups = {} if algorithm == "ppo" else {"answers_per_prompt": 2}
    settings = recipe(algorithm=algorithm, **groups).model_copy(update={"model": str(policy)})
    path = run_stage(opened, settings)
    facts = json.loads((path / "manifest.json").read_text())["facts"]
    assert set(facts["stop_tokens"].values()) == {0, *MORE} and "chat_template_date" not in facts
    assert json.loads((path / "evaluation.json").read_text())["ended"] > 0.6  # 0.3 with end-of-text alone
    saved = json.loads((path / "model" / "generation_config.json").read_text())
    assert set(saved["eos_token_id"]) == {0, *MORE}


def test_padding_token_that_is_an_end_is_sampled(world, tmp_path, make_trainer):
    folder = tmp_path / "pad-ends"
    shutil.copytree(world / "policy", folder)
    model, tokenizer = load_causal_lm((str(folder), None))
    model.generation_config.eos_token_id = [0, tokenizer.pad_token_id]
    save_model(model, tokenizer, folder)
    trainer = make_trainer(policy=str(folder))
    assert trainer.model.forbidden[tokenizer.pad_token_id] == 0
    assert all(np.isfinite(row["kl"]) for row in train(trainer))
