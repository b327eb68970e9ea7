"""Helpers that train and record what happens during training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from toolkit.config.schema import PpoRecipe
from toolkit.ppo import PPOTrainer, stage


class Killed(Exception):
    """Raised to simulate a killed process."""


def run_stage(opened, recipe: PpoRecipe, place: str = "runs") -> Path:
    """Run or resume the stage in `place` and return its folder."""
    with opened(recipe, place) as run:
        stage.run(recipe, run)
    return run.path


def run_twice(opened, recipe: PpoRecipe, monkeypatch) -> tuple[Path, Path]:
    """Return a PPO run, and the same run killed in its fourth rollout and resumed."""
    whole = run_stage(opened, recipe, "whole")
    optimize = PPOTrainer.compute_loss

    def cut_off(self, *arguments, **options):
        if self.progression.rollouts == 3:
            raise Killed
        return optimize(self, *arguments, **options)

    monkeypatch.setattr(PPOTrainer, "compute_loss", cut_off)
    with pytest.raises(Killed):
        run_stage(opened, recipe, "cut")
    monkeypatch.setattr(PPOTrainer, "compute_loss", optimize)
    torch.manual_seed(99)  # global random state has no effect
    return whole, run_stage(opened, recipe, "cut")


def train(trainer: PPOTrainer, spy: Callable[[dict], None] | None = None) -> list[dict]:
    """Train and return the logged rows; `spy(inputs)` receives every micro-batch before its loss."""
    if spy is not None:
        compute_loss = trainer.compute_loss

        def spied(model, inputs, **kwargs):
            spy(inputs)
            return compute_loss(model, inputs, **kwargs)

        trainer.compute_loss = spied
    trainer.train()
    return [row for row in trainer.state.log_history if "score" in row]
