"""The loop: ratio 1 at the start, gradients that do not depend on the split, ends and lengths, learning."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import GPT2LMHeadModel

from toolkit.data import chat
from toolkit.models.load import load_causal_lm, load_reward_model
from toolkit.ppo import loop as loop_module
from toolkit.ppo import losses, rollout
from toolkit.ppo.actor_critic import (
    ActorCritic,
    answer_logits,
    critic_from_policy,
    critic_from_reward_model,
    make_batch,
)
from toolkit.ppo.loop import Loop, Models, build_optimizer
from toolkit.ppo.rollout import Episode, ScoreScale
from toolkit.sampling import forbidden_bias, reward_scores


@pytest.fixture
def make_loop(world, recipe):
    def make(bf16: bool = False, **changes) -> Loop:
        settings = recipe(**changes)
        policy, tokenizer = load_causal_lm((str(world / "policy"), None))
        reward_model, reward_tokenizer = load_reward_model((str(world / "reward"), None))
        forbidden = forbidden_bias(policy, pad_id=tokenizer.pad_token_id, end_id=tokenizer.eos_token_id)
        actor_critic = ActorCritic(
            policy,
            critic_from_reward_model(reward_model),
            forbidden=forbidden,
            temperature=settings.trainer.temperature,
        )
        accelerator = Accelerator(cpu=True)
        optimizer = build_optimizer(actor_critic, settings.trainer)
        wrapped, optimizer = accelerator.prepare(actor_critic, optimizer)
        models = Models(
            actor_critic,
            wrapped,
            optimizer,
            copy.deepcopy(policy),
            tokenizer,
            reward_model,
            reward_tokenizer,
            critic_knows_scores=True,
        )
        prompts = Dataset.from_list(
            [{"prompt": [{"role": "user", "content": f"Say {number}"}]} for number in range(20)]
        )["prompt"]
        return Loop(settings, models, prompts, accelerator=accelerator, bf16=bf16)

    return make


def read_rollout(loop: Loop) -> list[Episode]:
    """The first rollout, ready to be optimized on."""
    episodes = rollout.gather(loop._score(loop._sample(1)))
    loop._set_scale(ScoreScale.of([episode.score for episode in episodes]))
    rollout.set_rewards(episodes, loop.progression.scale, missing_end_penalty=1.0)
    episodes = rollout.gather(loop._read(episodes, 1))
    rollout.set_advantages(episodes, loop.settings, kl_coefficient=0.05)
    return episodes


def test_an_episode_ends_as_it_was_sampled_and_is_scored_as_text(make_loop):
    loop = make_loop(rollout_examples=32)
    episodes = rollout.gather(loop._score(loop._sample(1)))
    end_id = loop.models.tokenizer.eos_token_id
    assert {episode.ended for episode in episodes} == {True, False}
    for episode in episodes:
        assert (episode.answer_ids[-1] == end_id) == episode.ended
        assert end_id not in episode.answer_ids[:-1]
        assert episode.ended or len(episode.answer_ids) == 24
        assert "endoftext" not in episode.text
        expected = reward_scores(
            loop.models.reward_model,
            loop.models.reward_tokenizer,
            [episode.prompt],
            answers=[episode.text],
            ended=[episode.ended],
        )
        assert episode.score == pytest.approx(float(expected[0]), abs=1e-5)


def test_prompts_come_once_in_each_pass(make_loop):
    loop = make_loop(episodes=32, rollout_examples=8)
    seen = [episode.prompt[0]["content"] for step in (1, 2, 3, 4) for episode in loop._sample(step)]
    assert len(set(seen)) == 20 and sorted(loop.order[:20].tolist()) == list(range(20))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_sampling_and_of_the_plain_model(make_loop, temperature):
    loop = make_loop(temperature=temperature)
    policy, tokenizer = loop.models.actor_critic.policy, loop.models.tokenizer
    for episode in read_rollout(loop):
        logits = policy(torch.tensor([episode.prompt_ids + episode.answer_ids])).logits[0].detach()
        logits[:, tokenizer.pad_token_id] = -torch.inf
        logits[:, len(tokenizer) :] = -torch.inf
        expected = (logits / temperature).log_softmax(-1)
        rows = torch.arange(len(episode.answer_ids)) + len(episode.prompt_ids) - 1
        expected = expected[rows, torch.tensor(episode.answer_ids)]
        np.testing.assert_allclose(episode.arrays["logprobs"], expected, atol=2e-5)
        np.testing.assert_allclose(episode.arrays["reference_logprobs"], expected, atol=2e-5)


@pytest.mark.parametrize("micro", [None, 1, 3])
def test_the_ratio_is_one_on_the_first_micro_batch(make_loop, monkeypatch, micro):
    loop = make_loop(micro_batch_examples=micro)
    ratios = []
    policy_losses = losses.policy_losses

    def spy(logprobs, old_logprobs, advantages, *, clip_range):
        ratios.append(torch.exp(logprobs - old_logprobs).detach())
        return policy_losses(logprobs, old_logprobs, advantages, clip_range=clip_range)

    monkeypatch.setattr(loop_module.losses, "policy_losses", spy)
    loop.train_rollout()
    assert (ratios[0] == 1).all()
    assert torch.abs(ratios[-1] - 1).max() > 1e-4


def gradient(loop: Loop, episodes: list[Episode]) -> torch.Tensor:
    loop.models.optimizer.zero_grad()
    tokens = sum(len(episode.answer_ids) for episode in episodes)
    loop._accumulate_gradient(episodes, tokens)
    return torch.cat([parameter.grad.flatten() for parameter in loop.models.actor_critic.parameters()])


def test_the_gradient_does_not_depend_on_the_micro_batches(make_loop):
    loop = make_loop(rollout_examples=32, minibatches=1, entropy_coefficient=0.1)
    episodes = read_rollout(loop)
    assert len({len(episode.answer_ids) for episode in episodes}) > 4
    for episode in episodes:  # away from ratio 1, where the loss is plain
        episode.arrays["logprobs"] = episode.arrays["logprobs"] + np.float32(0.15)
    whole = gradient(loop, episodes)
    for size in (1, 5, 16):
        loop.micro_size = size
        torch.testing.assert_close(
            gradient(loop, episodes), whole, atol=1e-5 * float(whole.abs().max()), rtol=1e-5
        )


def test_the_gradient_is_that_of_the_mean_over_tokens(make_loop):
    """Against a loop over single episodes with the model's own logits."""
    loop = make_loop(value_coefficient=0.3)
    episodes = read_rollout(loop)
    actual = gradient(loop, episodes)
    loop.models.optimizer.zero_grad()
    policy, critic = loop.models.actor_critic.policy, loop.models.actor_critic.critic
    total, tokens = 0.0, sum(len(episode.answer_ids) for episode in episodes)
    for episode in episodes:
        ids = torch.tensor([episode.prompt_ids + episode.answer_ids])
        rows = torch.arange(len(episode.answer_ids)) + len(episode.prompt_ids) - 1
        logits = policy(ids).logits[0] + loop.models.actor_critic.forbidden
        logprobs = logits.log_softmax(-1)[rows, torch.tensor(episode.answer_ids)]
        values = critic.head(critic.transformer(ids).last_hidden_state[0])[rows, 0]
        arrays = {name: torch.from_numpy(array) for name, array in episode.arrays.items()}
        ratios = torch.exp(logprobs - arrays["logprobs"])
        total = total - (ratios * arrays["advantages"]).sum()
        total = total + 0.3 * 0.5 * ((values - arrays["returns"]) ** 2).sum()
    (total / tokens).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in loop.models.actor_critic.parameters()])
    torch.testing.assert_close(actual, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)


def test_batches_are_trimmed_to_the_longest_and_read_answers_only():
    batch = make_batch([[5, 6, 7], [8]], [[9], [10, 11, 12, 13]], filler=0, device=torch.device("cpu"))
    assert batch.ids.tolist() == [[5, 6, 7, 9], [8, 10, 11, 12]]  # 13 predicts nothing
    assert batch.index.tolist() == [2, 4, 5, 6, 7]
    assert batch.targets.tolist() == [9, 10, 11, 12, 13]


def test_dropout_is_off(make_loop):
    loop = make_loop()
    assert loop.models.actor_critic.policy.config.resid_pdrop == 0.1
    loop.train_rollout()
    assert not any(module.training for module in loop.models.actor_critic.modules())


def test_bf16_computes_in_bf16_and_leaves_no_trace(make_loop, monkeypatch):
    used = []
    read = Loop._read

    def spy(self, episodes, step):
        used.append(self.models.actor_critic.policy.config._attn_implementation)
        return read(self, episodes, step)

    monkeypatch.setattr(Loop, "_read", spy)
    exact, rounded = make_loop(), make_loop(bf16=True)
    first, second = exact.train_rollout(), rounded.train_rollout()
    assert used == ["sdpa", "eager"]
    assert rounded.models.actor_critic.policy.config._attn_implementation == "sdpa"
    assert first["score"] == second["score"]
    assert first["gradient_norm"] != second["gradient_norm"]
    assert first["gradient_norm"] == pytest.approx(second["gradient_norm"], rel=0.05)
    assert {parameter.dtype for parameter in rounded.models.actor_critic.parameters()} == {torch.float32}


def test_the_critic_begins_as_the_reward_model_in_normalised_scores(make_loop):
    loop = make_loop()
    loop._set_scale(ScoreScale(mean=-3.0, std=0.5))
    prompt = [{"role": "user", "content": "Who?"}]
    head, answer = chat.example_ids(loop.models.tokenizer, prompt, "Me.")
    score = reward_scores(
        loop.models.reward_model, loop.models.reward_tokenizer, [prompt], answers=["Me."], ended=[True]
    )[0]
    whole = make_batch([head + answer], [[5]], filler=1, device=torch.device("cpu"))
    assert loop.models.actor_critic.critic(whole).item() == pytest.approx((score + 3.0) / 0.5, abs=1e-4)


def test_a_critic_without_the_reward_model_begins_at_zero(world):
    policy, _ = load_causal_lm((str(world / "policy"), None))
    batch = make_batch([[5, 6]], [[7, 8]], filler=1, device=torch.device("cpu"))
    assert critic_from_policy(policy)(batch).tolist() == [0, 0]


def test_other_heads_take_the_models_own_logits(world, monkeypatch):
    policy, _ = load_causal_lm((str(world / "policy"), None))
    assert isinstance(policy, GPT2LMHeadModel)
    batch = make_batch([[5, 6], [7]], [[8, 9], [10]], filler=1, device=torch.device("cpu"))
    forbidden = forbidden_bias(policy, pad_id=1, end_id=0)
    plain = answer_logits(policy, batch, forbidden=forbidden, temperature=0.5)
    monkeypatch.setattr("toolkit.ppo.actor_critic.PLAIN_HEADS", set())
    own = answer_logits(policy, batch, forbidden=forbidden, temperature=0.5)
    torch.testing.assert_close(plain, own)


def test_rewards_are_normalised_and_an_answer_without_an_end_pays():
    episodes = [Episode(place, [], [1], [2], ended, "") for place, ended in enumerate([True, False, True])]
    for episode, score in zip(episodes, [1.0, 3.0, 5.0], strict=True):
        episode.score = score
    scale = ScoreScale.of([1.0, 3.0, 5.0])
    rollout.set_rewards(episodes, scale, missing_end_penalty=2.0)
    std = (8 / 3) ** 0.5
    assert [episode.reward for episode in episodes] == pytest.approx([-2 / std, -2.0, 2 / std])
    assert ScoreScale.of([4.0, 4.0]) == ScoreScale(4.0, 1.0)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [(1e-3, 2e-3), (7.5e-4, 1.5e-3), (5e-4, 1e-3), (2.5e-4, 5e-4)]),
        ("constant", [(1e-3, 2e-3)] * 4),
    ],
)
def test_learning_rates(make_loop, schedule, expected):
    loop = make_loop(schedule=schedule, value_learning_rate=2e-3)
    actual = []
    for step in (1, 2, 3, 4):
        loop._set_learning_rates(step)
        actual.append(tuple(group["lr"] for group in loop.models.optimizer.param_groups))
    np.testing.assert_allclose(actual, expected)


def early_letters(model, tokenizer, prompts, *, answers, ended):
    """How many of the 12 characters lie from a to m: 13 of the 256 bytes."""
    return np.array([sum("a" <= letter <= "m" for letter in answer) for answer in answers], dtype=float)


def test_it_learns_to_say_what_is_rewarded_while_the_kl_stays_bounded(make_loop, monkeypatch):
    monkeypatch.setattr(loop_module, "reward_scores", early_letters)
    loop = make_loop(
        episodes=384,
        rollout_examples=32,
        minibatches=1,
        epochs=4,
        learning_rate=1e-2,
        kl_coefficient=0.05,
        missing_end_penalty=0.0,
        max_new_tokens=12,
    )
    rows = [loop.train_rollout() for _ in range(loop.rollouts)]
    first, last = rows[0]["score"], np.mean([row["score"] for row in rows[-3:]])
    assert first < 1 and last > 4
    assert 1 < np.mean([row["kl"] for row in rows[-3:]]) < 20


def test_a_larger_kl_coefficient_stays_closer(make_loop, monkeypatch):
    monkeypatch.setattr(loop_module, "reward_scores", early_letters)
    ends = []
    for coefficient in (0.0, 1.0):
        loop = make_loop(
            episodes=192,
            rollout_examples=32,
            minibatches=1,
            learning_rate=1e-2,
            kl_coefficient=coefficient,
            missing_end_penalty=0.0,
            max_new_tokens=12,
        )
        ends.append([loop.train_rollout() for _ in range(loop.rollouts)][-1]["kl"])
    assert ends[1] < 0.6 * ends[0]
