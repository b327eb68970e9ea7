"""The mathematics of PPO from human feedback: pure functions on tensors.

Shapes: (rows, tokens) answers padded at their end, `mask` True on real tokens, the sampled end-of-text
included; the functions of single tokens take any shape. All logarithms are natural (nats).

Sources: Schulman et al., 2017 (PPO, https://arxiv.org/abs/1707.06347); Schulman et al., 2016 (GAE,
https://arxiv.org/abs/1506.02438); Ziegler et al., 2019 (https://arxiv.org/abs/1909.08593); Huang et al., 2024
(the N+ implementation details, https://arxiv.org/abs/2403.17031).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

KL_GAIN = 0.1
"""K of Ziegler et al., 2019, section 2.2."""
KL_ERROR_LIMIT = 0.2
"""The largest relative error of the controller; same section."""


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over the real tokens, a scalar."""
    return torch.where(mask, values, 0).sum() / mask.sum()


def whiten(
    values: torch.Tensor, mask: torch.Tensor, *, keep_mean: bool = False, epsilon: float = 1e-8
) -> torch.Tensor:
    """Scale to variance 1 over the real tokens of a rollout, and shift to mean 0; padding becomes 0.

    Args:
        keep_mean: scale without a shift. For rewards: a shift would reward or punish every token.
    """
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    whitened = (values - mean) / torch.sqrt(variance + epsilon)
    return torch.where(mask, whitened + mean if keep_mean else whitened, 0)


def token_kl(logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """The estimator k1 = log pi(a|s) - log pi_ref(a|s) of KL(pi || pi_ref), for a ~ pi; any shape.

    Unbiased, negative for some tokens (Schulman, 2020, http://joschu.net/blog/kl-approx.html).
    """
    return logprobs - reference_logprobs


def k3(logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """The estimator k3 = r - 1 - log r of KL(pi || pi_ref), r = pi_ref / pi, for a ~ pi; any shape.

    Unbiased as a number and never negative (same source). Its gradient is not that of the KL: as a loss it
    pulls towards pi_ref too, but has another optimum than k1 in the reward.
    """
    log_ratio = reference_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def token_rewards(
    scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, *, kl_coefficient: float
) -> torch.Tensor:
    """r_t = -beta * KL_t, and the score (rows,) on top at the last real token -> (rows, tokens).

    Ziegler et al., 2019, equation 2.
    """
    rewards = torch.where(mask, -kl_coefficient * kl, 0)
    last = mask.sum(dim=1) - 1
    rewards[torch.arange(len(rewards), device=rewards.device), last] += scores
    return rewards


def generalized_advantages(
    rewards: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    *,
    gamma: float,
    gae_lambda: float,
    final_values: torch.Tensor | None = None,
) -> torch.Tensor:
    """A_t = sum over l of (gamma lambda)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t; (rows, tokens).

    Schulman et al., 2016, equation 16. The returns, which the critic learns, are advantages + values.

    Args:
        final_values: the value after the last real token, (rows,): the expected further return of a
            truncated answer. Default 0: the answer has ended.
    """
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])  # advantage of the next token, (rows,)
    next_values = torch.zeros_like(rewards[:, 0]) if final_values is None else final_values
    for token in reversed(range(rewards.shape[1])):
        delta = rewards[:, token] + gamma * next_values - values[:, token]
        following = torch.where(mask[:, token], delta + gamma * gae_lambda * following, 0)
        next_values = torch.where(mask[:, token], values[:, token], next_values)
        advantages[:, token] = following
    return advantages


def policy_losses(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, *, clip_range: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """-min(ratio A, clip(ratio, 1 - eps, 1 + eps) A) of each token, and where clipping stopped the gradient.

    Schulman et al., 2017, equation 7; ratio = exp(log pi - log pi_old). Any shape.
    """
    ratios = torch.exp(logprobs - old_logprobs)
    free = -advantages * ratios
    clipped = -advantages * ratios.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(free, clipped), clipped > free


def value_losses(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, *, clip_range: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """max((V - R)^2, (V_old + clip(V - V_old, -eps, eps) - R)^2) / 2 of each token, and where clipping won.

    As in OpenAI's baselines (https://github.com/openai/baselines, ppo2/model.py). Any shape.
    """
    limited = old_values + (values - old_values).clamp(-clip_range, clip_range)
    free, clipped = (values - returns) ** 2, (limited - returns) ** 2
    return 0.5 * torch.maximum(free, clipped), clipped > free


def target_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[target]: (tokens, vocab), (tokens,) -> (tokens,)."""
    return -F.cross_entropy(logits, targets, reduction="none")


def entropies(logits: torch.Tensor) -> torch.Tensor:
    """-sum of p log p over the vocabulary: (tokens, vocab) -> (tokens,). Logits have to be finite."""
    logprobs = torch.log_softmax(logits, dim=-1)
    return -(logprobs.exp() * logprobs).sum(dim=-1)


def next_kl_coefficient(coefficient: float, *, kl: float, target: float) -> float:
    """beta (1 + K clip(KL / target - 1, -0.2, 0.2)): Ziegler et al., 2019, section 2.2, once a rollout."""
    error = max(-KL_ERROR_LIMIT, min(KL_ERROR_LIMIT, kl / target - 1))
    return coefficient * (1 + KL_GAIN * error)


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> float:
    """1 - Var(R - V) / Var(R) over the real tokens: 1 for a perfect critic, 0 for a constant one."""
    residual = (returns - values)[mask]
    return float(1 - residual.var(correction=0) / returns[mask].var(correction=0).clamp(min=1e-12))
