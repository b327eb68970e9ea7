"""Mutation tests: for each property of PPO, a planted fault makes the test of the property fail.

Every fault is one replacement in a copy of the package; the original text must occur exactly once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAULTS = {
    "1 ratio: read in other batches than the ones trained on": (
        "rollout.py",
        'store(part, "logprobs", logprobs)',
        'store(part, "logprobs", logprobs * 1.0001)',
        "test_properties.py",
        "ratio_is_one",
    ),
    "1 KL: a reference at another temperature": (
        "rollout.py",
        "temperature=self.args.temperature,\n            )",
        "temperature=1.1,\n            )",
        "test_properties.py",
        "ratio_is_one",
    ),
    "2 advantages: values of the padding": (
        "losses.py",
        "torch.where(mask[:, token], delta + gamma * gae_lambda * following, 0)",
        "delta + gamma * gae_lambda * following",
        "test_losses.py",
        "ragged",
    ),
    "3 score at the last column instead of the last token": (
        "losses.py",
        "last = mask.sum(dim=1) - 1",
        "last = torch.full_like(mask.sum(dim=1), mask.shape[1] - 1)",
        "test_properties.py",
        "sum_to_score",
    ),
    "3 KL twice": (
        "losses.py",
        "torch.where(mask, -kl_coefficient * kl, 0)",
        "torch.where(mask, -2 * kl_coefficient * kl, 0)",
        "test_properties.py",
        "sum_to_score",
    ),
    "4 penalty for those that ended": (
        "advantages.py",
        "0.0 if episode.ended else missing_end_penalty",
        "missing_end_penalty if episode.ended else 0.0",
        "test_properties.py",
        "only_by_the_penalty",
    ),
    "4 the value at the last token instead of after it": (
        "rollout.py",
        "for episode in truncated]) - 1",
        "for episode in truncated]) - 2",
        "test_properties.py",
        "bootstrap_adds",
    ),
    "5 padding is read: wrong positions": (
        "actor_critic.py",
        "row * width + len(prompt) - 1",
        "row * width + len(prompt)",
        "test_properties.py",
        "padding_content",
    ),
    "6 positions count the padding": (
        "../inference/decoding.py",
        "self.positions = (columns - (longest - lengths)[:, None]).clamp(min=0)",
        "self.positions = columns.expand(len(prompts), -1)",
        "test_properties.py",
        "left_padding",
    ),
    "7 a mean of the means of micro-batches": (
        "trainer.py",
        "loss * (self.accelerator.num_processes / num_items_in_batch)",
        "loss / len(logprobs)",
        "test_properties.py",
        "gradient",
    ),
    "8 the last minibatch is left out": (
        "trainer.py",
        "share = [self._episodes[index] for index in self.collector.process_share(indices)]",
        "share = [self._episodes[index] for index in self.collector.process_share(indices)][minibatch:]",
        "test_properties.py",
        "steps_are",
    ),
    "9 clipping without the minimum": (
        "losses.py",
        "return torch.maximum(free, clipped), clipped > free",
        "return clipped, clipped > free",
        "test_losses.py",
        "policy_loss",
    ),
    "10 the clipped value is not around the old one": (
        "losses.py",
        "limited = old_values +",
        "limited = returns +",
        "test_losses.py",
        "value_loss",
    ),
    "11 whitening leaves the mean": (
        "losses.py",
        "whitened + mean if keep_mean else whitened",
        "whitened + mean",
        "test_properties.py",
        "whitening",
    ),
    "11 whitening takes the mean of rewards": (
        "losses.py",
        "whitened + mean if keep_mean else whitened",
        "whitened",
        "test_properties.py",
        "whitening",
    ),
    "12 dropout in training": (
        "actor_critic.py",
        "super().train(False)",
        "super().train(mode)",
        "test_properties.py",
        "dropout",
    ),
    "13 the policy is read at temperature 1": (
        "actor_critic.py",
        "self.policy, self.critic, self.temperature = policy, critic, temperature",
        "self.policy, self.critic, self.temperature = policy, critic, 1",
        "test_properties.py",
        "full_tempered_distribution",
    ),
    "14 a reward model that pads with end-of-text": (
        "rewards.py",
        "in (None, tokenizer.eos_token_id)",
        "in (None,)",
        "test_properties.py",
        "end_of_text_as_padding",
    ),
    "15 every answer is scored as ended": (
        "rewards.py",
        "[episode.ended and not episode.unfinished for episode in episodes]",
        "[True for episode in episodes]",
        "test_properties.py",
        "only_for_finished_answers",
    ),
    "16 the critic is not saved": (
        "state.py",
        "model.critic.load_state_dict(load_file(folder / CRITIC))",
        "pass",
        "test_training.py",
        "bitwise",
    ),
    "16 the KL coefficient is not resumed": (
        "state.py",
        "Progression(**{**state,",
        "Progression(**{**state, 'kl_coefficient': 0.05,",
        "test_training.py",
        "bitwise",
    ),
    "16 saves in the middle of a rollout": (
        "trainer_base.py",
        "if self._rollout_open and self._steps_left and",
        "if False and self._steps_left and",
        "test_api.py",
        "deferred",
    ),
    "17 the reference with its adapters": (
        "rollout.py",
        "policy.disable_adapter() if self.reference is None else nullcontext()",
        "nullcontext()",
        "test_training.py",
        "adapters_disabled",
    ),
    "18 the KL with the wrong sign": (
        "losses.py",
        "torch.where(mask, -kl_coefficient * kl, 0)",
        "torch.where(mask, kl_coefficient * kl, 0)",
        "test_training.py",
        "closed_form and reward",
    ),
    "18 half of the KL": (
        "losses.py",
        "torch.where(mask, -kl_coefficient * kl, 0)",
        "torch.where(mask, -0.5 * kl_coefficient * kl, 0)",
        "test_training.py",
        "closed_form and reward",
    ),
    "19 the gradient is not limited": (
        "trainer_base.py",
        "norm = super().clip_gradient_norm(model)",
        "norm = self.accelerator.clip_grad_norm_(model.parameters(), 1e9)",
        "test_training.py",
        "gradient_norm",
    ),
    "19 fp32 where bf16 was asked for": (
        "rollout.py",
        '"bf16": self.args.bf16',
        '"bf16": False',
        "test_training.py",
        "bf16",
    ),
    "19 activations are kept": (
        "actor_critic.py",
        'mode and getattr(module, "gradient_checkpointing", False)',
        "False",
        "test_training.py",
        "gradient_checkpointing",
    ),
    "19 one learning rate for both": (
        "trainer_base.py",
        'self.args.value_learning_rate or settings["lr"]',
        'settings["lr"]',
        "test_training.py",
        "schedule",
    ),
    "20 each process reports its own answers": (
        "trainer.py",
        'sums = self.accelerator.reduce(own_sums, reduction="sum")',
        "sums = own_sums",
        "test_processes.py",
        "two_processes",
    ),
    "20 and 7: two processes without DDP's average": (
        "trainer.py",
        "self.accelerator.num_processes / num_items_in_batch",
        "1 / num_items_in_batch",
        "test_processes.py",
        "two_processes",
    ),
    "collapse: it goes on": (
        "collapse_monitor.py",
        'state["in_a_row"] >= PATIENCE and stop',
        "False",
        "test_collapse_monitor.py",
        "collapsed or stopped",
    ),
    "early stopping: the last weights": (
        "early_stopping.py",
        "self.trainer.model.policy.load_state_dict(load_file(self._file(self.best)), strict=False)",
        "load_file(self._file(self.best))",
        "test_early_stopping.py",
        "keeps_the_best_weights",
    ),
    "early stopping: a look that moves the policy": (
        "trainer.py",
        "rewards.score(self.eval_rewards, own)",
        "self.model.policy.lm_head.weight.data.mul_(1.001)",
        "test_early_stopping.py",
        "evaluation_changes",
    ),
    "rloo, grpo: padding counts as text": (
        "rloo_grpo.py",
        "model.register_forward_pre_hook(_with_positions, with_kwargs=True)",
        "pass",
        "test_rloo_grpo.py",
        "left_padded",
    ),
    "rloo, grpo: saved inside of a rollout": (
        "rloo_grpo.py",
        "if micro_steps(self) % in_rollout:",
        "if False:",
        "test_rloo_grpo.py",
        "waits_for_the_end",
    ),
    "rewards: weights without effect": (
        "rewards.py",
        "np.array([reward.weight for reward in rewards]) @ values",
        "values.sum(axis=0)",
        "test_reward_loading.py",
        "summed_with_weights",
    ),
}


def run(package: Path, tests: Path, selected: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "slow or not slow",
               str(tests), "-k", selected]  # fmt: skip
    return subprocess.run(command, cwd=package, capture_output=True, text=True, env={
        **os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"})  # fmt: skip


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for name in ("toolkit", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_makes_the_test_fail(copied, name):
    file, right, wrong, test, selected = FAULTS[name]
    path = copied / "toolkit/ppo" / file
    text = path.read_text(encoding="utf-8")
    assert text.count(right) == 1, f"{right!r} is in {file} {text.count(right)} times"
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    try:
        done = run(copied, copied / "tests/ppo" / test, selected)
    finally:
        path.write_text(text, encoding="utf-8")
    assert done.returncode == 1 and "failed" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_unmodified_copy_passes(copied):
    done = run(copied, copied / "tests/ppo/test_properties.py", "ratio_is_one or dropout")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    where = run(copied, copied / "tests/ppo/test_losses.py", "whiten")
    assert where.returncode == 0
    code = "import toolkit.ppo; print(toolkit.ppo.__file__)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=copied, capture_output=True, text=True, env={
        **os.environ, "PYTHONPATH": str(copied)})  # fmt: skip
    assert str(copied) in shown.stdout, shown.stdout + shown.stderr
