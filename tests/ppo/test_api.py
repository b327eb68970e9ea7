"""The public interface of `PPOTrainer`: rewards, data, callbacks, evaluation, validation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, EarlyStoppingCallback, TrainerCallback

from tests.ppo.training import train
from toolkit.base.errors import ToolkitError
from toolkit.config.schema import PpoTrainerSettings
from toolkit.inference.reward_scores import reward_scores
from toolkit.models.loading import load_causal_lm, load_reward_model
from toolkit.ppo import PPOConfig, PPOTrainer, rewards
from toolkit.ppo.actor_critic import critic_from_policy, make_batch

CPU = torch.device("cpu")


def early_letters(prompts, completions, completion_ids, **columns):
    """Return the number of characters from a to m (13 of the 256 bytes)."""
    return [sum("a" <= letter <= "m" for letter in each[0]["content"]) for each in completions]


LEARNING = {"episodes": 384, "rollout_examples": 32, "minibatches": 1, "epochs": 4, "learning_rate": 1e-2,
            "missing_end_penalty": 0.0, "max_new_tokens": 12}  # fmt: skip


def test_training_increases_the_function_reward_with_bounded_kl(make_trainer):
    rows = train(make_trainer(early_letters, **LEARNING))
    assert rows[0]["score"] < 1 and np.mean([row["score"] for row in rows[-3:]]) > 4
    assert 1 < np.mean([row["kl"] for row in rows[-3:]]) < 20


def test_larger_kl_coefficient_gives_smaller_kl(make_trainer):
    options = {**LEARNING, "episodes": 192}
    free, held = (train(make_trainer(early_letters, **options, kl_coefficient=each)) for each in (0.0, 1.0))
    assert held[-1]["kl"] < 0.6 * free[-1]["kl"]


def test_reward_functions_receive_prompts_completions_ids_and_columns(make_trainer):
    seen = []

    def reward(prompts, completions, completion_ids, **columns):
        seen.append((prompts, completions, completion_ids, columns))
        return [0.0] * len(prompts)

    rows = [{"prompt": f"Say {number}", "wanted": number} for number in range(20)]
    trainer = make_trainer(reward, Dataset.from_list(rows), episodes=8)
    train(trainer)
    prompts, completions, ids, columns = seen[0]
    assert columns["wanted"] == [int(prompt.split()[1]) for prompt in prompts] and set(columns) == {"wanted"}
    end_id, decode = trainer.processing_class.eos_token_id, trainer.processing_class.decode
    assert completions == [decode([token for token in each if token != end_id]) for each in ids]
    assert any(each[-1] == end_id for each in ids)


def test_rewards_are_summed_with_weights(make_trainer, world):
    def length(prompts, completions, completion_ids, **columns):
        return [len(ids) for ids in completion_ids]

    def one(prompts, **columns):
        return [1.0] * len(prompts)

    trainer = make_trainer([str(world / "reward"), length, one], reward_weights=[2.0, -0.5, 3.0])
    assert not trainer.critic_knows_scores
    for episode in trainer.collect_rollout():
        expected = 2 * episode.parts["reward"] - 0.5 * len(episode.answer_ids) + 3
        assert episode.score == pytest.approx(expected)
    row = train(make_trainer([str(world / "reward"), length]))[0]
    assert row["score"] == pytest.approx(row["score_reward"] + row["score_length"])
    assert row["score_length"] == pytest.approx(row["length"])


def test_reward_model_reads_plain_text_unchanged(world):
    model, tokenizer = load_reward_model((str(world / "reward"), None))
    for ended in (True, False):
        score = reward_scores(model, tokenizer, ["One "], answers=["two"], ended=[ended])[0]
        ids = tokenizer("One two")["input_ids"] + [tokenizer.eos_token_id] * ended
        assert score == pytest.approx(model(torch.tensor([ids])).logits.item(), abs=1e-5)
    long = reward_scores(model, tokenizer, ["a" * 100], answers=["b" * 10], ended=[True])[0]
    ids = tokenizer("a" * 53 + "b" * 10)["input_ids"] + [tokenizer.eos_token_id]
    assert long == pytest.approx(model(torch.tensor([ids])).logits.item(), abs=1e-5)


def test_critic_starts_as_the_reward_model_in_normalized_scores(make_trainer, world):
    trainer = make_trainer()
    trainer.collect_rollout()
    scale = trainer.progression.scale
    assert trainer.critic_knows_scores and scale.std != 1
    model, tokenizer = load_reward_model((str(world / "reward"), None))
    ids = tokenizer("Some text")["input_ids"]
    score = model(torch.tensor([ids])).logits.item()
    value = trainer.model.critic(make_batch([ids], [[5]], filler=1, device=CPU)).item()
    assert value == pytest.approx((score - scale.mean) / scale.std, abs=1e-4)


def test_critic_options(make_trainer, world):
    policy, _ = load_causal_lm((str(world / "policy"), None))
    batch = make_batch([[5, 6]], [[7, 8]], filler=1, device=CPU)
    assert critic_from_policy(policy)(batch).tolist() == [0, 0]
    shared = make_trainer(critic="shared")
    assert shared.model(batch.ids, batch.index, batch.targets, False)[1].tolist() == [0, 0]
    separate = sum(each.numel() for each in make_trainer().model.parameters())
    assert sum(each.numel() for each in shared.model.parameters()) < 0.6 * separate
    model, _ = load_reward_model((str(world / "reward"), None))
    given = make_trainer(early_letters, value_model=model)
    assert torch.equal(given.model.critic.head.weight, model.score.weight)


def test_evaluation_and_stopping_are_deferred_to_the_end_of_a_rollout(make_trainer, world):
    """Trainer callbacks work; requests during a rollout take effect at its end."""
    steps: dict[str, list[int]] = {"save": [], "evaluate": [], "log": []}

    class Look(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            steps["save"].append(state.global_step)

        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            steps["evaluate"].append(state.global_step)
            assert {"eval_score", "eval_length", "eval_ended"} <= set(metrics)

    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "Hm"}]}] * 3)
    trainer = make_trainer(
        eval_dataset=rows, eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=3,
        metric_for_best_model="eval_score", greater_is_better=True, callbacks=[Look()], episodes=40,
    )  # fmt: skip
    trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=1e9))
    trainer.train()
    assert steps["save"][0] == 4 and steps["evaluate"][0] == 4
    assert all(step % 4 == 0 for step in steps["save"] + steps["evaluate"])
    assert trainer.state.global_step < trainer.state.max_steps  # stopped early, at the end of a rollout
    assert trainer.state.global_step % 4 == 0 and not trainer.finished
    AutoModelForCausalLM.from_pretrained(f"{trainer.args.output_dir}/checkpoint-4")


def test_best_checkpoint_by_held_out_judge_is_loaded_at_the_end(make_trainer):
    """Uses the transformers setting with a judge that prefers the first of five rollouts."""
    scores = iter([[3.0], [1.0], [2.0], [0.0], [1.0]])

    def judge(prompts, completions, completion_ids, **columns):
        return next(scores)

    def four(prompts, completions, completion_ids, **columns):
        return [float(len(ids)) for ids in completion_ids]

    trainer = make_trainer(
        four, eval_dataset=Dataset.from_list([{"prompt": "Hm"}]), eval_reward_funcs=judge, episodes=40,
        eval_strategy="steps", eval_steps=4, save_strategy="steps", save_steps=4, load_best_model_at_end=True,
        metric_for_best_model="eval_score", greater_is_better=True,
    )  # fmt: skip
    trainer.train()
    assert next(scores, None) is None and trainer.state.best_metric == 3.0
    best = trainer.state.best_model_checkpoint
    assert best.endswith("checkpoint-4")
    kept, after = load_file(f"{best}/model.safetensors"), trainer.model.policy.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in kept.items())
    assert [row["eval_score"] for row in trainer.state.log_history if "eval_score" in row][-1] == 1.0


def test_score_scale_can_come_from_the_reward_model_config(make_trainer, world):
    model, tokenizer = load_reward_model((str(world / "reward"), None))
    model.config.score_mean, model.config.score_std = 2.0, 4.0
    trainer = make_trainer(rewards.build(model, tokenizer, device="cpu"), score_scale="reward_model")
    episodes = trainer.collect_rollout()
    for episode in episodes:
        assert episode.reward == pytest.approx((episode.score - 2) / 4 - (not episode.ended))
    torch.testing.assert_close(trainer.model.critic.head.weight, model.score.weight / 4)
    with pytest.raises(ToolkitError, match="score_mean"):
        make_trainer(score_scale="reward_model")


def test_incompatible_value_model_is_refused(make_trainer, world):
    model, _ = load_reward_model((str(world / "reward"), None))
    model.config.max_position_embeddings = 32
    with pytest.raises(ToolkitError, match="a context as long as the policy's \\(64\\)"):
        make_trainer(early_letters, value_model=model)


def test_recipe_settings_match_ppo_config_and_its_defaults():
    defaults = {field.name: field.default for field in dataclasses.fields(PPOConfig)}
    shared = PpoTrainerSettings().model_dump(exclude={"schedule", "episodes", "answers_per_prompt"})
    assert shared == {name: defaults[name] for name in shared}


def test_sizes_from_epochs_and_steps(make_trainer):
    assert make_trainer(episodes=None, num_train_epochs=1).num_rollouts == 3  # 20 prompts, 8 a rollout
    assert make_trainer(episodes=None, max_steps=9).num_rollouts == 3
    trainer = make_trainer(per_device_train_batch_size=3)
    assert trainer.args.per_device_train_batch_size == 2 and trainer.args.gradient_accumulation_steps == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_in": "both"}, "reward or loss"),
        ({"top_p": 0.0}, "top_p"),
        ({"episodes": 33}, "not a multiple"),
        ({"minibatches": 3}, "take a multiple of 3"),
        ({"gamma": 1.5}, "out of its range"),
    ],
)
def test_unsupported_settings_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        PPOConfig(output_dir=str(tmp_path), use_cpu=True, **changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": Dataset.from_list([{"text": "a"}])}, "no column `prompt` but text"),
        ({"dataset": Dataset.from_list([{"prompt": "a"}]).to_iterable_dataset()}, "not a stream"),
        ({"max_new_tokens": 60}, "exceed the policy's context of 64"),
        ({"reward_weights": [1.0, 2.0]}, "1 rewards, 1 tokenizers and 2 weights"),
    ],
)
def test_incompatible_arguments_are_refused(make_trainer, options, message):
    with pytest.raises(ToolkitError) as caught:
        make_trainer(**options)
    assert message in f"{caught.value} {caught.value.fix}"


def test_reward_function_returning_too_few_rewards_is_named(make_trainer):
    def short(prompts, **columns):
        return [1.0]

    with pytest.raises(ToolkitError, match="for 8 answers") as caught:
        make_trainer(short).collect_rollout()
    assert caught.value.where == "reward function short"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("12345678", "returned '12345678'"),  # eight digits for eight answers
        (["1.0"] * 8, "returned ['1.0', "),
        (1.5, "returned 1.5"),
        (None, "returned None"),
        ([[1.0, 2.0]] * 8, "returned [[1.0, 2.0], "),
        (SystemExit(3), "called exit(3)"),
    ],
)
def test_reward_function_that_returns_no_numbers_is_named(make_trainer, returned, message):
    def odd(prompts, **columns):
        if isinstance(returned, BaseException):
            raise returned
        return returned

    with pytest.raises(ToolkitError) as caught:
        make_trainer(odd).collect_rollout()
    assert caught.value.where == "reward function odd" and message in caught.value.what


def test_model_instance_requires_a_tokenizer(tmp_path, world):
    policy, _ = load_causal_lm((str(world / "policy"), None))
    config = PPOConfig(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(ToolkitError, match="tokenizer"):
        PPOTrainer(policy, early_letters, config, Dataset.from_list([{"prompt": "a"}]))
