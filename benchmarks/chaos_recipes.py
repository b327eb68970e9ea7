"""The tiny recipes of `benchmarks/chaos.py`: every stage, and settings that a stage keeps state for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FOLDER = "chaos"
STORIES = {"name": "storyworld", "world": "small", "config": "stories"}
PROMPTS = {"name": "storyworld", "world": "small", "config": "prompts"}
CHATS = {**STORIES, "config": "conversations", "examples": 48, "held_out_examples": 8}
PAIRS = {"name": "runs/chaos/preferences"}

_TOKENIZER = {
    "stage": "tokenizer",
    "data": [{**STORIES, "examples": 60}, {**STORIES, "config": "turns", "examples": 120, "weight": 2}],
    "vocab_size": 600,
}
_CORPUS = {
    "stage": "corpus",
    "tokenizer": "runs/chaos/tokenizer",
    "data": {**STORIES, "examples": 120, "held_out_examples": 12},
    "shard_tokens": 1500,
    "workers": 1,
}
_STEP = 256
_PRETRAIN = {
    "stage": "pretrain",
    "tokens": "runs/chaos/corpus",
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 128, "dropout": 0.1},
    "sequence_length": 64,
    "batch_tokens": _STEP,
    "train_tokens": _STEP * 20,
    "checkpoint_every_tokens": _STEP * 4,
    "evaluate_every_tokens": _STEP * 7,
    "evaluate_documents": 6,
    "evaluate_tokens": 512,
    "log_every_steps": 3,
    "compile": False,
    "precision": "fp32",
    "samples": {"prompts": ["A story"], "max_new_tokens": 8},
}
_LLAMA = {
    "architecture": "llama",
    "n_layer": 1,
    "n_head": 2,
    "n_kv_head": 1,
    "n_embd": 16,
    "n_positions": 128,
}
_TRAINING = {"batch_examples": 8, "checkpoint_every_steps": 3, "log_every_steps": 2, "precision": "fp32"}
_TRAINER = {"learning_rate": 1e-3, "max_steps": 10, "max_length": 96}
_SFT = {"stage": "sft", "model": "runs/chaos/pretrain", "data": CHATS, **_TRAINING, "trainer": _TRAINER}
_PREFERENCES = {
    "stage": "preferences",
    "models": ["runs/chaos/sft"],
    "data": {**PROMPTS, "examples": 48},
    "max_new_tokens": 12,
    "batch_examples": 8,
    "annotator": {"biases": {"length": 0.3}},
}
_REWARD = {"stage": "reward", "model": "runs/chaos/sft", "data": PAIRS, **_TRAINING, "trainer": _TRAINER}
_DPO = {"stage": "dpo", "model": "runs/chaos/sft", "data": PAIRS, **_TRAINING, "trainer": _TRAINER}
_PPO_TRAINER = {
    "episodes": 64, "rollout_examples": 8, "epochs": 2, "minibatches": 2, "learning_rate": 1e-3,
    "max_new_tokens": 8, "max_prompt_tokens": 64,
}  # fmt: skip
_PPO = {
    "stage": "ppo",
    "model": "runs/chaos/sft",
    "reward_model": "runs/chaos/reward",
    "data": {**PROMPTS, "examples": 40},
    "precision": "fp32",
    "checkpoint_every_steps": 2,
    "trainer": {**_PPO_TRAINER, "guard": "off"},
}
_EVALUATE = {
    "stage": "evaluate",
    "models": ["runs/chaos/sft", "runs/chaos/dpo"],
    "perplexity": {"tokens": "runs/chaos/corpus"},
    "data": {**PROMPTS, "held_out_examples": 16},
    "win_rate": {"baseline": "runs/chaos/sft", "max_new_tokens": 8, "bootstrap_samples": 200},
    "samples": ["Write a story."],
}
_LORA = {"r": 2, "alpha": 4.0, "dropout": 0.1}
_GROUPS = {**_PPO_TRAINER, "answers_per_prompt": 4}

_VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tokenizer": (_TOKENIZER, {}),
    "corpus": (_CORPUS, {}),
    "corpus, 2 workers": (_CORPUS, {"workers": 2}),
    "pretrain": (_PRETRAIN, {}),
    "sft": (_SFT, {}),
    "preferences": (_PREFERENCES, {}),
    "reward": (_REWARD, {}),
    "dpo": (_DPO, {}),
    "ppo": (_PPO, {}),
    "evaluate": (_EVALUATE, {}),
    "pretrain, Muon, cosine, kept weights": (
        _PRETRAIN,
        {
            "optimizer": {"name": "muon"},
            "schedule": {"name": "cosine", "warmup_tokens": _STEP * 3},
            "keep_weights_at_steps": "log",
            "keep_checkpoints": 2,
            "keep_every_tokens": _STEP * 8,
        },
    ),
    "pretrain, Llama, exact, accumulation": (
        _PRETRAIN,
        {
            "model": _LLAMA,
            "exact": True,
            "micro_batch_tokens": 128,
            "schedule": {"name": "wsd", "decay_tokens": _STEP * 6},
        },
    ),
    "pretrain, saves in the foreground, documents apart": (
        _PRETRAIN,
        {"speed": {"background_saves": False, "prefetch_batches": 0}, "separate_documents": True},
    ),
    "pretrain from a checkpoint": (_PRETRAIN, {"model": "runs/chaos/pretrain", "guard": {"z_score": 50.0}}),
    "pretrain, bf16, length warm-up": (
        _PRETRAIN,
        {"precision": "bf16", "length_warmup": [{"tokens": _STEP * 6, "sequence_length": 32}]},
    ),
    "sft, accumulation, cosine, NEFTune": (
        _SFT,
        {
            "micro_batch_examples": 2,
            "trainer": {
                **_TRAINER,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 3,
                "neftune_noise_alpha": 5.0,
            },
        },
    ),
    "sft, LoRA": (_SFT, {"lora": _LORA}),
    "sft, 2 data-loader workers, by length": (
        _SFT,
        {"trainer": {**_TRAINER, "dataloader_num_workers": 2, "train_sampling_strategy": "group_by_length"}},
    ),
    "sft, Adafactor, mixed data, 2 epochs": (
        _SFT,
        {
            "data": [CHATS, {**CHATS, "flawed_share": 0.5, "weight": 2}],
            "trainer": {"learning_rate": 1e-3, "num_train_epochs": 2, "max_length": 96, "optim": "adafactor"},
        },
    ),
    "sft, bf16, last answer": (_SFT, {"precision": "bf16", "multi_turn": "last"}),
    "preferences, 2 workers, best with worst": (
        _PREFERENCES,
        {"workers": 2, "answers_per_prompt": 4, "compare": "best_with_worst"},
    ),
    "reward, LoRA": (_REWARD, {"lora": _LORA}),
    "dpo, reference synchronized": (
        _DPO,
        {
            "trainer": {
                **_TRAINER,
                "sync_ref_model": True,
                "ref_model_sync_steps": 2,
                "ref_model_mixup_alpha": 0.6,
            }
        },
    ),
    "dpo, LoRA": (_DPO, {"lora": _LORA}),
    "dpo, reference precomputed, SGD": (
        _DPO,
        {
            "trainer": {
                **_TRAINER,
                "precompute_ref_log_probs": True,
                "optim": "sgd",
                "lr_scheduler_type": "constant",
            }
        },
    ),
    "ppo, shared critic, adaptive KL": (
        _PPO,
        {"preset": "fast", "trainer": {**_PPO_TRAINER, "guard": "warn", "kl_target": 1.0}},
    ),
    "ppo, LoRA": (_PPO, {"lora": _LORA}),
    "ppo, early stopping": (
        _PPO,
        {"early_stopping": {"judge": "gold", "every_rollouts": 1, "prompts": 8, "patience": 5}},
    ),
    "ppo, RLOO": (_PPO, {"algorithm": "rloo", "trainer": _GROUPS}),
    "ppo, GRPO": (_PPO, {"algorithm": "grpo", "trainer": _GROUPS}),
    "evaluate, reward model as judge, best of 2": (
        _EVALUATE,
        {
            "win_rate": {
                "baseline": "runs/chaos/sft",
                "max_new_tokens": 8,
                "bootstrap_samples": 200,
                "judge": "runs/chaos/reward",
                "best_of": {"reward_model": "runs/chaos/reward", "counts": [2]},
            }
        },
    ),
}
RECIPES: dict[str, dict[str, Any]] = {
    name: {"device": "cpu", "threads": 1, **base, **changes} for name, (base, changes) in _VARIANTS.items()
}
"""Name in the table -> recipe; a stage's first entry has its name, and the recipes after it refer to it."""
PARENTS = {
    "tokenizer": (),
    "corpus": ("tokenizer",),
    "pretrain": ("corpus",),
    "sft": ("pretrain",),
    "preferences": ("sft",),
    "reward": ("sft", "preferences"),
    "dpo": ("sft", "preferences"),
    "ppo": ("sft", "reward"),
    "evaluate": ("corpus", "sft", "dpo", "reward"),
}
"""Runs that a stage's recipes refer to."""


def stage(name: str) -> str:
    """Return the stage of a recipe."""
    return str(RECIPES[name]["stage"])


def stem(name: str) -> str:
    """Return the name of a recipe's file and run: `sft, LoRA` is `sft-lora`."""
    return name.replace(",", "").replace(" ", "-").lower()


def ancestors(name: str) -> list[str]:
    """Return the recipes whose runs a recipe needs, directly or not, in an order in which they can run."""
    found: list[str] = []
    parents = ["pretrain"] if name == "pretrain from a checkpoint" else []
    for parent in (*PARENTS[stage(name)], *parents):
        found += [each for each in (*ancestors(parent), parent) if each not in found]
    return found


def write(folder: Path) -> None:
    """Write all recipes below `folder/recipes/chaos`."""
    place = folder / "recipes" / FOLDER
    place.mkdir(parents=True)
    for name, recipe in RECIPES.items():
        (place / f"{stem(name)}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
