"""Proximal policy optimization on transformers' Trainer: collect, score, advantages, losses, update.

Schulman et al., 2017, with the details of Huang et al., 2024 (https://arxiv.org/abs/2403.17031). One rollout
samples `rollout_examples` answers; `epochs` * `minibatches` optimizer steps, which are Trainer's, follow.
Logging, evaluation, saving and stopping happen between rollouts only (trainer_base.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.utils import logging

from toolkit.base.rng import derive
from toolkit.inference.sampling import forbidden_bias
from toolkit.models.kernels import fuse_gelu
from toolkit.models.loading import load_causal_lm
from toolkit.models.stop_tokens import StopTokens
from toolkit.ppo import collapse_monitor, losses, rewards
from toolkit.ppo.actor_critic import ActorCritic, build_critic, unwrapped
from toolkit.ppo.advantages import ScoreScale, set_advantages, set_rewards
from toolkit.ppo.config import PPOConfig, require_usable
from toolkit.ppo.episode import Episode, gather, mean_outcome, micro_batches
from toolkit.ppo.rewards import RewardLike, Tokenizer
from toolkit.ppo.rollout import RolloutCollector
from toolkit.ppo.state import Progression
from toolkit.ppo.trainer_base import RolloutTrainer
from toolkit.runtime import devices

logger = logging.get_logger(__name__)
LOSS_METRICS = ("policy_loss", "value_loss", "clip_fraction", "value_clip_fraction", "policy_kl")


class PPOTrainer(RolloutTrainer):
    """PPO for prompt-only datasets, with the arguments of TRL's online trainers.

    Args:
        model: the policy: a folder or hub id, a causal language model, or one with PEFT adapters.
        reward_funcs: a reward model (folder, hub id, model), a function
            `(prompts, completions, completion_ids, **columns) -> list[float]`, or a list of these.
        train_dataset: a column `prompt`, of texts or of conversations; functions get the other columns.
        processing_class: the policy's tokenizer; default the one in the folder or hub id of `model`.
        reward_processing_classes: the tokenizer of each reward model that is given as a model.
        eval_reward_funcs: the held-out judge that `evaluate` asks instead; folders, hub ids, functions.
        ref_model: what KL is measured to; default a copy of the policy, or its base where it has adapters.
        value_model: a reward model that initialises the critic; default the reward model where it is the
            only reward and has the policy's vocabulary, else the policy with a new head.
        peft_config: adapters to add to `model`; only they are trained.

    Raises:
        ToolkitError: models, data or sizes that do not fit each other; later, a training that collapsed.
    """

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        reward_funcs: RewardLike | Sequence[RewardLike],
        args: PPOConfig,
        train_dataset: Dataset,
        eval_dataset: Dataset | None = None,
        *,
        processing_class: PreTrainedTokenizerBase | None = None,
        reward_processing_classes: Tokenizer | Sequence[Tokenizer] = None,
        eval_reward_funcs: RewardLike | Sequence[RewardLike] | None = None,
        ref_model: PreTrainedModel | None = None,
        value_model: PreTrainedModel | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LRScheduler | None] = (None, None),
        peft_config: PeftConfig | None = None,
    ):
        if isinstance(model, str):
            model, tokenizer = load_causal_lm((model, None))
            processing_class = processing_class or tokenizer
        require_usable(model, processing_class, train_dataset, args)
        if peft_config is not None:
            with torch.random.fork_rng():
                torch.manual_seed(derive(args.seed, "adapters") % 2**63)
                model = get_peft_model(model, peft_config)
        weights = args.reward_weights
        self.rewards = rewards.build(reward_funcs, reward_processing_classes, weights, device=args.device)
        self.eval_rewards = rewards.build(eval_reward_funcs or self.rewards, device=args.device)
        from_model = args.score_scale == "reward_model"
        self.score_scale = rewards.score_scale(self.rewards) if from_model else None
        critic, self.critic_knows_scores = build_critic(
            model,
            processing_class,
            rewards.value_model(value_model, self.rewards),
            shared=args.critic == "shared",
        )
        ends = StopTokens.of(unwrapped(model), processing_class).ids
        forbidden = forbidden_bias(unwrapped(model), pad_id=processing_class.pad_token_id, end_id=ends)
        if ref_model is None and not isinstance(model, PeftModel):
            ref_model = copy.deepcopy(model)
        self.ref_model = None if ref_model is None else ref_model.requires_grad_(False).eval().to(args.device)
        fuse_gelu(model, critic, self.ref_model, *(reward.judge for reward in self.rewards))
        num_rollouts = args.num_rollouts(len(train_dataset))
        args.max_steps = num_rollouts * args.steps_per_rollout
        self.samples: list[dict[str, Any]] = []
        """A few prompts and answers of the newest rollout."""
        self.observers: list[Callable[[list[Episode], int], None]] = []
        """Called with the episodes and the number of each rollout at its end, on every process."""
        super().__init__(
            num_rollouts=num_rollouts,
            progression=Progression(kl_coefficient=args.kl_coefficient),
            model=ActorCritic(model, critic, forbidden=forbidden, temperature=args.temperature),
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.collector = RolloutCollector(
            self.model,
            self.ref_model,
            tokenizer=processing_class,
            prompts=train_dataset,
            args=args,
            accelerator=self.accelerator,
        )

    # Collect, score, advantages

    def begin_rollout(self) -> None:
        self._episodes = self.collect_rollout()
        self._loss_metrics = TokenMeans(LOSS_METRICS, self.accelerator)

    def collect_rollout(self) -> list[Episode]:
        """Sample the next rollout, score it, and compute its advantages; the same on every process."""
        args, progression, number = self.args, self.progression, self.progression.rollouts + 1
        episodes = gather(rewards.score(self.rewards, self.collector.sample(number)))
        if number == 1 and args.normalize_scores:
            self._set_score_scale(episodes)
        set_rewards(episodes, progression.scale, missing_end_penalty=args.missing_end_penalty)
        episodes = gather(self.collector.add_model_outputs(episodes, number))
        metrics = set_advantages(episodes, args, kl_coefficient=progression.kl_coefficient)
        self.require_finite([metrics["kl"], metrics["reward"]], "KL")
        self.record_metrics(**metrics, kl_coefficient=progression.kl_coefficient)
        if args.guard != "off":
            self._check_collapse(episodes, metrics)
        return episodes

    def _set_score_scale(self, episodes: list[Episode]) -> None:
        """Fix the scale of the whole training; a critic that predicts scores changes its unit with it."""
        scale = self.score_scale or ScoreScale.of([episode.score for episode in episodes])
        self.progression.scale = scale
        if self.critic_knows_scores:
            self.model.critic.rescale(mean=scale.mean, std=scale.std)

    def _check_collapse(self, episodes: list[Episode], metrics: dict[str, float]) -> None:
        """Warn of degenerate answers; raise ToolkitError on a collapse where `guard` is `stop`."""
        diversity, warnings = collapse_monitor.check_rollout(
            self.progression.guard,
            episodes,
            metrics,
            rollout=self.progression.rollouts + 1,
            stop=self.args.guard == "stop",
        )
        self.record_metrics(**diversity)
        for text in warnings if self.is_world_process_zero() else ():
            logger.warning(text)

    # Losses, update

    def minibatch_inputs(self, epoch: int, minibatch: int) -> tuple[list[dict[str, torch.Tensor]], int]:
        indices = self.collector.minibatches(self.progression.rollouts + 1, epoch)[minibatch]
        tokens = sum(len(self._episodes[index].answer_ids) for index in indices)
        share = [self._episodes[index] for index in self.collector.process_share(indices)]
        parts = micro_batches(share, self.args.per_device_train_batch_size)
        return [self.collector.training_inputs(part) for part in parts], tokens

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> torch.Tensor:
        """Return the sum over the answer tokens, divided by those of the minibatch on all processes.

        So the gradient depends neither on the micro-batches nor on the number of processes.
        """
        args = self.args
        with_entropy = args.entropy_coefficient > 0
        logprobs, values, entropies = model(inputs["ids"], inputs["index"], inputs["targets"], with_entropy)
        policy_loss, clipped = losses.policy_losses(
            logprobs, inputs["old_logprobs"], inputs["old_advantages"], clip_range=args.clip_range
        )
        value_loss, value_clipped = losses.value_losses(
            values, inputs["old_values"], inputs["old_returns"], clip_range=args.value_clip_range
        )
        loss = policy_loss.sum() + args.value_coefficient * value_loss.sum()
        if entropies is not None:
            loss = loss - args.entropy_coefficient * entropies.sum()
        if args.kl_in == "loss":
            penalties = losses.k3(logprobs, inputs["old_reference_logprobs"])
            loss = loss + self.progression.kl_coefficient * penalties.sum()
        policy_kl = losses.k3(inputs["old_logprobs"], logprobs.detach())  # estimates KL(old || new)
        self._loss_metrics.add(policy_loss.detach(), value_loss.detach(), clipped, value_clipped, policy_kl)
        # DDP averages over processes
        return loss * (self.accelerator.num_processes / num_items_in_batch)

    def stops_early(self) -> bool:
        """Return whether the last optimizer step moved the policy further than `target_kl`."""
        target = self.args.target_kl
        return target is not None and self._loss_metrics.newest_means()["policy_kl"] > target

    def end_rollout(self) -> None:
        self.record_metrics(**self._loss_metrics.means())
        progression, args = self.progression, self.args
        if args.kl_target is not None:
            progression.kl_coefficient = losses.next_kl_coefficient(
                progression.kl_coefficient, kl=self._metrics_since_log["kl"][-1], target=args.kl_target
            )
        progression.rollouts += 1
        self.state.epoch = progression.rollouts * args.rollout_examples / len(self.train_dataset)
        self.samples = [episode.as_sample() for episode in self._episodes[:3]]
        for observer in self.observers:
            observer(self._episodes, progression.rollouts)

    # Evaluation

    def evaluation_episodes(self, dataset: Dataset) -> list[Episode]:
        """Answer each prompt once; `score` is of `eval_reward_funcs`, `reward` the score in training."""
        own = self.collector.sample_each(dataset)
        for episode in rewards.score(self.rewards, own):
            episode.reward = episode.score
        if self.eval_rewards is not self.rewards:
            rewards.score(self.eval_rewards, own)
        self.collector.forward(own)
        return gather(own)

    def evaluate(
        self,
        eval_dataset: Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Answer the evaluation prompts once; return means of score, reward, KL, length and ended."""
        episodes = self.evaluation_episodes(self.eval_dataset if eval_dataset is None else eval_dataset)
        means = mean_outcome(episodes)
        means["kl"] = float(np.mean([episode.kl for episode in episodes]))
        means["reward"] = float(np.mean([episode.reward for episode in episodes]))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in means.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class TokenMeans:
    """Means over the answer tokens of several forward passes, on all processes."""

    def __init__(self, names: tuple[str, ...], accelerator: Accelerator):
        self.names, self.accelerator = names, accelerator
        dtype = devices.sum_dtype(accelerator.device)
        self._sums = torch.zeros(len(names) + 1, dtype=dtype, device=accelerator.device)
        """Sums of the values of each name, and at the end the number of tokens."""
        self._sums_before = self._sums.clone()

    def add(self, *values: torch.Tensor) -> None:
        """Add the values of each token, (scored,) for each name."""
        counts = torch.ones_like(values[0])
        self._sums += torch.stack([row.sum().to(self._sums.dtype) for row in (*values, counts)])

    def means(self) -> dict[str, float]:
        """Return the means of all tokens, {name: mean}."""
        return self._means(self._sums)

    def newest_means(self) -> dict[str, float]:
        """Return the means of the tokens since the last call, {name: mean}."""
        newest = self._sums - self._sums_before
        self._sums_before = self._sums.clone()
        return self._means(newest)

    def _means(self, own_sums: torch.Tensor) -> dict[str, float]:
        sums = self.accelerator.reduce(own_sums, reduction="sum")
        return dict(zip(self.names, (sums[:-1] / sums[-1]).tolist(), strict=True))
