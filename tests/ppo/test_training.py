"""Complete trainings: resumption, adapters, a bandit with a known optimum, and effective settings."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig
from torch.utils.checkpoint import checkpoint as recompute
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, TrainerCallback

from tests.ppo.training import Killed, train
from toolkit.ppo import PPOConfig, losses
from toolkit.ppo.actor_critic import answer_logits
from toolkit.ppo.rollout import RolloutCollector
from toolkit.runtime.upstream_private import attention_implementation
from toolkit.stages.trainer_runner import checkpointing_key

CPU = torch.device("cpu")


# 16


@pytest.mark.parametrize("changes", [{}, {"critic": "shared", "kl_in": "loss"}, {"target_kl": 2e-4}])
def test_resumed_training_is_bitwise_identical(make_trainer, changes):
    changes = {
        "kl_target": 3.0,
        "entropy_coefficient": 0.01,
        "save_strategy": "steps",
        "save_steps": 5,
        **changes,
    }
    whole = make_trainer(**changes)
    whole.train()
    cut = make_trainer(**changes)

    def kill(episodes, number):
        if number == 3:
            raise Killed

    cut.observers.append(kill)
    with pytest.raises(Killed):
        cut.train()
    torch.manual_seed(99)  # global random state has no effect
    resumed = make_trainer(**changes)
    (folder,) = Path(cut.args.output_dir).glob("checkpoint-*")
    resumed.train(resume_from_checkpoint=str(folder))
    assert resumed.progression == whole.progression
    for first, second in ((whole.model, resumed.model), (whole.optimizer, resumed.optimizer)):
        first, second = first.state_dict(), second.state_dict()
        torch.testing.assert_close(first, second, atol=0, rtol=0)
    assert whole.lr_scheduler.state_dict() == resumed.lr_scheduler.state_dict()
    assert whole.samples == resumed.samples


# 17


def test_policy_with_adapters_disabled_is_the_base(make_trainer, world):
    adapters = LoraConfig(
        r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    trainer = make_trainer(peft_config=adapters, learning_rate=1e-2)
    assert trainer.ref_model is None
    rows = train(trainer)
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5) and abs(rows[-1]["kl"]) > 1e-3
    base = AutoModelForCausalLM.from_pretrained(world / "policy")
    batch = trainer.collector.batch(trainer._episodes)
    options = {"forbidden": trainer.model.forbidden, "temperature": 1.0}
    logits = answer_logits(base.eval(), batch, **options)
    reference = trainer.collector.reference_logprobs(batch)
    torch.testing.assert_close(reference, losses.target_logprobs(logits, batch.targets), atol=1e-6, rtol=0)
    trained = trainer.model(batch.ids, batch.index, batch.targets, False)[0]
    assert torch.abs(trained - reference).max() > 1e-2
    trained = {name for name, each in trainer.model.policy.named_parameters() if each.requires_grad}
    assert trained and all("lora" in name for name in trained)


# 18


def bandit(tokenizer) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=16, n_embd=32, n_layer=1, n_head=2, initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def arms(prompts, completions, completion_ids, **columns):
    return [float(ids[0] % 4) / 3 for ids in completion_ids]


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_policy_on_a_bandit_converges_to_the_closed_form(make_trainer, tiny_tokenizer, kl_in):
    """The optimum is pi* = pi_ref exp(r / beta) / Z; k3 in the loss converges to another policy."""
    beta = 0.5
    trainer = make_trainer(
        arms, [{"prompt": "a"}], bandit(tiny_tokenizer), processing_class=tiny_tokenizer,
        max_prompt_tokens=4, max_new_tokens=1, episodes=256 * 40, rollout_examples=256, minibatches=1,
        epochs=4, learning_rate=5e-3, kl_coefficient=beta, kl_in=kl_in, missing_end_penalty=0.0,
        normalize_scores=False, per_device_train_batch_size=256,
    )  # fmt: skip
    probabilities = []
    ids = torch.tensor([tiny_tokenizer("a")["input_ids"]])
    for model in (trainer.ref_model, trainer.model.policy):
        if model is trainer.model.policy:
            trainer.train()
        logits = model(ids).logits[0, -1].detach() + trainer.model.forbidden
        probabilities.append(logits.double().softmax(-1))
    reference, trained = probabilities
    reward = torch.tensor([token % 4 / 3 for token in range(len(reference))], dtype=torch.float64)
    best = reference * torch.exp(reward / beta)
    best /= best.sum()
    by_arm = [
        torch.zeros(4, dtype=torch.float64).index_add(0, torch.arange(len(best)) % 4, each)
        for each in (reference, best, trained)
    ]
    distance = float(torch.abs(by_arm[2] - by_arm[1]).sum() / 2)
    assert float(torch.abs(by_arm[0] - by_arm[1]).sum() / 2) > 0.2
    assert distance < 0.03 if kl_in == "reward" else distance > 0.05


# 19


def test_gradient_norm_is_clipped(make_trainer):
    norms = {}
    for limit in (0.01, 1e9):
        trainer, seen = make_trainer(max_grad_norm=limit), []

        class Look(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, model=None, seen=seen, **kwargs):
                seen.append(math.sqrt(sum(float((each.grad**2).sum()) for each in model.parameters())))

        trainer.add_callback(Look())
        trainer.train()
        norms[limit] = seen
    assert max(norms[0.01]) <= 0.01 * 1.001 and min(norms[1e9]) > 0.1


def test_bf16_is_active_during_training_and_restored_afterwards(make_trainer, monkeypatch):
    used = []
    reference_logprobs = RolloutCollector.reference_logprobs

    def spy(self, batch):
        used.append(attention_implementation(self.model.policy))
        return reference_logprobs(self, batch)

    monkeypatch.setattr(RolloutCollector, "reference_logprobs", spy)
    rows = [train(make_trainer(bf16=bf16)) for bf16 in (False, True)]
    assert used[0] == "sdpa" and used[-1] == "eager"
    exact, rounded = (row[0] for row in rows)
    assert exact["score"] == rounded["score"] and exact["grad_norm"] != rounded["grad_norm"]
    assert exact["grad_norm"] == pytest.approx(rounded["grad_norm"], rel=0.05)
    trainer = make_trainer(bf16=True)
    trainer.train()
    assert attention_implementation(trainer.model.policy) == "sdpa"
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


def test_gradient_checkpointing_does_not_change_weights(make_trainer, monkeypatch):
    calls = []
    models = {}
    for on in (False, True):
        trainer = make_trainer(**{checkpointing_key(PPOConfig): on})
        if on:
            enable = type(trainer.model).activation_checkpointing_enable

            def spied(self, enable=enable, **kwargs):
                enable(self, **kwargs)
                for model in self.transformers:
                    for block in model.base_model.h:
                        block._gradient_checkpointing_func = lambda *each, **options: (
                            calls.append(1) or recompute(*each, use_reentrant=False, **options)
                        )

            for name in ("gradient_checkpointing_enable", "activation_checkpointing_enable"):
                monkeypatch.setattr(type(trainer.model), name, spied)
        trainer.train()
        models[on] = trainer.model.state_dict()
        assert bool(calls) == on
    torch.testing.assert_close(models[False], models[True], atol=1e-6, rtol=0)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_learning_rates_follow_the_schedule(make_trainer, schedule):
    rates = []

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            rates.append([group["lr"] for group in optimizer.param_groups])

    trainer = make_trainer(lr_scheduler_type=schedule, value_learning_rate=2e-3, callbacks=[Look()])
    trainer.train()
    left = 1 - np.arange(16) / 16 if schedule == "linear" else np.ones(16)
    np.testing.assert_allclose(rates, np.stack([1e-3 * left, 2e-3 * left], axis=1))


def test_adapters_begin_with_the_seed_and_not_with_the_state_of_the_process(make_trainer):
    """They began with other weights in every process, so that no run with LoRA could be reproduced."""
    adapters = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    begun = {}
    for name, state, seed in (("first", 1, 0), ("again", 2, 0), ("other", 1, 7)):
        torch.manual_seed(state)
        trainer = make_trainer(peft_config=adapters, seed=seed)
        begun[name] = next(
            each.clone() for key, each in trainer.model.policy.named_parameters() if "lora_A" in key
        )
    assert torch.equal(begun["first"], begun["again"])
    assert not torch.equal(begun["first"], begun["other"])
