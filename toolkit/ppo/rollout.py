"""Collecting a rollout: sample answers, then run policy, reference and critic on them.

An episode does not depend on the number of processes: its prompt, its random stream and its minibatches are
functions of (seed, number of the rollout). Each process handles its own share of the episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.base.rng import derive
from toolkit.data.chat.rows import training_order
from toolkit.models.kernels import bf16_matmul, fastest_attention
from toolkit.ppo import losses, sampler
from toolkit.ppo.actor_critic import ActorCritic, Batch, answer_logits, make_batch, unwrapped
from toolkit.ppo.config import PPOConfig
from toolkit.ppo.episode import Episode, concatenated, micro_batches, minibatches, store

OLD = ("logprobs", "reference_logprobs", "values", "advantages", "returns")
"""Arrays of the episodes that the loss compares with; it gets them as `old_<name>`."""


class RolloutCollector:
    """Samples this process's share of a rollout, and computes its log-probabilities and values.

    Args:
        model: the policy and its critic.
        reference: what KL is measured to; None is the policy without its adapters.
        prompts: a column `prompt`, of texts or of conversations, and any others.
        accelerator: the processes, and the precision of forward passes.
    """

    def __init__(
        self,
        model: ActorCritic,
        reference: PreTrainedModel | None,
        *,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Dataset,
        args: PPOConfig,
        accelerator: Accelerator,
    ):
        self.model, self.reference, self.tokenizer = model, reference, tokenizer
        self.prompts, self.args, self.accelerator = prompts, args, accelerator

    # Which episodes

    def minibatches(self, rollout: int, epoch: int) -> list[np.ndarray]:
        """Return the episodes' indices in each minibatch of an epoch, for all processes."""
        return minibatches(self.args, seed=self.args.seed, rollout=rollout, epoch=epoch)

    def process_share(self, indices: np.ndarray) -> list[int]:
        """Return the indices that this process handles."""
        return indices[self.accelerator.process_index :: self.accelerator.num_processes].tolist()

    @cached_property
    def _prompt_order(self) -> np.ndarray:
        """The dataset's row of each episode of the whole training, (episodes,)."""
        return training_order(
            np.zeros(len(self.prompts)),
            steps=self.args.num_rollouts(len(self.prompts)),
            batch=self.args.rollout_examples,
            seed=self.args.seed,
        )

    # Sampling

    def sample(self, rollout: int) -> list[Episode]:
        """Sample answers to this process's share of the prompts of a rollout (the first is 1)."""
        first = (rollout - 1) * self.args.rollout_examples
        indices = [
            index
            for minibatch in self.minibatches(rollout, epoch=0)
            for index in self.process_share(minibatch)
        ]
        rows = [self.prompts[int(self._prompt_order[first + index])] for index in indices]
        return self._answer(rows, indices, [derive(self.args.seed, "episode", first + i) for i in indices])

    def sample_each(self, dataset: Dataset) -> list[Episode]:
        """Sample one answer to this process's share of a dataset; always with the same random streams."""
        indices = self.process_share(np.arange(len(dataset)))
        rows = [dataset[index] for index in indices]
        return self._answer(rows, indices, [derive(self.args.seed, "evaluation", i) for i in indices])

    def _answer(
        self, rows: Sequence[Mapping[str, object]], indices: Sequence[int], seeds: Sequence[int]
    ) -> list[Episode]:
        policy = unwrapped(self.model.policy)
        return sampler.answer(policy, self.tokenizer, rows, indices=indices, seeds=seeds, args=self.args)

    # Forward passes

    def add_model_outputs(self, episodes: Sequence[Episode], rollout: int) -> list[Episode]:
        """Add log-probabilities, entropies and values to this process's share, and return it.

        The forward passes have the micro-batches of the first epoch, so that the ratio of probabilities in
        the first optimizer step is exactly 1.
        """
        own: list[Episode] = []
        for indices in self.minibatches(rollout, epoch=0):
            share = [episodes[index] for index in self.process_share(indices)]
            self.forward(share, bootstrap=self.args.truncation == "bootstrap")
            own += share
        return own

    @torch.no_grad()
    def forward(self, episodes: Sequence[Episode], *, bootstrap: bool = False) -> None:
        """Run policy, critic and reference on episodes of this process, in micro-batches.

        Args:
            bootstrap: set `final_value` of truncated answers, too.
        """
        self.model.eval()
        with self.fast_math():
            for part in micro_batches(episodes, self.args.per_device_train_batch_size):
                batch = self.batch(part)
                with self.accelerator.autocast():
                    logprobs, values, entropies = self.model(batch.ids, batch.index, batch.targets, True)
                    reference_logprobs = self.reference_logprobs(batch)
                store(part, "logprobs", logprobs)
                store(part, "values", values)
                store(part, "entropies", entropies)
                store(part, "reference_logprobs", reference_logprobs)
                if bootstrap:
                    self._set_final_values([episode for episode in part if not episode.ended])

    def reference_logprobs(self, batch: Batch) -> torch.Tensor:
        """Return the reference's log-probabilities of the answer tokens, (scored,)."""
        policy = self.model.policy
        without_adapters = policy.disable_adapter() if self.reference is None else nullcontext()
        with without_adapters:
            logits = answer_logits(
                policy if self.reference is None else self.reference,
                batch,
                forbidden=self.model.forbidden,
                temperature=self.args.temperature,
            )
        return losses.target_logprobs(logits, batch.targets)

    def _set_final_values(self, truncated: list[Episode]) -> None:
        if not truncated:
            return
        batch = self.batch(truncated, next_token=True)
        with self.accelerator.autocast():
            values = self.model.values(batch).cpu()
        ends = np.cumsum([len(episode.answer_ids) + 1 for episode in truncated]) - 1
        for episode, end in zip(truncated, ends, strict=True):
            episode.final_value = float(values[end])

    # Batches

    def batch(self, episodes: Sequence[Episode], *, next_token: bool = False) -> Batch:
        """Return the episodes as one batch.

        Args:
            next_token: score one position more, after the last token of each answer.
        """
        filler = 1 if self.tokenizer.pad_token_id == 0 else 0  # transformers warns of the padding id
        return make_batch(
            [episode.prompt_ids for episode in episodes],
            [episode.answer_ids + [filler] * next_token for episode in episodes],
            filler=filler,
            device=self.args.device,
        )

    def training_inputs(self, episodes: Sequence[Episode]) -> dict[str, torch.Tensor]:
        """Return a micro-batch as `PPOTrainer.compute_loss` takes it."""
        batch = self.batch(episodes)
        old = {f"old_{name}": concatenated(episodes, name, self.args.device) for name in OLD}
        return {"ids": batch.ids, "index": batch.index, "targets": batch.targets, **old}

    @contextmanager
    def fast_math(self) -> Iterator[None]:
        """Compute forward and backward passes with the fastest kernels of the device and precision."""
        models = self.model.transformers + ([] if self.reference is None else [self.reference])
        target = {"device_type": self.args.device.type, "bf16": self.args.bf16}
        with bf16_matmul(**target), fastest_attention(models, **target):
            yield
