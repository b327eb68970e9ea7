"""Each setting of the ppo stage's trainer changes the trained weights."""

from __future__ import annotations

from typing import Any

import pytest

from toolkit.config import cross_checks
from toolkit.config.schema.ppo import PPO_ONLY_SETTINGS, PpoTrainerSettings
from toolkit.ppo import stage

SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-2,
    "episodes": 40,
    "rollout_examples": 16,
    "epochs": 1,
    "minibatches": 1,
    "kl_coefficient": 0.5,
    "clip_range": 0.001,
    "max_grad_norm": 0.01,
    "normalize_scores": False,
    "missing_end_penalty": 5.0,
    "max_prompt_tokens": 6,
    "max_new_tokens": 12,
    "temperature": 0.5,
    "top_k": 5,
    "top_p": 0.5,
    "schedule": "constant",
}
ONLY_PPO: dict[str, Any] = {
    "value_learning_rate": 1e-2,
    "kl_in": "loss",
    "kl_target": 0.5,
    "gamma": 0.5,
    "gae_lambda": 0.5,
    "value_clip_range": 0.001,
    "value_coefficient": 1.0,
    "entropy_coefficient": 0.1,
    "whiten_advantages": False,
    "whiten_rewards": True,
    "truncation": "bootstrap",
    "critic": "shared",
    "target_kl": 1e-9,
}
ELSEWHERE = {"guard", "score_scale"}
"""They act on a collapse, and on a reward model with known scores."""


def test_all_settings_are_tried():
    assert SETTINGS.keys() | ONLY_PPO.keys() | ELSEWHERE | {"answers_per_prompt"} == set(
        PpoTrainerSettings.model_fields
    )
    assert ONLY_PPO.keys() <= set(PPO_ONLY_SETTINGS)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "rloo", "grpo"])
def test_settings_change_the_weights(recipe, opened, algorithm):
    own = ONLY_PPO if algorithm == "ppo" else {"answers_per_prompt": 2}

    def trained(**changes: Any) -> bytes:
        made = recipe(algorithm=algorithm, threads=1, **changes)
        assert cross_checks.check(made) == []
        with opened(made, "-".join(["runs", *changes])) as run:
            stage.run(made, run)
            return (run.model_dir / "model.safetensors").read_bytes()

    usual = trained()
    for key, value in {**SETTINGS, **own}.items():
        assert trained(**{key: value}) != usual, key
