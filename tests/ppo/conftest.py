"""Fixtures: a byte-level policy and reward model, a file of prompts, and runs of the ppo stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2ForSequenceClassification

from toolkit.config.loader import LoadedRecipe
from toolkit.config.schema import ModelSettings, PpoRecipe
from toolkit.data import files
from toolkit.models.gpt2 import build
from toolkit.models.loading import save_model
from toolkit.ppo import PPOConfig, PPOTrainer
from toolkit.runs.opening import open_run

SETTINGS = {
    "episodes": 32,
    "rollout_examples": 8,
    "epochs": 2,
    "minibatches": 2,
    "learning_rate": 1e-3,
    "max_prompt_tokens": 16,
    "max_new_tokens": 24,
}


@pytest.fixture(scope="session")
def world(tmp_path_factory, tiny_tokenizer) -> Path:
    """Create policy/, reward/ and prompts.jsonl; the policy ends a third of its answers within 24 tokens."""
    folder = tmp_path_factory.mktemp("ppo")
    shape = ModelSettings(n_layer=2, n_head=2, n_embd=32, n_positions=64, dropout=0.1)
    end_id, pad_id = tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id
    policy = build(shape, vocab_size=len(tiny_tokenizer), seed=1, end_id=end_id, pad_id=pad_id)
    with torch.no_grad():  # the last feature of the hidden state is constant, and only end-of-text uses it
        policy.transformer.ln_f.weight[-1] = 0
        policy.transformer.ln_f.bias[-1] = 1
        policy.transformer.wte.weight[:, -1] = 0
        policy.transformer.wte.weight[end_id, -1] = 1.6
    save_model(policy, tiny_tokenizer, folder / "policy")
    _save_reward_model(folder / "reward", tiny_tokenizer, seed=2)
    _save_reward_model(folder / "judge", tiny_tokenizer, seed=11)
    prompts = [
        {"prompt": [{"role": "user", "content": f"{word} {number}"}]}
        for number in range(20)
        for word in ("Say", "Count to")
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    return folder


def _save_reward_model(folder: Path, tokenizer, *, seed: int) -> None:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=320, n_positions=64, n_embd=32, n_layer=2, n_head=2, num_labels=1, initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    save_model(GPT2ForSequenceClassification(config), tokenizer, folder)


@pytest.fixture
def judge(world) -> str:
    """Return a reward model that is not used for training."""
    return str(world / "judge")


@pytest.fixture
def recipe(world) -> Callable[..., PpoRecipe]:
    """Return a small recipe; keywords set recipe keys or `trainer` keys."""

    def make(**changes) -> PpoRecipe:
        own = {key: changes.pop(key) for key in list(changes) if key in PpoRecipe.model_fields}
        data = {"name": str(world / "prompts.jsonl")}
        settings = {"precision": "fp32", "device": "cpu", "seed": 3, "data": data, **own}
        return PpoRecipe(
            stage="ppo",
            model=str(world / "policy"),
            reward_model=str(world / "reward"),
            trainer={**SETTINGS, **changes},
            **settings,
        )

    return make


@pytest.fixture
def opened(tmp_path):
    """Open a run of a recipe in tmp_path/<place>."""

    @contextmanager
    def open_it(recipe: PpoRecipe, place: str = "runs"):
        loaded = LoadedRecipe(tmp_path / "ppo.yaml", "t/ppo", recipe, "stage: ppo\n", {})
        with open_run(loaded, runs_dir=tmp_path / place, data=files.digests(recipe)) as run:
            yield run

    return open_it


@pytest.fixture
def make_trainer(world, tmp_path) -> Callable[..., PPOTrainer]:
    """Create a trainer; keywords go to PPOConfig or to the trainer."""
    made = []

    def make(reward_funcs=None, dataset=None, policy=None, **changes) -> PPOTrainer:
        own = {
            name: changes.pop(name)
            for name in (
                "eval_dataset",
                "eval_reward_funcs",
                "ref_model",
                "value_model",
                "callbacks",
                "peft_config",
                "processing_class",
            )
            if name in changes
        }
        settings = {**SETTINGS, "per_device_train_batch_size": 16, "save_strategy": "no", **changes}
        made.append(tmp_path / f"trainer-{len(made)}")
        config = PPOConfig(
            output_dir=str(made[-1]), use_cpu=True, report_to="none", disable_tqdm=True, **settings
        )
        dataset = dataset or Dataset.from_list(
            [{"prompt": [{"role": "user", "content": f"Say {number}"}]} for number in range(20)]
        )
        policy = str(world / "policy") if policy is None else policy
        reward = str(world / "reward") if reward_funcs is None else reward_funcs
        return PPOTrainer(policy, reward, config, dataset, **own)

    return make
