"""What a training does before and after its steps shows its progress, if it takes more than a few seconds."""

from __future__ import annotations

import json

import pytest

from tests.chat_fixtures import load_recipe, run_stage
from toolkit.base import progress
from toolkit.stages import dpo, reward, sft

PAIRS = ("reading {folder}/preferences.jsonl", "pairs as tokens", "held-out pairs as tokens")
SHOWN = {
    "sft": (
        sft,
        "reading {folder}/conversations.jsonl",
        "conversations as tokens",
        "held-out conversations as tokens",
        "slow-sft: held-out answers",
        "slow-sft: samples",
    ),
    "reward": (
        reward,
        *PAIRS,
        "slow-reward: held-out pairs",
        "slow-reward: held-out pairs without end-of-text",
        "slow-reward: held-out pairs with padding",
    ),
    "dpo": (
        dpo,
        *PAIRS,
        "slow-dpo: held-out pairs, model",
        "slow-dpo: held-out pairs, reference",
        "slow-dpo: answers to held-out prompts",
        "slow-dpo: KL, model",
        "slow-dpo: KL, reference",
    ),
}
"""The module of each stage, and its passes."""


@pytest.mark.parametrize("stage", SHOWN)
def test_every_pass_shows_its_progress(folder, stage, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SLOW_SECONDS", 0.0)
    module, *expected = SHOWN[stage]
    data = "conversations" if stage == "sft" else "preferences"
    content = {
        "stage": stage, "model": f"{folder}/base", "data": {"name": f"{folder}/{data}.jsonl"},
        "batch_examples": 8, "device": "cpu", "precision": "fp32", "threads": 1,
        "trainer": {"max_steps": 1},
    }  # fmt: skip
    run_stage(module, folder, load_recipe(folder, f"slow-{stage}", json.dumps(content)))
    begun = {line.rpartition(": ")[0] for line in capsys.readouterr().err.splitlines()}
    assert {text.format(folder=folder) for text in expected} <= begun
