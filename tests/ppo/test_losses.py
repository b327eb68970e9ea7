"""Each equation and the clipped gradients match hand-computed values."""

from __future__ import annotations

import math

import pytest
import torch

from toolkit.ppo import losses

MASK = torch.tensor([[True, True, True], [True, False, False]])


def close(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), atol=tolerance, rtol=0)


def test_masked_mean_ignores_padding():
    values = torch.tensor([[1.0, 2.0, 6.0], [7.0, 100.0, float("nan")]])
    close(losses.masked_mean(values, MASK), 4.0)


def test_whiten():
    values = torch.tensor([[1.0, 2.0, 6.0], [7.0, 100.0, float("nan")]])  # mean 4, variance (9+4+4+9)/4 = 6.5
    scale = math.sqrt(6.5)
    close(losses.whiten(values, MASK), [[-3 / scale, -2 / scale, 2 / scale], [3 / scale, 0, 0]])


def test_whitening_equal_values_stays_finite():
    close(losses.whiten(torch.full((2, 3), 5.0), MASK), torch.zeros(2, 3))


def test_token_kl_is_k1():
    close(losses.token_kl(torch.tensor([-1.0, -3.0]), torch.tensor([-2.5, -2.0])), [1.5, -1.0])


def test_score_is_added_to_the_last_real_token():
    kl = torch.tensor([[1.0, -2.0, 0.5], [4.0, 9.0, 9.0]])
    rewards = losses.token_rewards(torch.tensor([3.0, -1.0]), kl, MASK, kl_coefficient=0.1)
    close(rewards, [[-0.1, 0.2, 2.95], [-1.4, 0.0, 0.0]])


def test_advantages_match_hand_computed_values():
    rewards = torch.tensor([[1.0, 0.0, 2.0], [3.0, 9.0, 9.0]])
    values = torch.tensor([[0.5, 1.0, -1.0], [2.0, 7.0, 7.0]])
    # row 0, gamma 0.9, lambda 0.5: delta = 1+0.9-0.5 = 1.4; 0-0.9-1 = -1.9; 2-(-1) = 3
    # A2 = 3; A1 = -1.9+0.45*3 = -0.55; A0 = 1.4+0.45*(-0.55) = 1.1525. Row 1: 3-2 = 1
    advantages = losses.generalized_advantages(rewards, values, MASK, gamma=0.9, gae_lambda=0.5)
    close(advantages, [[1.1525, -0.55, 3.0], [1.0, 0.0, 0.0]])


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.0), (0.97, 1.0)])
def test_advantages_equal_the_definition_for_ragged_lengths(gamma, gae_lambda):
    generator = torch.Generator().manual_seed(0)
    lengths = [5, 1, 8, 3]
    rewards, values = (torch.randn(4, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.arange(8) < torch.tensor(lengths)[:, None]
    advantages = losses.generalized_advantages(rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda)
    for row, length in enumerate(lengths):
        reward, value = rewards[row, :length].tolist(), [*values[row, :length].tolist(), 0.0]
        for token in range(length):
            expected = sum(
                (gamma * gae_lambda) ** (later - token)
                * (reward[later] + gamma * value[later + 1] - value[later])
                for later in range(token, length)
            )
            assert float(advantages[row, token]) == pytest.approx(expected, abs=1e-12)
        assert not advantages[row, length:].any()


def test_returns_with_lambda_one_are_discounted_rewards():
    rewards, values = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[9.0, -3.0, 0.3]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages = losses.generalized_advantages(rewards, values, mask, gamma=0.5, gae_lambda=1.0)
    close(advantages + values, [[1 + 1 + 1, 2 + 2, 4.0]])


RATIOS = [0.5, 0.9, 1.0, 1.1, 1.5]


@pytest.mark.parametrize(
    ("advantage", "loss", "gradient"),
    [
        (2.0, [-1.0, -1.8, -2.0, -2.2, -2.4], [-1.0, -1.8, -2.0, -2.2, 0.0]),
        (-2.0, [1.6, 1.8, 2.0, 2.2, 3.0], [0.0, 1.8, 2.0, 2.2, 3.0]),
    ],
)
def test_policy_loss_and_its_gradient(advantage, loss, gradient):
    """d/dlogprob = -A ratio, but 0 above 1 + eps if A > 0 and below 1 - eps if A < 0."""
    old = torch.full((5,), -1.5)
    logprobs = (old + torch.log(torch.tensor(RATIOS))).requires_grad_()
    actual, clipped = losses.policy_losses(logprobs, old, torch.full((5,), advantage), clip_range=0.2)
    actual.sum().backward()
    close(actual.detach(), loss)
    close(logprobs.grad, gradient)
    assert clipped.tolist() == [value == 0 for value in gradient]


def test_value_loss_and_its_gradient():
    # old 1, returns 3: 1.1 -> 0.5*1.9^2 = 1.805; 2 clipped to 1.2 -> 0.5*1.8^2 = 1.62, gradient 0;
    # 6 -> max(9, 3.24)/2 = 4.5; 0 -> max(9, clip 0.8: 4.84)/2 = 4.5
    values = torch.tensor([1.1, 2.0, 6.0, 0.0], requires_grad=True)
    actual, clipped = losses.value_losses(values, torch.ones(4), torch.full((4,), 3.0), clip_range=0.2)
    actual.sum().backward()
    close(actual.detach(), [1.805, 1.62, 4.5, 4.5])
    close(values.grad, [-1.9, 0.0, 3.0, -3.0])
    assert clipped.tolist() == [False, True, False, False]


def test_target_logprobs_and_entropies():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.25, 0.25, 0.25, 0.25]]) + 1e-30) + 7
    close(losses.target_logprobs(logits, torch.tensor([1, 3])), [math.log(0.25)] * 2)
    close(losses.entropies(logits), [1.5 * math.log(2), 2 * math.log(2)])


def test_entropy_with_masked_entry_is_finite_with_gradient():
    logits = torch.tensor([[0.3, 1.2, -1e9]], requires_grad=True)
    entropy = losses.entropies(logits)
    entropy.sum().backward()
    close(entropy.detach(), losses.entropies(logits.detach()[:, :2]))
    assert torch.isfinite(logits.grad).all() and logits.grad[0, 2] == 0


@pytest.mark.parametrize(
    ("kl", "expected"), [(6.0, 0.2), (6.6, 0.202), (60.0, 0.204), (0.0, 0.196), (-3.0, 0.196)]
)
def test_adaptive_kl(kl, expected):
    assert losses.next_kl_coefficient(0.2, kl=kl, target=6.0) == pytest.approx(expected, abs=1e-12)


def test_explained_variance():
    returns = torch.tensor([[1.0, 2.0, 3.0], [4.0, 50.0, 50.0]])  # variance 1.25
    assert losses.explained_variance(returns.clone(), returns, MASK) == 1
    assert losses.explained_variance(torch.zeros(2, 3), returns, MASK) == pytest.approx(0, abs=1e-6)
    values = torch.tensor([[1.0, 2.0, 3.0], [2.0, 0.0, 0.0]])  # residuals 0 0 0 2: variance 0.75
    assert losses.explained_variance(values, returns, MASK) == pytest.approx(1 - 0.75 / 1.25, abs=1e-6)
