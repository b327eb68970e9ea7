"""The policy and its critic as one module that reads each answer token once.

Shapes: rows = answers of one forward pass; width = tokens of the longest prompt and answer; scored = answer
tokens of all rows, one row after another, the sampled end-of-text included. Padding lies to the right, where
a causal model does not look: no mask is needed, and attention takes its fast causal path.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from toolkit.base.errors import ToolkitError
from toolkit.inference.logprobs import PLAIN_HEADS
from toolkit.ppo import losses


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


def plain(model: nn.Module) -> PreTrainedModel:
    """The model of transformers itself: adapters of PEFT sit inside of it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def answer_hidden(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Last hidden states that predict the answer tokens, (scored, n_embd)."""
    hidden = model.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, batch.index)


def head_logits(
    model: PreTrainedModel, hidden: torch.Tensor, *, forbidden: torch.Tensor, temperature: float
) -> torch.Tensor:
    """The logits that sampling used: (scored, n_embd) -> fp32 (scored, vocab).

    The head computes in fp32 under autocast too: bf16 logits near 10 are 0.03 apart, and a ratio of
    probabilities would be rounded to that.
    """
    head = model.get_output_embeddings()
    with torch.autocast(hidden.device.type, enabled=False):
        bias = forbidden if head.bias is None else forbidden + head.bias
        logits = F.linear(hidden.float(), head.weight.float(), bias)
    return logits if temperature == 1 else logits / temperature


def answer_logits(
    model: PreTrainedModel, batch: Batch, *, forbidden: torch.Tensor, temperature: float
) -> torch.Tensor:
    """`head_logits` of the answer tokens; a model with a head of its own kind gives its own logits."""
    model = plain(model)
    if model.config.model_type in PLAIN_HEADS:
        hidden = answer_hidden(model, batch)
        return head_logits(model, hidden, forbidden=forbidden, temperature=temperature)
    logits = model(input_ids=batch.ids, use_cache=False).logits.flatten(0, 1)
    logits = logits.index_select(0, batch.index).float() + forbidden
    return logits if temperature == 1 else logits / temperature


def _values(head: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    """(scored, n_embd) -> (scored,), in fp32 under autocast too."""
    with torch.autocast(hidden.device.type, enabled=False):
        return head(hidden.float()).squeeze(-1)


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
        return _values(self.head, answer_hidden(self.transformer, batch))

    def rescale(self, *, mean: float, std: float) -> None:
        """Answer in normalised scores, (score - mean) / std, what was learned in the reward model's own."""
        with torch.no_grad():
            self.head.weight.div_(std)
            self.head.bias.sub_(mean).div_(std)


class ValueHead(nn.Module):
    """A critic that shares the policy's transformer: one layer, zero at first, whose loss trains both."""

    def __init__(self, width: int):
        super().__init__()
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return _values(self.head, hidden)


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


def build_critic(
    policy: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    value_model: tuple[PreTrainedModel, PreTrainedTokenizerBase | None] | None,
    *,
    shared: bool,
) -> tuple[Critic | ValueHead, bool]:
    """The critic, and whether it begins by knowing the scores, in the reward model's own unit.

    Args:
        value_model: what it may begin as, and its tokenizer: it has to be the policy's, and its context as
            long, else the critic begins as the policy. No tokenizer: the caller says that it fits.

    Raises:
        ToolkitError: a shared critic of a policy whose hidden states are not known; a model that was said to
            fit and does not.
    """
    inner = plain(policy)
    if shared:
        if inner.config.model_type not in PLAIN_HEADS:
            raise ToolkitError(
                f"critic: shared does not know {inner.config.model_type}", fix="set critic: separate"
            )
        return ValueHead(inner.get_input_embeddings().embedding_dim), False
    if value_model is not None:
        model, its_tokenizer = value_model
        same = its_tokenizer is None or its_tokenizer.get_vocab() == tokenizer.get_vocab()
        room = model.config.max_position_embeddings >= inner.config.max_position_embeddings
        if same and room and hasattr(model, "score") and model.config.model_type in PLAIN_HEADS:
            return critic_from_reward_model(model).requires_grad_(True), True
        if its_tokenizer is None:
            raise ToolkitError(
                "no critic can begin as this model: it needs a score head, a context as long as the policy's "
                f"({inner.config.max_position_embeddings}), and an architecture of {', '.join(PLAIN_HEADS)}",
                where="value_model", fix="leave it out: the critic then begins as the policy",
            )  # fmt: skip
    return critic_from_policy(inner).requires_grad_(True), False


class ActorCritic(nn.Module):
    """Policy and critic in one forward pass, so that one wrapper distributes both.

    In eval mode throughout: with dropout the ratio of the first step would not be 1. Only the layers that
    recompute activations learn that they train, for they ask.
    """

    def __init__(
        self,
        policy: PreTrainedModel | PeftModel,
        critic: Critic | ValueHead,
        *,
        forbidden: torch.Tensor,
        temperature: float,
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
        options = {"forbidden": self.forbidden, "temperature": self.temperature}
        if isinstance(self.critic, ValueHead):
            hidden = answer_hidden(plain(self.policy), batch)
            logits, values = head_logits(plain(self.policy), hidden, **options), self.critic(hidden)
        else:
            logits, values = answer_logits(self.policy, batch, **options), self.critic(batch)
        logprobs = losses.target_logprobs(logits, targets)
        return logprobs, values, losses.entropies(logits) if with_entropy else None

    def values(self, batch: Batch) -> torch.Tensor:
        """The critic alone, (scored,)."""
        shared = isinstance(self.critic, ValueHead)
        return self.critic(answer_hidden(plain(self.policy), batch) if shared else batch)

    def parameter_groups(self, learning_rate: float, value_learning_rate: float) -> list[dict[str, Any]]:
        """What is trained of the policy, and of the critic, as an optimizer takes it."""
        parts = ((self.policy, learning_rate), (self.critic, value_learning_rate))
        return [
            {"params": [each for each in part.parameters() if each.requires_grad], "lr": rate}
            for part, rate in parts
        ]

    def train(self, mode: bool = True) -> ActorCritic:
        super().train(False)
        for module in self.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = mode and getattr(module, "gradient_checkpointing", False)
        return self

    @property
    def config(self):
        """The policy's, for whoever takes this for a model of transformers."""
        return self.policy.config

    @property
    def transformers(self) -> list[PreTrainedModel]:
        """The models of transformers in it."""
        inner = [self.critic.transformer] if isinstance(self.critic, Critic) else []
        return [plain(self.policy), *inner]

    def activation_checkpointing_enable(self, **kwargs) -> None:
        """Recompute activations in policy and critic; as of transformers' models."""
        for model in self.transformers:
            # renamed in transformers 5.2x, which warns of the old name
            new = getattr(model, "activation_checkpointing_enable", None)
            (new or model.gradient_checkpointing_enable)(**kwargs)

    gradient_checkpointing_enable = activation_checkpointing_enable
