"""What transformers' Trainer has to learn to train on rollouts, and to train two models at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerControl

from toolkit.ppo import state
from toolkit.ppo.rollout import Progression
from toolkit.runtime.upstream_private import TrainerHooks

ASKED = ("should_log", "should_save", "should_evaluate", "should_training_stop", "should_epoch_stop")


class BetweenRollouts(TrainerHooks):
    """Mixin of Trainer: what callbacks ask for while a rollout is trained on is done at its end.

    So a checkpoint needs no half-used answers, and a training that goes on from it is the same, bitwise.
    """

    control: TrainerControl
    _asked: frozenset[str] = frozenset()

    def hold_back(self) -> None:
        """Inside of a rollout: remember what was asked for."""
        asked = {name for name in ASKED if getattr(self.control, name)}
        self._asked |= asked
        for name in asked:
            setattr(self.control, name, False)

    def let_go(self, *more: str) -> None:
        """At its end: ask for it again, and for more."""
        for name in self._asked.union(more):
            setattr(self.control, name, True)
        self._asked = frozenset()


class ActorCriticTrainer(BetweenRollouts, Trainer):
    """Trainer of an `ActorCritic`: learning rates apart, and checkpoints that hold the policy as a model."""

    progression: Progression

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer of `optim`, with a group for the policy and one for the critic."""
        if self.optimizer is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            rates = (settings["lr"], self.args.value_learning_rate or settings["lr"])
            groups = self.model.parameter_groups(*rates)
            settings.setdefault("weight_decay", self.args.weight_decay)
            self.optimizer = kind(groups, **settings)
        return self.optimizer

    def write_model(self, folder: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The policy as `from_pretrained` reads it (adapters alone where it has some), and its tokenizer."""
        folder = folder or self.args.output_dir
        if self.args.should_save:
            self.model.policy.save_pretrained(folder)
            self.processing_class.save_pretrained(folder)

    def write_optimizer(self, folder: str) -> None:
        super().write_optimizer(folder)
        if self.args.should_save:
            state.write(Path(folder), self.model, self.progression)

    def load_best_model(self) -> None:
        state.read(Path(self.state.best_model_checkpoint), self.model)

    def load_checkpoint(self, folder: str, model: Any = None) -> None:
        self.progression = state.read(Path(folder), self.model)
