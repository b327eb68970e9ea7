"""The loop: sample, score, read, compute advantages, optimize; once a rollout.

Schulman et al., 2017, with the details of Huang et al., 2024 (https://arxiv.org/abs/2403.17031): critic
from the reward model, no dropout, whitened advantages, Adam's epsilon of 1e-5, learning rates that fall to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.data import chat
from toolkit.data.rows import training_order
from toolkit.models.attention import fast_attention
from toolkit.ppo import losses, rollout
from toolkit.ppo.actor_critic import ActorCritic, Batch, answer_logits, make_batch
from toolkit.ppo.rollout import Episode, Messages, ScoreScale
from toolkit.recipe.errors import ToolkitError
from toolkit.recipe.schema import PpoRecipe, PpoTrainerSettings
from toolkit.runs.streams import derive
from toolkit.sampling import generate, reward_scores

ADAM_EPSILON = 1e-5
CPU_MICRO_BATCH = 16
"""2 million parameters, 64 answers of 125 tokens: parts of 16 take 25 % less time than one (caches)."""
SAMPLES = 3


@dataclass
class Models:
    """Everything that computes; `wrapped` distributes `actor_critic`."""

    actor_critic: ActorCritic
    wrapped: nn.Module
    optimizer: AcceleratedOptimizer
    reference: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reward_model: PreTrainedModel
    reward_tokenizer: PreTrainedTokenizerBase
    critic_knows_scores: bool
    """The critic began as the reward model: its head is rescaled together with the scores."""


@dataclass
class Progression:
    """What a rollout leaves to the next, beside weights and optimizer. Streams follow from the step."""

    step: int = 0
    """Rollouts done."""
    kl_coefficient: float = 0.0
    scale: ScoreScale = field(default_factory=ScoreScale)
    reference: dict[str, list[float]] = field(default_factory=dict)
    """score, length and ended of the first rollout's answers, which the reference gave."""
    last: dict[str, list[float]] = field(default_factory=dict)
    """score, kl, length and ended of each answer in the last tenth of the rollouts."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """A few prompts and answers of the newest rollout."""


class Loop:
    """One training; `train_rollout` does one round."""

    def __init__(
        self,
        recipe: PpoRecipe,
        models: Models,
        prompts: Sequence[Messages],
        *,
        accelerator: Accelerator,
        bf16: bool,
    ):
        self.recipe, self.models, self.prompts = recipe, models, prompts
        self.settings: PpoTrainerSettings = recipe.trainer
        self.accelerator, self.bf16 = accelerator, bf16
        self.device = accelerator.device
        self.rollouts = self.settings.episodes // self.settings.rollout_examples
        share = self.settings.rollout_examples // self.settings.minibatches // accelerator.num_processes
        default = CPU_MICRO_BATCH if self.device.type == "cpu" else share
        self.micro_size = min(recipe.micro_batch_examples or default, share)
        self.order = training_order(
            np.zeros(len(prompts)),
            steps=self.rollouts,
            batch=self.settings.rollout_examples,
            seed=recipe.seed,
        )
        self.progression = Progression(kl_coefficient=self.settings.kl_coefficient)

    def train_rollout(self) -> dict[str, float]:
        """Do the next rollout and its optimization; return its numbers.

        Raises:
            ToolkitError: a score, a log-probability, a loss or a gradient that is not finite.
        """
        state = self.progression
        step = state.step + 1
        episodes = rollout.gather(self._score(self._sample(step)))
        self._check([episode.score for episode in episodes], "score", step)
        if step == 1 and self.settings.normalize_scores:
            self._set_scale(ScoreScale.of([episode.score for episode in episodes]))
        rollout.set_rewards(episodes, state.scale, missing_end_penalty=self.settings.missing_end_penalty)
        with self._attention():
            episodes = rollout.gather(self._read(episodes, step))
        numbers = rollout.set_advantages(episodes, self.settings, kl_coefficient=state.kl_coefficient)
        self._check([numbers["kl"], numbers["reward"]], "KL", step)
        numbers["kl_coefficient"] = state.kl_coefficient
        numbers["learning_rate"] = self._set_learning_rates(step)
        with self._attention():
            numbers |= self._optimize(episodes, step)
        self._remember(episodes, step)
        if self.settings.kl_target is not None:
            state.kl_coefficient = losses.next_kl_coefficient(
                state.kl_coefficient, kl=numbers["kl"], target=self.settings.kl_target
            )
        state.step = step
        return numbers

    def _own(self, places: np.ndarray) -> list[int]:
        """This process's share of a minibatch."""
        return places[self.accelerator.process_index :: self.accelerator.num_processes].tolist()

    def _plan(self, step: int, epoch: int) -> list[np.ndarray]:
        return rollout.minibatches(self.settings, seed=self.recipe.seed, rollout=step, epoch=epoch)

    def _sample(self, step: int) -> list[Episode]:
        """Answers to this process's share of the prompts; one that is too long loses its oldest turns."""
        settings, tokenizer = self.settings, self.models.tokenizer
        first = (step - 1) * settings.rollout_examples
        places = [place for part in self._plan(step, 0) for place in self._own(part)]
        prompts = [
            chat.shorten(
                tokenizer, self.prompts[int(self.order[first + place])], max_tokens=settings.max_prompt_tokens
            )
            for place in places
        ]
        prompt_ids = [chat.prompt_ids(tokenizer, prompt) for prompt in prompts]
        answers = generate(
            self.models.actor_critic.policy,
            prompt_ids,
            end_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=[derive(self.recipe.seed, "episode", first + place) for place in places],
        )
        episodes = []
        for row, (ids, ended) in enumerate(zip(answers.ids, answers.ended, strict=True)):
            # role tokens that the policy sampled stay visible to the reward model
            text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            end = [tokenizer.eos_token_id] if ended else []
            episodes.append(Episode(places[row], prompts[row], prompt_ids[row], ids + end, ended, text))
        return episodes

    def _score(self, episodes: list[Episode]) -> list[Episode]:
        scores = reward_scores(
            self.models.reward_model,
            self.models.reward_tokenizer,
            [episode.prompt for episode in episodes],
            answers=[episode.text for episode in episodes],
            ended=[episode.ended for episode in episodes],
        )
        for episode, score in zip(episodes, scores, strict=True):
            episode.score = float(score)
        return episodes

    def _set_scale(self, scale: ScoreScale) -> None:
        self.progression.scale = scale
        if self.models.critic_knows_scores:
            self.models.actor_critic.critic.rescale(mean=scale.mean, std=scale.std)

    def _batch(self, episodes: Sequence[Episode]) -> Batch:
        # any id will do to the right of an answer; transformers warns where it is the padding id
        filler = 1 if self.models.tokenizer.pad_token_id == 0 else 0
        return make_batch(
            [episode.prompt_ids for episode in episodes],
            [episode.answer_ids for episode in episodes],
            filler=filler,
            device=self.device,
        )

    @torch.no_grad()
    def _read(self, episodes: list[Episode], step: int) -> list[Episode]:
        """Log-probabilities, entropies and values of this process's share, in the micro-batches of epoch 0.

        The same batches as in the first optimizer step make the ratio there exactly 1.
        """
        own, models = [], self.models
        for places in self._plan(step, 0):
            share = [episodes[place] for place in self._own(places)]
            for part in rollout.micro_batches(share, self.micro_size):
                batch = self._batch(part)
                with self._autocast():
                    logprobs, values, entropies = models.actor_critic(
                        batch.ids, batch.index, batch.targets, True
                    )
                    logits = answer_logits(
                        models.reference,
                        batch,
                        forbidden=models.actor_critic.forbidden,
                        temperature=self.settings.temperature,
                    )
                rollout.store(part, "logprobs", logprobs)
                rollout.store(part, "values", values)
                rollout.store(part, "entropies", entropies)
                rollout.store(part, "reference_logprobs", losses.target_logprobs(logits, batch.targets))
            own += share
        return own

    def _optimize(self, episodes: list[Episode], step: int) -> dict[str, float]:
        """Epochs of minibatches; return the means over all tokens of all of them."""
        sums, norms = torch.zeros(5, dtype=torch.float64, device=self.device), []
        for epoch in range(self.settings.epochs):
            for places in self._plan(step, epoch):
                tokens = sum(len(episodes[place].answer_ids) for place in places)
                share = [episodes[place] for place in self._own(places)]
                sums += self._accumulate_gradient(share, tokens)
                norm = self.accelerator.clip_grad_norm_(
                    self.models.wrapped.parameters(), self.settings.max_grad_norm
                )
                norms.append(float(norm))
                self._check(norms[-1:], "gradient norm", step)
                self.models.optimizer.step()
                self.models.optimizer.zero_grad()
        sums = self.accelerator.reduce(sums, reduction="sum")
        means = (sums / sums[-1]).tolist()
        names = ("policy_loss", "value_loss", "clip_fraction", "value_clip_fraction")
        return {**dict(zip(names, means, strict=False)), "gradient_norm": float(np.mean(norms))}

    def _accumulate_gradient(self, share: list[Episode], tokens: int) -> torch.Tensor:
        """Gradients of one minibatch: sums over tokens, divided by the tokens of all processes.

        So the gradient does not depend on the micro-batches. Returns the sums of policy loss, value loss,
        both clip counts, and the tokens of this process, (5,).
        """
        settings = self.settings
        sums = torch.zeros(5, dtype=torch.float64, device=self.device)
        parts = rollout.micro_batches(share, self.micro_size)
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            with nullcontext() if last else self.accelerator.no_sync(self.models.wrapped):
                batch = self._batch(part)
                with self._autocast():
                    logprobs, values, entropies = self.models.wrapped(
                        batch.ids, batch.index, batch.targets, settings.entropy_coefficient > 0
                    )
                old = {
                    name: rollout.flat(part, name, self.device)
                    for name in ("logprobs", "values", "advantages", "returns")
                }
                policy, clipped = losses.policy_losses(
                    logprobs, old["logprobs"], old["advantages"], clip_range=settings.clip_range
                )
                value, value_clipped = losses.value_losses(
                    values, old["values"], old["returns"], clip_range=settings.value_clip_range
                )
                loss = policy.sum() + settings.value_coefficient * value.sum()
                if entropies is not None:
                    loss = loss - settings.entropy_coefficient * entropies.sum()
                # DDP averages over processes
                self.accelerator.backward(loss * (self.accelerator.num_processes / tokens))
            counted = torch.tensor(len(policy), device=self.device)
            sums += torch.stack(
                [policy.detach().sum(), value.detach().sum(), clipped.sum(), value_clipped.sum(), counted]
            ).double()
        return sums

    def _set_learning_rates(self, step: int) -> float:
        """Linear: from the recipe's at the first rollout towards 0 after the last; returns the policy's."""
        left = 1 - (step - 1) / self.rollouts if self.settings.schedule == "linear" else 1.0
        policy, critic = self.models.optimizer.param_groups
        policy["lr"] = self.settings.learning_rate * left
        critic["lr"] = (self.settings.value_learning_rate or self.settings.learning_rate) * left
        return policy["lr"]

    def _remember(self, episodes: list[Episode], step: int) -> None:
        row = {
            "score": [episode.score for episode in episodes],
            "length": [float(len(episode.answer_ids)) for episode in episodes],
            "ended": [float(episode.ended) for episode in episodes],
        }
        self.progression.samples = [
            {
                "prompt": episode.prompt[-1]["content"],
                "answer": episode.text,
                "ended": episode.ended,
                "score": episode.score,
                "kl": episode.kl,
            }
            for episode in episodes[:SAMPLES]
        ]
        if step == 1:
            self.progression.reference = row
        if step > self.rollouts - last_rollouts(self.rollouts):
            row = {**row, "kl": [episode.kl for episode in episodes]}
            for name, values in row.items():
                self.progression.last[name] = self.progression.last.get(name, []) + values

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _attention(self) -> AbstractContextManager[None]:
        trained = self.models.actor_critic
        models = [trained.policy, trained.critic.transformer, self.models.reference]
        return fast_attention(models, device_type=self.device.type, bf16=self.bf16)

    def _check(self, values: Sequence[float], what: str, step: int) -> None:
        if not np.isfinite(values).all():
            raise ToolkitError(
                f"training collapsed: the {what} is not finite any more",
                where=f"ppo, rollout {step}",
                fix="lower trainer.learning_rate or raise trainer.kl_coefficient; start over with --fresh",
            )


def build_optimizer(actor_critic: ActorCritic, settings: PpoTrainerSettings) -> torch.optim.AdamW:
    """AdamW without decay: a group for the policy and one for the critic."""
    groups = [{"params": list(part.parameters())} for part in (actor_critic.policy, actor_critic.critic)]
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, eps=ADAM_EPSILON, weight_decay=0.0, fused=True
    )


def last_rollouts(rollouts: int) -> int:
    """The last tenth of the rollouts is what the run is measured on."""
    return max(1, rollouts // 10)
