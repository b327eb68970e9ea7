"""The policy and its critic as one module that reads each answer token once.

Shapes: rows = answers of one forward pass; width = tokens of the longest prompt and answer; scored = answer
tokens of all rows, one row after another, the sampled end-of-text included. Padding lies to the right, where
a causal model does not look: no mask is needed, and attention takes its fast causal path.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from toolkit.ppo import losses
from toolkit.scoring import PLAIN_HEADS


@dataclass(frozen=True)
class Batch:
    """Right-padded rows.

    ids (rows, width); index (scored,): flat position that predicts each answer token; targets (scored,): the
    answer tokens themselves.
    """

    ids: torch.Tensor
    index: torch.Tensor
    targets: torch.Tensor


def make_batch(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, filler: int, device: torch.device
) -> Batch:
    """Put prompts and answers (end-of-text included) into one batch, as wide as its longest row."""
    lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    width = max(lengths) - 1  # nothing is predicted from the last token
    rows = [
        [*prompt, *answer][:width] + [filler] * (width - length)
        for prompt, answer, length in zip(prompts, answers, lengths, strict=True)
    ]
    index = torch.cat(
        [
            row * width + len(prompt) - 1 + torch.arange(len(answer))
            for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        ]
    )
    targets = torch.tensor([token for answer in answers for token in answer])
    return Batch(torch.tensor(rows).to(device), index.to(device), targets.to(device))


def answer_logits(
    model: PreTrainedModel, batch: Batch, *, forbidden: torch.Tensor, temperature: float
) -> torch.Tensor:
    """The logits that sampling used, at the answer tokens only: fp32 (scored, vocab).

    The head computes in fp32 under autocast too: bf16 logits near 10 are 0.03 apart, and a ratio of
    probabilities would be rounded to that.
    """
    if model.config.model_type in PLAIN_HEADS:
        hidden = model.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state
        head = model.get_output_embeddings()
        with torch.autocast(hidden.device.type, enabled=False):
            chosen = hidden.flatten(0, 1).index_select(0, batch.index).float()
            bias = forbidden if head.bias is None else forbidden + head.bias
            logits = F.linear(chosen, head.weight.float(), bias)
    else:
        logits = model(input_ids=batch.ids, use_cache=False).logits.flatten(0, 1)
        logits = logits.index_select(0, batch.index).float() + forbidden
    return logits if temperature == 1 else logits / temperature


class Critic(nn.Module):
    """A transformer with one number a token: the expected return of the answer so far, (scored,)."""

    def __init__(self, transformer: PreTrainedModel, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__()
        self.transformer = transformer
        self.head = nn.Linear(weight.shape[1], 1)
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self.head.bias.copy_(bias)

    def forward(self, batch: Batch) -> torch.Tensor:
        hidden = self.transformer(input_ids=batch.ids, use_cache=False).last_hidden_state
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden.flatten(0, 1).index_select(0, batch.index).float()).squeeze(-1)

    def rescale(self, *, mean: float, std: float) -> None:
        """Answer in normalised scores, (score - mean) / std, what was learned in the reward model's own."""
        with torch.no_grad():
            self.head.weight.div_(std)
            self.head.bias.sub_(mean).div_(std)


def critic_from_reward_model(reward_model: PreTrainedModel) -> Critic:
    """Copy the reward model's transformer and score head (Huang et al., 2024): at an answer's end it already
    knows the score. For policies that share the reward model's tokenizer."""
    head = reward_model.score
    bias = head.bias if head.bias is not None else torch.zeros(1, device=head.weight.device)
    return Critic(copy.deepcopy(reward_model.base_model), head.weight.detach(), bias.detach())


def critic_from_policy(policy: PreTrainedModel) -> Critic:
    """Copy the policy's transformer, with a head of zeros: for a reward model with another tokenizer."""
    width = policy.get_input_embeddings().embedding_dim
    return Critic(copy.deepcopy(policy.base_model), torch.zeros(1, width), torch.zeros(1))


class ActorCritic(nn.Module):
    """Policy and critic in one forward pass, so that one wrapper distributes both.

    In eval mode throughout: with dropout the ratio of the first step would not be 1.
    """

    def __init__(
        self, policy: PreTrainedModel, critic: Critic, *, forbidden: torch.Tensor, temperature: float
    ):
        super().__init__()
        self.policy, self.critic, self.temperature = policy, critic, temperature
        self.register_buffer("forbidden", forbidden, persistent=False)
        self.eval()

    def forward(
        self, ids: torch.Tensor, index: torch.Tensor, targets: torch.Tensor, with_entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return log-probabilities, values, and entropies where asked for: (scored,) each."""
        batch = Batch(ids, index, targets)
        logits = answer_logits(self.policy, batch, forbidden=self.forbidden, temperature=self.temperature)
        logprobs = losses.target_logprobs(logits, targets)
        return logprobs, self.critic(batch), losses.entropies(logits) if with_entropy else None
