"""Bradley-Terry matches choix; with ties it matches a direct optimization."""

from __future__ import annotations

import json

import choix
import numpy as np
import pytest
from scipy import optimize

from toolkit.stats import rankings
from toolkit.stats.rankings import PairedComparison


def contests(n=400, tie=0.0, seed=0, models=4):
    generator = np.random.default_rng(seed)
    strengths = np.linspace(-0.8, 0.9, models)
    rows = []
    for prompt in range(n):
        i, j = generator.choice(models, 2, replace=False)
        half = (strengths[i] - strengths[j]) / 2
        weights = np.array([np.exp(half), tie, np.exp(-half)])
        outcome = [1.0, 0.5, 0.0][generator.choice(3, p=weights / weights.sum())]
        rows.append(PairedComparison(f"m{i}", f"m{j}", outcome, prompt))
    return rows


def fitted(ranking, models=4):
    return [ranking.strengths[f"m{number}"].estimate for number in range(models)]


def test_ranking_without_ties_matches_choix():
    rows = contests()
    data = [(int(row.first[1]), int(row.second[1]))[:: 1 if row.outcome else -1] for row in rows]
    found = rankings.bradley_terry(rows, seed=0, samples=50)
    expected = choix.opt_pairwise(4, data, alpha=rankings.RIDGE / 2)
    assert fitted(found) == pytest.approx(expected - expected.mean(), abs=1e-5)
    assert found.tie == 0
    ordered = [each.estimate for each in found.strengths.values()]
    assert ordered == sorted(ordered, reverse=True)


def davidson_loss(parameters, rows):
    """Return the negative log-likelihood of Davidson's model with strengths pi and tie parameter nu."""
    strengths, nu = np.exp(parameters[:-1]), np.exp(parameters[-1])
    loss = rankings.RIDGE / 2 * (parameters**2).sum()
    for row in rows:
        a, b = strengths[int(row.first[1])], strengths[int(row.second[1])]
        total = a + b + nu * np.sqrt(a * b)
        loss -= np.log({1.0: a, 0.5: nu * np.sqrt(a * b), 0.0: b}[row.outcome] / total)
    return loss


def test_ranking_with_ties_maximizes_the_davidson_likelihood():
    rows = contests(tie=0.7)
    found = rankings.bradley_terry(rows, seed=0, samples=50)
    best = optimize.minimize(davidson_loss, np.zeros(5), args=(rows,), tol=1e-10).x
    assert fitted(found) == pytest.approx(best[:-1] - best[:-1].mean(), abs=1e-4)
    assert found.tie == pytest.approx(np.exp(best[-1]), abs=1e-4)


def test_two_model_ranking_matches_win_and_tie_odds():
    rows = [
        PairedComparison("a", "b", outcome, n)
        for n, outcome in enumerate([1.0] * 500 + [0.5] * 300 + [0.0] * 200)
    ]
    found = rankings.bradley_terry(rows, seed=0, samples=200)
    a, b = found.strengths["a"].estimate, found.strengths["b"].estimate
    assert a == pytest.approx(-b) and a - b == pytest.approx(np.log(500 / 200), abs=2e-3)
    assert found.tie == pytest.approx(300 / np.sqrt(500 * 200), abs=2e-3)
    assert found.win_rates["a"].estimate == pytest.approx(0.65, abs=1e-3)
    assert found.strengths["a"].low < a < found.strengths["a"].high and found.strengths["a"].n == 1000
    json.dumps(found.as_json(), allow_nan=False)


def test_ranking_ignores_order_and_repeated_prompts():
    rows = contests(tie=0.5)
    turned = [PairedComparison(row.second, row.first, 1 - row.outcome, row.prompt) for row in rows]
    once = rankings.bradley_terry(rows, seed=0, samples=100)
    both = rankings.bradley_terry(rows + turned, seed=0, samples=100)
    for name, strength in once.strengths.items():
        other = both.strengths[name]
        assert [strength.estimate, *strength.interval] == pytest.approx(
            [other.estimate, *other.interval], abs=1e-6
        )


def test_fractional_outcome_is_a_partial_tie():
    partly = [PairedComparison("a", "b", 0.8, n) for n in range(10)]
    counts = rankings._by_prompt(["a", "b"], [(0, 1)], partly)
    assert counts[0] == pytest.approx([0.6, 0.0, 0.4])


def test_unbeaten_model_has_finite_strength():
    rows = [PairedComparison("a", other, 1.0, n) for n, other in enumerate("bc" * 50)]
    rows += [PairedComparison("b", "c", n % 2.0, 100 + n) for n in range(50)]
    found = rankings.bradley_terry(rows, seed=0, samples=100)
    assert next(iter(found.strengths)) == "a" and 3 < found.strengths["a"].estimate < 15
    assert found.win_rates["a"].estimate > 0.99


def test_disconnected_models_are_refused():
    rows = [PairedComparison("a", "b", 1.0, 0), PairedComparison("c", "d", 0.0, 1)]
    with pytest.raises(ValueError, match="never compared with each other: a, b; c, d"):
        rankings.bradley_terry(rows, seed=0)
    with pytest.raises(ValueError, match="compared with itself"):
        rankings.bradley_terry(
            [PairedComparison("a", "a", 1.0, 0), PairedComparison("a", "b", 1.0, 0)], seed=0
        )
