"""Train, and look at what happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from toolkit.ppo import PPOTrainer


def train(trainer: PPOTrainer, spy: Callable[[dict], None] | None = None) -> list[dict]:
    """The log's rows of the rollouts; `spy(inputs)` sees every micro-batch before its loss is computed."""
    if spy is not None:
        compute_loss = trainer.compute_loss

        def spied(model, inputs, **kwargs):
            spy(inputs)
            return compute_loss(model, inputs, **kwargs)

        trainer.compute_loss = spied
    trainer.train()
    return [row for row in trainer.state.log_history if "score" in row]
