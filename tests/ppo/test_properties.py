"""The properties of PPO, one per test; tests/ppo/test_faults.py plants a fault for each of them.

The equations (2, 9, 10: advantages, clipping, value clipping) are in test_losses.py, 16 to 19 in
test_training.py, and two processes (7, 11, 20) in test_processes.py. The numbers are those of docs/PPO.md.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.ppo.training import train
from toolkit.base.errors import ToolkitError
from toolkit.inference.reward_scores import reward_scores
from toolkit.inference.sampling import generate
from toolkit.models.loading import load_causal_lm, load_reward_model
from toolkit.ppo import losses, rewards
from toolkit.ppo.actor_critic import make_batch
from toolkit.ppo.advantages import ScoreScale, set_advantages, set_rewards
from toolkit.ppo.episode import Episode, micro_batches
from toolkit.ppo.trainer import LOSS_METRICS, TokenMeans

CPU = torch.device("cpu")


# 1


@pytest.mark.parametrize("changes", [{}, {"per_device_train_batch_size": 1}, {"critic": "shared"},
                                     {"temperature": 0.7}, {"bf16": True}])  # fmt: skip
def test_initial_ratio_is_one_and_kl_is_zero(make_trainer, changes, monkeypatch):
    ratios, policy_losses = [], losses.policy_losses

    def spy(logprobs, old_logprobs, advantages, *, clip_range):
        ratios.append(torch.exp(logprobs - old_logprobs).detach())
        return policy_losses(logprobs, old_logprobs, advantages, clip_range=clip_range)

    monkeypatch.setattr(losses, "policy_losses", spy)
    rows = train(make_trainer(**changes))
    assert torch.abs(ratios[0] - 1).max() <= 1e-6
    assert torch.abs(ratios[-1] - 1).max() > 1e-4
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5) and abs(rows[1]["kl"]) > 1e-4


# 3, 4


def episodes_by_hand(ended=(True, False)) -> list[Episode]:
    made = []
    for place, end in enumerate(ended):
        length = 3 + place
        each = Episode(place, "", [1], list(range(length)), end, "", score=2.0)
        generator = np.random.default_rng(place)
        each.arrays = {
            name: generator.normal(size=length).astype(np.float32)
            for name in ("logprobs", "reference_logprobs", "values", "entropies")
        }
        made.append(each)
    return made


def settings(**changes):
    plain = {"kl_in": "reward", "whiten_rewards": False, "whiten_advantages": False, "gamma": 1.0,
             "gae_lambda": 1.0}  # fmt: skip
    return SimpleNamespace(**{**plain, **changes})


def test_token_rewards_sum_to_score_minus_kl():
    episodes = episodes_by_hand()
    set_rewards(episodes, ScoreScale(), missing_end_penalty=0.0)
    numbers = set_advantages(episodes, settings(), kl_coefficient=0.3)
    for episode in episodes:  # gamma = lambda = 1: the first return is the sum, the last the last reward
        assert episode.arrays["returns"][0] == pytest.approx(2.0 - 0.3 * episode.kl, abs=1e-5)
        nats = episode.arrays["logprobs"] - episode.arrays["reference_logprobs"]
        assert episode.arrays["returns"][-1] == pytest.approx(2.0 - 0.3 * nats[-1], abs=1e-5)
        assert episode.arrays["returns"][1] == pytest.approx(2.0 - 0.3 * nats[1:].sum(), abs=1e-5)
    assert numbers["reward"] == pytest.approx(np.mean([2.0 - 0.3 * each.kl for each in episodes]), abs=1e-5)


def test_truncated_and_finished_answers_differ_only_by_the_penalty():
    results = []
    for ended in (True, False):
        episodes = episodes_by_hand((ended,))
        set_rewards(episodes, ScoreScale(), missing_end_penalty=0.5)
        set_advantages(episodes, settings(), kl_coefficient=0.3)
        results.append(episodes[0].arrays["returns"])
    np.testing.assert_allclose(results[0] - results[1], 0.5, atol=1e-6)


def test_bootstrap_adds_the_critic_value_after_truncation(make_trainer):
    returns = {}
    for truncation in ("terminal", "bootstrap"):
        trainer = make_trainer(truncation=truncation, whiten_advantages=False, gae_lambda=1.0, gamma=0.9,
                               rollout_examples=16, minibatches=1)  # fmt: skip
        returns[truncation] = trainer.collect_rollout()
    critic = trainer.model.critic
    assert {episode.ended for episode in returns["terminal"]} == {True, False}
    for plain, booted in zip(*returns.values(), strict=True):
        more = booted.arrays["returns"] - plain.arrays["returns"]
        after = 0.0
        if not plain.ended:
            ids = torch.tensor([plain.prompt_ids + plain.answer_ids])
            hidden = critic.transformer(ids).last_hidden_state[0, -1]
            after = float(critic.head(hidden).detach())
        powers = 0.9 ** np.arange(len(more), 0, -1)
        np.testing.assert_allclose(more, after * powers, atol=1e-5)


# 5, 6


def test_padding_content_has_no_effect(make_trainer):
    trainer = make_trainer(rollout_examples=16, minibatches=1)
    episodes = trainer.collect_rollout()
    assert len({len(episode.answer_ids) for episode in episodes}) > 3
    batch = trainer.collector.batch(episodes)
    lengths = [len(each.prompt_ids) + len(each.answer_ids) - 1 for each in episodes]
    padding = torch.arange(batch.ids.shape[1]) >= torch.tensor(lengths)[:, None]
    assert padding.any()
    dirty = torch.where(padding, torch.randint(5, 200, batch.ids.shape), batch.ids)
    clean = trainer.model(batch.ids, batch.index, batch.targets, True)
    other = trainer.model(dirty, batch.index, batch.targets, True)
    for first, second in zip(clean, other, strict=True):
        assert torch.equal(first, second)
    row = episodes[0]
    alone = trainer.collector.batch([row])
    expected = trainer.model(alone.ids, alone.index, alone.targets, True)[0]
    np.testing.assert_allclose(expected.detach(), row.arrays["logprobs"], atol=1e-5)


def test_left_padding_and_batch_order_do_not_change_samples_or_logprobs(world):
    policy, tokenizer = load_causal_lm((str(world / "policy"), None))
    prompts = [[5, 6, 7], [8], [9] * 12, [10, 11]]
    options = {"end_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id, "max_new_tokens": 20}
    together = generate(policy, prompts, seed=[1, 2, 3, 4], **options)
    turned = generate(policy, prompts[::-1], seed=[4, 3, 2, 1], **options)
    for row, prompt in enumerate(prompts):
        alone = generate(policy, [prompt], seed=[row + 1], **options)
        assert together.ids[row] == alone.ids[0] == turned.ids[::-1][row]
        np.testing.assert_allclose(together.logprobs[row], alone.logprobs[0], atol=1e-5)
        np.testing.assert_allclose(together.logprobs[row], turned.logprobs[::-1][row], atol=1e-5)


# 7


def gradient(trainer, episodes, size) -> torch.Tensor:
    trainer.model.zero_grad()
    trainer._loss_metrics = TokenMeans(LOSS_METRICS, trainer.accelerator)
    tokens = sum(len(episode.answer_ids) for episode in episodes)
    for part in micro_batches(episodes, size):
        inputs = trainer.collector.training_inputs(part)
        trainer.compute_loss(trainer.model, inputs, num_items_in_batch=tokens).backward()
    return torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_gradient_does_not_depend_on_micro_batches(make_trainer, kl_in):
    trainer = make_trainer(rollout_examples=32, minibatches=1, entropy_coefficient=0.1, kl_in=kl_in)
    episodes = trainer.collect_rollout()
    assert len({len(episode.answer_ids) for episode in episodes}) > 4
    for episode in episodes:  # away from ratio 1, where clipping has no effect
        episode.arrays["logprobs"] = episode.arrays["logprobs"] + np.float32(0.15)
    whole = gradient(trainer, episodes, 32)
    for size in (1, 5, 16):
        torch.testing.assert_close(
            gradient(trainer, episodes, size), whole, atol=1e-5 * float(whole.abs().max()), rtol=1e-5
        )


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_gradient_is_the_token_mean_gradient(make_trainer, critic):
    """Compares with a loop over single episodes that uses the logits of the model."""
    trainer = make_trainer(value_coefficient=0.3, critic=critic)
    episodes = trainer.collect_rollout()
    actual = gradient(trainer, episodes, 8)
    trainer.model.zero_grad()
    policy, critic = trainer.model.policy, trainer.model.critic
    reader = getattr(critic, "transformer", policy.transformer)
    total, tokens = 0.0, sum(len(episode.answer_ids) for episode in episodes)
    for episode in episodes:
        ids = torch.tensor([episode.prompt_ids + episode.answer_ids])
        rows = torch.arange(len(episode.answer_ids)) + len(episode.prompt_ids) - 1
        logits = policy(ids).logits[0] + trainer.model.forbidden
        logprobs = logits.log_softmax(-1)[rows, torch.tensor(episode.answer_ids)]
        values = critic.head(reader(ids).last_hidden_state[0])[rows, 0]
        arrays = {name: torch.from_numpy(array) for name, array in episode.arrays.items()}
        ratios = torch.exp(logprobs - arrays["logprobs"])
        total = total - (ratios * arrays["advantages"]).sum()
        total = total + 0.3 * 0.5 * ((values - arrays["returns"]) ** 2).sum()
    (total / tokens).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])
    torch.testing.assert_close(actual, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)


# 8


def test_steps_are_epochs_times_minibatches_and_each_epoch_reads_all_answers(make_trainer):
    seen: list[int] = []
    trainer = make_trainer(epochs=3, per_device_train_batch_size=2)
    rows = train(trainer, lambda inputs: seen.append(len(inputs["ids"])))
    assert trainer.state.global_step == trainer.state.max_steps == 4 * 3 * 2
    assert [row["step"] for row in rows] == [6, 12, 18, 24]
    assert sum(seen) == 4 * 3 * 8
    moments = trainer.optimizer.state_dict()["state"].values()
    assert {int(entry["step"]) for entry in moments} == {24}


def test_remaining_updates_are_skipped_above_target_kl(make_trainer):
    trainer = make_trainer(target_kl=1e-12)
    rows = train(trainer)
    # KL is 0 before the first update of a rollout.
    assert trainer.progression.rollouts == 4 and trainer.state.global_step == 4 * 2
    assert [row["episodes"] for row in rows] == [8, 16, 24, 32]
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0)
    assert make_trainer(target_kl=1e9).train().global_step == 16


# 11


def test_whitening_uses_all_answer_tokens_of_the_rollout(make_trainer):
    trainer = make_trainer(rollout_examples=16, minibatches=2, per_device_train_batch_size=2)
    advantages = np.concatenate([each.arrays["advantages"] for each in trainer.collect_rollout()])
    assert advantages.mean() == pytest.approx(0, abs=1e-5) and advantages.std() == pytest.approx(1, abs=1e-4)
    plain, whitened = [], []
    for found, changes in ((plain, {}), (whitened, {"whiten_rewards": True})):
        each = episodes_by_hand()
        set_rewards(each, ScoreScale(), missing_end_penalty=0.5)
        set_advantages(each, settings(**changes), kl_coefficient=0.3)
        for episode in each:  # gamma = lambda = 1: rewards are differences of returns
            found += list(-np.diff([*episode.arrays["returns"], 0]))
    assert np.mean(whitened) == pytest.approx(np.mean(plain), abs=1e-5) and np.mean(plain) > 0.1
    assert np.std(whitened) == pytest.approx(1, abs=1e-4) and abs(np.std(plain) - 1) > 0.05


# 12


def test_dropout_is_disabled_everywhere(make_trainer):
    trainer = make_trainer(rollout_examples=8)
    assert trainer.model.policy.config.resid_pdrop == 0.1
    training = set()

    def look(inputs):
        training.update(module.training for module in trainer.model.modules())

    train(trainer, look)
    assert training == {False}
    batch = trainer.collector.batch(trainer._episodes)
    trainer.model.train()
    first, second = (trainer.model(batch.ids, batch.index, batch.targets, False)[0] for _ in range(2))
    assert torch.equal(first, second)


# 13


@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 0.7}, {"top_k": 40}, {"top_p": 0.8, "temperature": 1.3}]
)
def test_policy_and_reference_use_the_full_tempered_distribution(make_trainer, changes):
    """Top-k and top-p restrict sampling; ratio and KL use the full softmax(logits / T)."""
    trainer = make_trainer(**changes)
    policy, tokenizer = trainer.model.policy, trainer.processing_class
    for episode in trainer.collect_rollout():
        logits = policy(torch.tensor([episode.prompt_ids + episode.answer_ids])).logits[0].detach()
        logits[:, tokenizer.pad_token_id] = -torch.inf
        logits[:, len(tokenizer) :] = -torch.inf
        whole = (logits / changes.get("temperature", 1.0)).log_softmax(-1)
        rows = torch.arange(len(episode.answer_ids)) + len(episode.prompt_ids) - 1
        targets = torch.tensor(episode.answer_ids)
        expected = whole[rows, targets]
        np.testing.assert_allclose(episode.arrays["logprobs"], expected, atol=1e-4)
        np.testing.assert_allclose(episode.arrays["reference_logprobs"], expected, atol=1e-4)
        ranks = (whole[rows] > expected[:, None]).sum(-1)
        assert changes.get("top_k", 0) == 0 or ranks.max() < changes["top_k"]
    sampled = generate(
        policy, [[5, 6]] * 4, seed=3, end_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id,
        max_new_tokens=24, **{"temperature": 1.0, **changes},
    )  # fmt: skip
    for ids, ended, nats in zip(sampled.ids, sampled.ended, sampled.logprobs, strict=True):
        batch = make_batch([[5, 6]], [ids + [tokenizer.eos_token_id] * ended], filler=1, device=CPU)
        again = trainer.model(batch.ids, batch.index, batch.targets, False)[0].detach()
        np.testing.assert_allclose(nats, again, atol=1e-4)


# 14, 15


def test_end_of_text_as_padding_token(make_trainer, world):
    policy, tokenizer = load_causal_lm((str(world / "policy"), None))
    tokenizer.pad_token = tokenizer.eos_token
    policy.config.pad_token_id = tokenizer.eos_token_id
    policy.save_pretrained(world / "same")
    tokenizer.save_pretrained(world / "same")
    trainer = make_trainer(policy=str(world / "same"), rollout_examples=32, minibatches=1)
    assert trainer.model.forbidden[tokenizer.eos_token_id] == 0  # it can still be sampled
    assert {episode.ended for episode in trainer.collect_rollout()} == {True, False}
    reward, reward_tokenizer = load_reward_model((str(world / "reward"), None))
    reward_tokenizer.pad_token = reward_tokenizer.eos_token
    with pytest.raises(ToolkitError, match="differ from end-of-text"):
        rewards.build(reward, reward_tokenizer, device=CPU)


def test_reward_model_sees_end_of_text_only_for_finished_answers(make_trainer, monkeypatch):
    trainer = make_trainer(rollout_examples=32, minibatches=1)
    end_id, judge = trainer.processing_class.eos_token_id, trainer.rewards[0].judge
    read: list[list[int]] = []
    forward = type(judge).forward

    def spy(self, input_ids=None, attention_mask=None, **kwargs):
        read.extend(ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True))
        return forward(self, input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(type(judge), "forward", spy)
    episodes = rewards.score(trainer.rewards, trainer.collector.sample(1))
    assert len(read) == 32 and {episode.ended for episode in episodes} == {True, False}
    assert sum(ids[-1] == end_id for ids in read) == sum(episode.ended for episode in episodes)
    for episode in episodes:
        assert episode.answer_ids[-1:] == [end_id] if episode.ended else end_id not in episode.answer_ids
        expected = reward_scores(
            judge,
            trainer.rewards[0].tokenizer,
            [episode.prompt],
            answers=[episode.text],
            ended=[episode.ended],
        )
        assert episode.score == pytest.approx(float(expected[0]), abs=1e-5)
