"""The distribution that the sampler draws from, computed token by token, and the sampler itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from toolkit.inference.next_token import entropy_bits
from toolkit.inference.restricted import REASONS, draw, restricted
from toolkit.inference.sampling import SamplingSettings, choose

PROBABILITIES = [0.30, 0.02, 0.22, 0.18, 0.03, 0.13, 0.07, 0.05]
LOGPROBS = np.log(np.array(PROBABILITIES))
ALLOWED = np.array([True] * 6 + [False] + [True])


def by_hand(temperature, top_k, top_p):
    """Return {token: (probability, reason)} from the definitions."""
    weights = {token: p ** (1 / temperature) for token, p in enumerate(PROBABILITIES) if ALLOWED[token]}
    order = sorted(weights, key=lambda token: -weights[token])
    by_top_k = order[: top_k or None]
    share, kept = sum(weights[token] for token in by_top_k), []
    for token in by_top_k:
        if sum(weights[one] for one in kept) / share < top_p:
            kept.append(token)
    total = sum(weights[token] for token in kept)
    reason = {token: "" if token in kept else "top_p" if token in by_top_k else "top_k" for token in order}
    return {token: (weights[token] / total if token in kept else 0.0, reason[token]) for token in order}


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 4])
@pytest.mark.parametrize("top_p", [0.25, 0.81, 1.0])
def test_temperature_then_top_k_then_top_p(temperature, top_k, top_p):
    found = restricted(LOGPROBS, allowed=ALLOWED, temperature=temperature, top_k=top_k, top_p=top_p)
    for token, (probability, reason) in by_hand(temperature, top_k, top_p).items():
        assert found.probabilities[token] == pytest.approx(probability, abs=1e-12)
        assert REASONS[found.removed[token]] == reason
    assert found.probabilities[6] == found.softened[6] == 0
    positive = [p for p in found.probabilities if p > 0]
    assert found.entropy_bits == pytest.approx(-sum(p * math.log2(p) for p in positive), abs=1e-12)


def test_temperature_0_leaves_the_most_probable_token():
    found = restricted(LOGPROBS, allowed=ALLOWED, temperature=0, top_k=3, top_p=0.5)
    assert found.probabilities.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert {REASONS[reason] for reason in found.removed[1:]} == {"greedy"}
    assert found.softened[0] == pytest.approx(0.30 / 0.93)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 0.8)])
def test_the_sampler_draws_from_this_distribution(top_k, top_p):
    """`sampling.choose` takes uniform numbers: a fine grid of them gives the probabilities themselves."""
    temperature, grid = 0.7, 100_000
    found = restricted(LOGPROBS, allowed=ALLOWED, temperature=temperature, top_k=top_k, top_p=top_p)
    scaled = torch.tensor(np.where(ALLOWED, LOGPROBS, -1e9) / temperature, dtype=torch.float64)
    rows = torch.log_softmax(scaled, 0)[None].expand(grid, -1)
    settings = SamplingSettings(1, temperature=temperature, top_k=top_k, top_p=top_p)
    chosen = choose(rows, (torch.arange(grid, dtype=torch.float64) + 0.5) / grid, settings)
    frequencies = np.bincount(chosen.numpy(), minlength=8) / grid
    np.testing.assert_allclose(frequencies, found.probabilities, atol=2 / grid)


def test_a_draw_falls_on_the_token_whose_interval_holds_the_number():
    probabilities, order = np.array([0.5, 0.0, 0.3, 0.2]), np.array([0, 2, 3, 1])
    for uniform, token in [(0.0, 0), (0.499, 0), (0.5, 2), (0.79, 2), (0.81, 3), (1 - 1e-16, 3)]:
        found = draw(probabilities, order=order, uniform=uniform)
        assert found.token == token
        assert found.low <= uniform <= found.high
        assert found.high - found.low == pytest.approx(probabilities[token])


def test_entropy():
    assert entropy_bits(np.full(8, 1 / 8)) == pytest.approx(3)
    assert entropy_bits(np.array([1.0, 0.0])) == 0
