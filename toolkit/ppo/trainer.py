"""Proximal policy optimization on transformers' Trainer: sample, score, read, compute advantages, optimize.

Schulman et al., 2017, with the details of Huang et al., 2024 (https://arxiv.org/abs/2403.17031). One rollout
samples `rollout_examples` answers and is followed by `epochs` * `minibatches` optimizer steps, which are
Trainer's steps. Logging, evaluation, saving and stopping happen between rollouts only: a checkpoint needs no
half-used answers, and resuming from it is bitwise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.utils import logging

from toolkit.base.errors import ToolkitError
from toolkit.base.rng import derive
from toolkit.data.chat.rows import training_order
from toolkit.inference.sampling import forbidden_bias
from toolkit.models.attention import bf16_products, fast_attention, fuse_activations
from toolkit.models.loading import load_causal_lm
from toolkit.ppo import collapse_monitor, losses, rewards, rollout, sampler
from toolkit.ppo.actor_critic import ActorCritic, Batch, answer_logits, build_critic, make_batch, plain
from toolkit.ppo.config import PPOConfig, require_usable
from toolkit.ppo.rollout import Episode, Progression, ScoreScale
from toolkit.ppo.trainer_base import ActorCriticTrainer

logger = logging.get_logger(__name__)
OLD = ("logprobs", "reference_logprobs", "values", "advantages", "returns")
LOSSES = ("policy_loss", "value_loss", "clip_fraction", "value_clip_fraction", "policy_kl")


class PPOTrainer(ActorCriticTrainer):
    """PPO for prompt-only datasets, with the arguments of TRL's online trainers.

    Args:
        model: the policy: a folder or hub id, a causal language model, or one with adapters of PEFT.
        reward_funcs: a reward model (folder, hub id, model), a function
            `(prompts, completions, completion_ids, **columns) -> list[float]`, or a list of these.
        train_dataset: a column `prompt`, of texts or of conversations; other columns go to the functions.
        processing_class: the policy's tokenizer; found beside the model where that is a folder or hub id.
        reward_processing_classes: the tokenizer of each reward model that was given as a model.
        eval_reward_funcs: a held-out judge, which `evaluate` asks instead; folders, hub ids, functions.
        ref_model: what KL is measured to; default the policy as it is, or its base where it has adapters.
        value_model: a reward model that the critic begins as; default the reward model where it is the only
            reward and reads the policy's tokens, else the policy with a new head.
        peft_config: train adapters, which are added to `model`.

    Raises:
        ToolkitError: models, data or sizes that do not go together; later, a training that collapsed.
    """

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        reward_funcs: Any,
        args: PPOConfig,
        train_dataset: Any,
        eval_dataset: Any = None,
        *,
        processing_class: PreTrainedTokenizerBase | None = None,
        reward_processing_classes: Any = None,
        eval_reward_funcs: Any = None,
        ref_model: PreTrainedModel | None = None,
        value_model: PreTrainedModel | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: PeftConfig | None = None,
    ):
        if isinstance(model, str):
            model, tokenizer = load_causal_lm((model, None))
            processing_class = processing_class or tokenizer
        require_usable(model, processing_class, train_dataset, args)
        model = model if peft_config is None else get_peft_model(model, peft_config)
        weights = args.reward_weights
        self.rewards = rewards.build(reward_funcs, reward_processing_classes, weights, device=args.device)
        self.eval_rewards = rewards.build(eval_reward_funcs or self.rewards, device=args.device)
        began = rewards.value_model(value_model, self.rewards)
        shared = args.critic == "shared"
        from_model = args.score_scale == "reward_model"
        self.score_scale = rewards.known_scale(self.rewards) if from_model else None
        critic, self.critic_knows_scores = build_critic(model, processing_class, began, shared=shared)
        end_id, pad_id = processing_class.eos_token_id, processing_class.pad_token_id
        forbidden = forbidden_bias(plain(model), pad_id=pad_id, end_id=end_id)
        if ref_model is None and not isinstance(model, PeftModel):
            ref_model = copy.deepcopy(model)
        self.ref_model = None if ref_model is None else ref_model.requires_grad_(False).eval().to(args.device)
        fuse_activations(model, critic, self.ref_model, *(each.judge for each in self.rewards))
        self.num_rollouts = args.num_rollouts(len(train_dataset))
        args.max_steps = self.num_rollouts * args.steps_per_rollout
        self.progression = Progression(kl_coefficient=args.kl_coefficient)
        self.samples: list[dict[str, Any]] = []  # a few prompts and answers of the newest rollout
        self.observers: list[Callable[[list[Episode], int], None]] = []
        """Called with the episodes and number of each rollout, on every process."""
        self._numbers: dict[str, list[float]] = {}
        self._open = False  # a rollout is being trained on
        super().__init__(
            model=ActorCritic(model, critic, forbidden=forbidden, temperature=args.temperature),
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.model_accepts_loss_kwargs = True  # compute_loss divides by all tokens itself
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ToolkitError(
                "PPO keeps all weights on every process; FSDP and DeepSpeed do not",
                fix="set distributed_type: MULTI_GPU in the accelerate configuration",
            )

    # One rollout

    def roll_out(self) -> list[Episode]:
        """Sample, score and read the next rollout, and compute its advantages; the same on every process."""
        progression, number = self.progression, self.progression.rollouts + 1
        episodes = rollout.gather(rewards.score(self.rewards, self._sample(number)))
        if number == 1 and self.args.normalize_scores:
            progression.scale = self.score_scale or ScoreScale.of([episode.score for episode in episodes])
            if self.critic_knows_scores:
                self.model.critic.rescale(mean=progression.scale.mean, std=progression.scale.std)
        rollout.set_rewards(episodes, progression.scale, missing_end_penalty=self.args.missing_end_penalty)
        with self._fast_math():
            episodes = rollout.gather(self._read(episodes, number))
        numbers = rollout.set_advantages(episodes, self.args, kl_coefficient=progression.kl_coefficient)
        self._require_finite([numbers["kl"], numbers["reward"]], "KL")
        self._note(**numbers, kl_coefficient=progression.kl_coefficient)
        self._guard(episodes, numbers)
        return episodes

    def _guard(self, episodes: Sequence[Episode], numbers: dict[str, float]) -> None:
        if self.args.guard == "off":
            return
        seen, stop = self.progression.guard, self.args.guard == "stop"
        signs, told = collapse_monitor.watch(
            seen, episodes, numbers, rollout=self.progression.rollouts + 1, stop=stop
        )
        self._note(**signs)
        for text in told if self.is_world_process_zero() else ():
            logger.warning(text)

    def _own(self, places: np.ndarray) -> list[int]:
        return places[self.accelerator.process_index :: self.accelerator.num_processes].tolist()

    def _plan(self, number: int, epoch: int) -> list[np.ndarray]:
        return rollout.minibatches(self.args, seed=self.args.seed, rollout=number, epoch=epoch)

    @cached_property
    def _order(self) -> np.ndarray:
        """The row of every place of the whole training."""
        return training_order(
            np.zeros(len(self.train_dataset)),
            steps=self.num_rollouts,
            batch=self.args.rollout_examples,
            seed=self.args.seed,
        )

    def _sample(self, number: int) -> list[Episode]:
        """Answers to this process's share of the prompts of a rollout."""
        first = (number - 1) * self.args.rollout_examples
        places = [place for part in self._plan(number, 0) for place in self._own(part)]
        rows = [self.train_dataset[int(self._order[first + place])] for place in places]
        seeds = [derive(self.args.seed, "episode", first + place) for place in places]
        return self._answer(rows, places=places, seeds=seeds)

    def _answer(self, rows: Sequence[dict], **which: Sequence[int]) -> list[Episode]:
        return sampler.answer(plain(self.model.policy), self.processing_class, rows, args=self.args, **which)

    def _batch(self, episodes: Sequence[Episode], *, beyond: bool = False) -> Batch:
        filler = 1 if self.processing_class.pad_token_id == 0 else 0  # transformers warns of the padding id
        answers = [episode.answer_ids + [filler] * beyond for episode in episodes]
        return make_batch(
            [episode.prompt_ids for episode in episodes], answers, filler=filler, device=self.args.device
        )

    def _read(self, episodes: list[Episode], number: int) -> list[Episode]:
        """Read this process's share, in the micro-batches of epoch 0.

        The same batches as in the first optimizer step make the ratio there exactly 1.
        """
        own: list[Episode] = []
        for places in self._plan(number, 0):
            share = [episodes[place] for place in self._own(places)]
            for part in rollout.micro_batches(share, self.args.per_device_train_batch_size):
                self._read_part(part)
                if self.args.truncation == "bootstrap":
                    self._set_final_values([episode for episode in part if not episode.ended])
            own += share
        return own

    @torch.no_grad()
    def _read_part(self, part: list[Episode]) -> None:
        """Log-probabilities, entropies and values, in one forward pass of each model."""
        batch = self._batch(part)
        self.model.eval()
        with self.accelerator.autocast():
            logprobs, values, entropies = self.model(batch.ids, batch.index, batch.targets, True)
            reference = self._reference_logprobs(batch)
        rollout.store(part, "logprobs", logprobs)
        rollout.store(part, "values", values)
        rollout.store(part, "entropies", entropies)
        rollout.store(part, "reference_logprobs", reference)

    @torch.no_grad()
    def _set_final_values(self, cut: list[Episode]) -> None:
        if not cut:
            return
        batch = self._batch(cut, beyond=True)
        with self.accelerator.autocast():
            values = self.model.values(batch).cpu()
        ends = np.cumsum([len(episode.answer_ids) + 1 for episode in cut]) - 1
        for episode, end in zip(cut, ends, strict=True):
            episode.final_value = float(values[end])

    def _reference_logprobs(self, batch: Batch) -> torch.Tensor:
        policy = self.model.policy
        without = policy.disable_adapter() if self.ref_model is None else nullcontext()
        with without:
            logits = answer_logits(
                policy if self.ref_model is None else self.ref_model,
                batch,
                forbidden=self.model.forbidden,
                temperature=self.args.temperature,
            )
        return losses.target_logprobs(logits, batch.targets)

    # Optimization: Trainer's steps

    def get_train_dataloader(self) -> DataLoader:
        """Places for the batches of the whole training; `get_batch_samples` fills them."""
        self._slot = self.progression.rollouts * self.args.steps_per_rollout  # of the next optimizer step
        return DataLoader(range(self.args.max_steps * self.args.gradient_accumulation_steps), collate_fn=list)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, int | None]:
        """The micro-batches of one minibatch, and its answer tokens on all processes.

        Nothing where `target_kl` ended this rollout's optimization.
        """
        place, self._slot = self._slot % self.args.steps_per_rollout, self._slot + 1
        if place == 0 and not self.finished:
            self._episodes = self.roll_out()
            self._sums = torch.zeros(len(LOSSES) + 1, dtype=torch.float64, device=self.args.device)
            self._sums_before = self._sums.clone()
            self._open = True
        if not self._open:
            return [], None
        epoch, minibatch = divmod(place, self.args.minibatches)
        places = self._plan(self.progression.rollouts + 1, epoch)[minibatch]
        share = [self._episodes[place] for place in self._own(places)]
        tokens = sum(len(self._episodes[place].answer_ids) for place in places)
        self._left = self.args.steps_per_rollout - place - 1  # optimizer steps on this rollout
        parts = rollout.micro_batches(share, self.args.per_device_train_batch_size)
        return [self._inputs(part) for part in parts], tokens

    def _inputs(self, part: list[Episode]) -> dict[str, torch.Tensor]:
        batch = self._batch(part)
        old = {f"old_{name}": rollout.flat(part, name, self.args.device) for name in OLD}
        return {"ids": batch.ids, "index": batch.index, "targets": batch.targets, **old}

    def compute_loss(
        self, model: Any, inputs: dict, return_outputs: bool = False, num_items_in_batch: int | None = None
    ) -> torch.Tensor:
        """Sums over the answer tokens, divided by those of the whole minibatch on all processes.

        So the gradient depends neither on the micro-batches nor on the number of processes.
        """
        args = self.args
        with_entropy = args.entropy_coefficient > 0
        logprobs, values, entropies = model(inputs["ids"], inputs["index"], inputs["targets"], with_entropy)
        policy, clipped = losses.policy_losses(
            logprobs, inputs["old_logprobs"], inputs["old_advantages"], clip_range=args.clip_range
        )
        value, value_clipped = losses.value_losses(
            values, inputs["old_values"], inputs["old_returns"], clip_range=args.value_clip_range
        )
        loss = policy.sum() + args.value_coefficient * value.sum()
        if entropies is not None:
            loss = loss - args.entropy_coefficient * entropies.sum()
        if args.kl_in == "loss":
            penalties = losses.k3(logprobs, inputs["old_reference_logprobs"])
            loss = loss + self.progression.kl_coefficient * penalties.sum()
        moved = losses.k3(inputs["old_logprobs"], logprobs.detach())  # estimates KL(old || new)
        counted = torch.full_like(moved, 1.0)
        parts = (policy.detach(), value.detach(), clipped, value_clipped, moved, counted)
        self._sums += torch.stack([part.sum().double() for part in parts])
        # DDP averages over processes
        return loss * (self.accelerator.num_processes / num_items_in_batch)

    def log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Between two rollouts do what callbacks asked for meanwhile; until then keep it."""
        if self._open and self._left and not self._moved_too_far():
            self.hold_back()
            return
        if self._open:
            self._close_rollout()
            saved = ("should_save",) if self.args.save_strategy == "steps" else ()
            self.let_go(*(("should_log", "should_training_stop", *saved) if self.finished else ()))
        super().log_save_evaluate(*args, **kwargs)

    @property
    def finished(self) -> bool:
        """Whether all rollouts are done, or an observer ended the training before."""
        return self.progression.over or self.progression.rollouts == self.num_rollouts

    def _moved_too_far(self) -> bool:
        if self.args.target_kl is None:
            return False
        sums = self.accelerator.reduce(self._sums - self._sums_before, reduction="sum")
        self._sums_before = self._sums.clone()
        return float(sums[4] / sums[5]) > self.args.target_kl

    def _close_rollout(self) -> None:
        sums = self.accelerator.reduce(self._sums, reduction="sum")
        self._note(**dict(zip(LOSSES, (sums[:-1] / sums[-1]).tolist(), strict=True)))
        progression, args = self.progression, self.args
        if args.kl_target is not None:
            progression.kl_coefficient = losses.next_kl_coefficient(
                progression.kl_coefficient, kl=self._numbers["kl"][-1], target=args.kl_target
            )
        for _ in range(self._left):  # skipped: the learning rate falls as if they had been done
            self.lr_scheduler.step()
        self._open = False
        progression.rollouts += 1
        self.state.epoch = progression.rollouts * args.rollout_examples / len(self.train_dataset)
        self.samples = [episode.shown() for episode in self._episodes[:3]]
        for observer in self.observers:
            observer(self._episodes, progression.rollouts)

    def _note(self, **numbers: float) -> None:
        for name, value in numbers.items():
            self._numbers.setdefault(name, []).append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            means = {name: float(np.mean(values)) for name, values in self._numbers.items()}
            logs = {**logs, **means, "episodes": self.progression.rollouts * self.args.rollout_examples}
            self._numbers = {}
        super().log(logs, start_time)

    def judged(self, dataset: Any) -> list[Episode]:
        """One answer to each prompt, read; `score` is the judge's, `reward` that of the own rewards."""
        places = self._own(np.arange(len(dataset)))
        seeds = [derive(self.args.seed, "evaluation", place) for place in places]
        own = self._answer([dataset[place] for place in places], places=places, seeds=seeds)
        for episode in rewards.score(self.rewards, own):
            episode.reward = episode.score
        if self.eval_rewards is not self.rewards:
            rewards.score(self.eval_rewards, own)
        with self._fast_math():
            for part in rollout.micro_batches(own, self.args.per_device_train_batch_size):
                self._read_part(part)
        return rollout.gather(own)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Answer the prompts of the evaluation data once; means of score, KL, length and share that ended."""
        episodes = self.judged(self.eval_dataset if eval_dataset is None else eval_dataset)
        numbers = rollout.outcome(episodes)
        numbers |= {
            name: float(np.mean([getattr(each, name) for each in episodes])) for name in ("kl", "reward")
        }
        numbers = {f"{metric_key_prefix}_{name}": value for name, value in numbers.items()}
        self.log(numbers)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, numbers)
        return numbers

    def clip_gradient_norm(self, model: Any) -> Any:
        norm = super().clip_gradient_norm(model)
        self._require_finite([float(norm)], "gradient norm")
        return norm

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self._fast_math():
            return super().training_step(*args, **kwargs)

    @contextmanager
    def _fast_math(self) -> Iterator[None]:
        models = self.model.transformers + ([] if self.ref_model is None else [self.ref_model])
        where = {"device_type": self.args.device.type, "bf16": self.args.bf16}
        with bf16_products(**where), fast_attention(models, **where):
            yield

    def _require_finite(self, values: Sequence[float], what: str) -> None:
        collapse_monitor.require_finite(values, what, rollout=self.progression.rollouts + 1)
