"""The policy and its critic as one module: one forward pass scores every answer token.

Shapes: rows = answers of one forward pass; width = tokens of the longest prompt and answer; scored = answer
tokens of all rows, concatenated, the sampled end-of-text included. Rows are padded on the right, which a
causal model does not attend to: no mask is needed, and attention takes its fast causal path.
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
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from toolkit.base.errors import ToolkitError
from toolkit.inference.logprobs import PLAIN_HEADS
from toolkit.models.context_length import context_length
from toolkit.ppo import losses


@dataclass(frozen=True)
class Batch:
    """Right-padded rows.

    Attributes:
        ids: (rows, width).
        index: (scored,), the flat position in `ids` that predicts each answer token.
        targets: (scored,), the answer tokens.
    """

    ids: torch.Tensor
    index: torch.Tensor
    targets: torch.Tensor


def make_batch(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, filler: int, device: torch.device
) -> Batch:
    """Return prompts and answers (end-of-text included) as one batch, as wide as its longest row."""
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


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model that a PEFT model wraps; its adapters stay in its layers."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def answer_hidden(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the last hidden states that predict the answer tokens, (scored, n_embd)."""
    hidden = model.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, batch.index)


def head_logits(
    model: PreTrainedModel, hidden: torch.Tensor, *, forbidden: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the logits that sampling used: (scored, n_embd) -> fp32 (scored, vocab).

    The head computes in fp32 under autocast, too: bf16 logits near 10 are 0.03 apart, which would round the
    ratio of probabilities.
    """
    head = model.get_output_embeddings()
    with torch.autocast(hidden.device.type, enabled=False):
        bias = forbidden if head.bias is None else forbidden + head.bias
        logits = F.linear(hidden.float(), head.weight.float(), bias)
    return logits if temperature == 1 else logits / temperature


def answer_logits(
    model: PreTrainedModel, batch: Batch, *, forbidden: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return `head_logits` of the answer tokens; models with another head compute their own logits."""
    model = unwrapped(model)
    if model.config.model_type in PLAIN_HEADS:
        hidden = answer_hidden(model, batch)
        return head_logits(model, hidden, forbidden=forbidden, temperature=temperature)
    logits = model(input_ids=batch.ids, use_cache=False).logits.flatten(0, 1)
    logits = logits.index_select(0, batch.index).float() + forbidden
    return logits if temperature == 1 else logits / temperature


def _values(head: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    """Return the values (scored,) of (scored, n_embd), in fp32 under autocast, too."""
    with torch.autocast(hidden.device.type, enabled=False):
        return head(hidden.float()).squeeze(-1)


class Critic(nn.Module):
    """A transformer with one output a token: the expected return of the answer so far, (scored,)."""

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
        """Change the unit of the values from scores to normalised scores, (score - mean) / std."""
        with torch.no_grad():
            self.head.weight.div_(std)
            self.head.bias.sub_(mean).div_(std)


class ValueHead(nn.Module):
    """A critic that shares the policy's transformer: one linear layer, initialised to 0."""

    def __init__(self, width: int):
        super().__init__()
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return _values(self.head, hidden)


def critic_from_reward_model(reward_model: PreTrainedModel) -> Critic:
    """Copy the reward model's transformer and score head (Huang et al., 2024): at the end of an answer, the
    critic then predicts the score. Requires that the policy shares the reward model's tokenizer."""
    head = reward_model.score
    bias = head.bias if head.bias is not None else torch.zeros(1, device=head.weight.device)
    return Critic(copy.deepcopy(reward_model.base_model), head.weight.detach(), bias.detach())


def critic_from_policy(policy: PreTrainedModel) -> Critic:
    """Copy the policy's transformer, with a head of zeros; for reward models with another tokenizer."""
    width = policy.get_input_embeddings().embedding_dim
    return Critic(copy.deepcopy(policy.base_model), torch.zeros(1, width), torch.zeros(1))


def build_critic(
    policy: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    value_model: tuple[PreTrainedModel, PreTrainedTokenizerBase | None] | None,
    *,
    shared: bool,
) -> tuple[Critic | ValueHead, bool]:
    """Return the critic, and whether it is initialised to predict scores, in the reward model's unit.

    Args:
        value_model: a reward model to initialise the critic from, and its tokenizer. If its vocabulary is not
            the policy's, or its context is shorter, the critic is initialised from the policy. Without a
            tokenizer, the caller asserts that the model fits.

    Raises:
        ToolkitError: a shared critic of an architecture without support; a `value_model` without a tokenizer
            that does not fit.
    """
    inner = unwrapped(policy)
    if shared:
        if inner.config.model_type not in PLAIN_HEADS:
            raise ToolkitError(
                f"critic: shared does not support {inner.config.model_type}", fix="set critic: separate"
            )
        return ValueHead(inner.get_input_embeddings().embedding_dim), False
    if value_model is not None:
        model, value_tokenizer = value_model
        same = value_tokenizer is None or value_tokenizer.get_vocab() == tokenizer.get_vocab()
        reach, needed = context_length(model), context_length(inner)
        fits = reach is None or (needed is not None and reach >= needed)
        if same and fits and hasattr(model, "score") and model.config.model_type in PLAIN_HEADS:
            return critic_from_reward_model(model).requires_grad_(True), True
        if value_tokenizer is None:
            raise ToolkitError(
                "the critic cannot be initialised from this model: it needs a score head, "
                f"a context as long as the policy's ({needed or 'without a limit'}), "
                f"and an architecture of {', '.join(PLAIN_HEADS)}",
                where="value_model", fix="leave it out: the critic is then initialised from the policy",
            )  # fmt: skip
    return critic_from_policy(inner).requires_grad_(True), False


class ActorCritic(nn.Module):
    """Policy and critic in one forward pass, so that one DDP wrapper distributes both.

    Always in eval mode: with dropout, the ratio of the first step would not be 1. Only layers with gradient
    checkpointing are set to train, because they recompute activations only in this mode.
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
        """Return log-probabilities, values, and entropies (or None), (scored,) each."""
        batch = Batch(ids, index, targets)
        options = {"forbidden": self.forbidden, "temperature": self.temperature}
        if isinstance(self.critic, ValueHead):
            hidden = answer_hidden(unwrapped(self.policy), batch)
            logits, values = head_logits(unwrapped(self.policy), hidden, **options), self.critic(hidden)
        else:
            logits, values = answer_logits(self.policy, batch, **options), self.critic(batch)
        logprobs = losses.target_logprobs(logits, targets)
        return logprobs, values, losses.entropies(logits) if with_entropy else None

    def values(self, batch: Batch) -> torch.Tensor:
        """Return the critic's values, (scored,)."""
        shared = isinstance(self.critic, ValueHead)
        return self.critic(answer_hidden(unwrapped(self.policy), batch) if shared else batch)

    def parameter_groups(self, learning_rate: float, value_learning_rate: float) -> list[dict[str, Any]]:
        """Return the trainable parameters of policy and critic, each with its learning rate."""
        parts = ((self.policy, learning_rate), (self.critic, value_learning_rate))
        return [
            {"params": [parameter for parameter in part.parameters() if parameter.requires_grad], "lr": rate}
            for part, rate in parts
        ]

    def train(self, mode: bool = True) -> ActorCritic:
        super().train(False)
        for module in self.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = mode and getattr(module, "gradient_checkpointing", False)
        return self

    @property
    def config(self) -> PreTrainedConfig:
        """The policy's configuration, which Trainer reads of a transformers model."""
        return self.policy.config

    @property
    def transformers(self) -> list[PreTrainedModel]:
        """The transformers models of policy and critic."""
        inner = [self.critic.transformer] if isinstance(self.critic, Critic) else []
        return [unwrapped(self.policy), *inner]

    def activation_checkpointing_enable(self, **kwargs) -> None:
        """Recompute activations in policy and critic; the method of transformers models."""
        for model in self.transformers:
            # transformers 5.2x renamed the method, and warns of the old name
            new = getattr(model, "activation_checkpointing_enable", None)
            (new or model.gradient_checkpointing_enable)(**kwargs)

    gradient_checkpointing_enable = activation_checkpointing_enable
