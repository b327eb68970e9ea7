"""What PPO overrides in transformers' Trainer: optimizer steps on rollouts, and checkpoints of two models.

The algorithm is in trainer.py; nothing here knows of rewards, advantages or losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerControl

from toolkit.base.errors import ToolkitError
from toolkit.ppo import state
from toolkit.ppo.actor_critic import ActorCritic
from toolkit.ppo.collapse_monitor import require_finite
from toolkit.ppo.config import PPOConfig
from toolkit.ppo.rollout import RolloutCollector
from toolkit.ppo.state import Progression
from toolkit.runtime.upstream_private import TrainerHooks

REQUESTS = ("should_log", "should_save", "should_evaluate", "should_training_stop", "should_epoch_stop")


class DeferredRequests(TrainerHooks):
    """Mixin of Trainer: what callbacks request in the middle of a rollout is done at its end.

    So a checkpoint holds no partly used answers, and a training that resumes from it is bitwise the same.
    """

    control: TrainerControl
    _deferred: frozenset[str] = frozenset()

    def defer_requests(self) -> None:
        """Take the requests off `control`, and remember them."""
        requested = {name for name in REQUESTS if getattr(self.control, name)}
        self._deferred |= requested
        for name in requested:
            setattr(self.control, name, False)

    def restore_requests(self, *further: str) -> None:
        """Put the deferred requests back, and `further` ones."""
        for name in self._deferred.union(further):
            setattr(self.control, name, True)
        self._deferred = frozenset()


class RolloutTrainer(DeferredRequests, Trainer):
    """Trainer whose optimizer steps come in rollouts: `args.steps_per_rollout` of an `ActorCritic` on each.

    Subclasses implement `begin_rollout`, `minibatch_inputs`, `stops_early` and `end_rollout`.

    Args:
        num_rollouts: of the whole training.
        trainer_arguments: those of Trainer.

    Raises:
        ToolkitError: FSDP or DeepSpeed, which shard the weights.
    """

    args: PPOConfig
    model: ActorCritic
    collector: RolloutCollector

    def __init__(self, *, num_rollouts: int, progression: Progression, **trainer_arguments: Any):
        self.num_rollouts, self.progression = num_rollouts, progression
        self._metrics_since_log: dict[str, list[float]] = {}
        self._rollout_open = False  # optimizer steps on a rollout are under way
        super().__init__(**trainer_arguments)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by all tokens itself
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ToolkitError(
                "PPO keeps all weights on every process; FSDP and DeepSpeed do not",
                fix="set distributed_type: MULTI_GPU in the accelerate configuration",
            )

    # What the algorithm implements

    def begin_rollout(self) -> None:
        """Collect the next rollout."""
        raise NotImplementedError

    def minibatch_inputs(self, epoch: int, minibatch: int) -> tuple[list[dict[str, torch.Tensor]], int]:
        """Return this process's micro-batches of a minibatch, and the answer tokens of all processes."""
        raise NotImplementedError

    def stops_early(self) -> bool:
        """Return whether the remaining optimizer steps on this rollout are skipped."""
        raise NotImplementedError

    def end_rollout(self) -> None:
        """Update the progression after the optimizer steps on a rollout."""
        raise NotImplementedError

    @property
    def finished(self) -> bool:
        """Whether all rollouts are done, or an observer has ended the training."""
        return self.progression.over or self.progression.rollouts == self.num_rollouts

    # Optimizer steps on rollouts

    def get_train_dataloader(self) -> DataLoader:
        """Return a placeholder for each micro-batch of the training; `get_batch_samples` replaces them."""
        self._next_step = self.progression.rollouts * self.args.steps_per_rollout
        return DataLoader(range(self.args.max_steps * self.args.gradient_accumulation_steps), collate_fn=list)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, int | None]:
        """Return the micro-batches of the next optimizer step, and its answer tokens on all processes.

        There are none once `stops_early` has ended the rollout.
        """
        step, self._next_step = self._next_step % self.args.steps_per_rollout, self._next_step + 1
        if step == 0 and not self.finished:
            self.begin_rollout()
            self._rollout_open = True
        if not self._rollout_open:
            return [], None
        self._steps_left = self.args.steps_per_rollout - step - 1  # on this rollout
        return self.minibatch_inputs(*divmod(step, self.args.minibatches))

    def log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Do what callbacks requested, at the end of a rollout; defer it before."""
        if self._rollout_open and self._steps_left and not self.stops_early():
            self.defer_requests()
            return
        if self._rollout_open:
            for _ in range(self._steps_left):  # skipped steps lower the learning rate, too
                self.lr_scheduler.step()
            self._rollout_open = False
            self.end_rollout()
            saved = ("should_save",) if self.args.save_strategy == "steps" else ()
            self.restore_requests(*(("should_log", "should_training_stop", *saved) if self.finished else ()))
        super().log_save_evaluate(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self.collector.fast_math():
            return super().training_step(*args, **kwargs)

    def clip_gradient_norm(self, model: nn.Module) -> torch.Tensor:
        norm = super().clip_gradient_norm(model)
        self.require_finite([float(norm)], "gradient norm")
        return norm

    def require_finite(self, values: Sequence[float], name: str) -> None:
        """Raise ToolkitError if a value is NaN or infinite."""
        require_finite(values, name, rollout=self.progression.rollouts + 1)

    # Metrics

    def record_metrics(self, **metrics: float) -> None:
        """Add the metrics of a rollout to the next log, which has their means."""
        for name, value in metrics.items():
            self._metrics_since_log.setdefault(name, []).append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            means = {name: float(np.mean(values)) for name, values in self._metrics_since_log.items()}
            logs = {**logs, **means, "episodes": self.progression.rollouts * self.args.rollout_examples}
            self._metrics_since_log = {}
        super().log(logs, start_time)

    # Policy and critic

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the optimizer of `args.optim`, with a group for the policy and one for the critic."""
        if self.optimizer is None:
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            rates = (settings["lr"], self.args.value_learning_rate or settings["lr"])
            groups = self.model.parameter_groups(*rates)
            settings.setdefault("weight_decay", self.args.weight_decay)
            self.optimizer = optimizer_class(groups, **settings)
        return self.optimizer

    def write_model(self, folder: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write the policy (or only its adapters) for `from_pretrained`, and its tokenizer."""
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

    def load_checkpoint(self, folder: str, model: nn.Module | None = None) -> None:
        self.progression = state.read(Path(folder), self.model)
