"""Statistics of votes, against computations of their own."""

from __future__ import annotations

import json
import math
from itertools import permutations
from statistics import NormalDist

import pytest

from toolkit.evaluate import vote_statistics


def row(prompt, vote, voter="kim", *, models=("m", "n"), shown="ab", kind="normal", turned=False):
    answers = {"answer_a": f"a {prompt}", "answer_b": f"b {prompt}"}
    found = {"prompt": prompt, **answers, "vote": vote, "voter": voter, "kind": kind, "shown": shown}
    found["models"] = list(models)
    if turned:
        found["answer_a"], found["answer_b"] = found["answer_b"], found["answer_a"]
        found["models"] = found["models"][::-1]
        found["vote"] = {"a": "b", "b": "a"}.get(vote, vote)
        found["shown"] = shown[::-1]
    return found


def statistics(tmp_path, rows):
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return vote_statistics.statistics(vote_statistics.read(path))


def test_win_rate_and_power_of_two_models(tmp_path):
    votes = ["a"] * 60 + ["b"] * 30 + ["tie"] * 6 + ["bad"] * 4
    rows = [row(f"p{number}", vote, turned=number % 2 == 0) for number, vote in enumerate(votes)]
    (found,) = statistics(tmp_path, rows)["comparisons"]
    assert found["models"] == ["m", "n"] and (found["votes"], found["prompts"]) == (100, 100)
    assert [found[name] for name in ("wins", "losses", "ties", "bad")] == [60, 30, 6, 4]
    assert found["win_rate"] == pytest.approx(0.65)
    squares = 60 * 0.35**2 + 30 * 0.65**2 + 10 * 0.15**2
    deviation = math.sqrt(squares / 99)
    quantiles = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)
    needed = {share: math.ceil((quantiles * deviation / abs(share - 0.5)) ** 2) for share in (0.55, 0.6, 0.7)}
    assert found["power"]["more_for"] == {str(share): max(0, n - 100) for share, n in needed.items()}
    assert found["power"]["more_for_observed"] == 0
    assert found["verdict"] == "m" and found["anytime"]["decided_at"] <= 100


def test_the_verdict_takes_the_first_vote_on_each_prompt(tmp_path):
    rows = [row("one", "a", voter=f"voter {number}") for number in range(200)]
    (found,) = statistics(tmp_path, rows)["comparisons"]
    assert (found["votes"], found["prompts"], found["anytime"]["n"]) == (200, 1, 1)
    assert found["verdict"] is None


def test_a_model_against_itself_has_no_win_rate(tmp_path):
    found = statistics(tmp_path, [row("one", "a", models=("m", "m"))])
    assert found["comparisons"] == [] and found["votes"] == 1


def alpha_by_hand(units):
    """Return Krippendorff's nominal alpha from the pairs of values in each unit."""
    units = [unit for unit in units if len(unit) > 1]
    total = sum(len(unit) for unit in units)
    observed = sum(sum(x != y for x, y in permutations(unit, 2)) / (len(unit) - 1) for unit in units) / total
    values = [value for unit in units for value in unit]
    expected = sum(x != y for x, y in permutations(values, 2)) / (total * (total - 1))
    return 1 - observed / expected


def test_agreement_is_krippendorffs_alpha_over_pairs_with_several_votes(tmp_path):
    units = [["a", "a", "b"], ["b", "b"], ["tie", "a"], ["bad", "bad", "bad"], ["a"], ["a", "a"]]
    rows = [
        row(f"p{number}", vote, voter=f"voter {index}", turned=index == 1)
        for number, unit in enumerate(units)
        for index, vote in enumerate(unit)
    ]
    found = statistics(tmp_path, rows)["agreement"]
    assert found["alpha"] == pytest.approx(alpha_by_hand(units)) and found["pairs"] == 5


def wilson(successes, n):
    z = NormalDist().inv_cdf(0.975)
    middle = (successes + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(successes * (n - successes) / n + z * z / 4)
    return [middle - half, middle + half]


def test_repeats_checks_and_the_side_that_is_preferred(tmp_path):
    rows = [
        row("one", "a"),
        row("two", "b", shown="ba"),
        row("three", "tie"),
        row("one", "a", kind="repeat", turned=True),
        row("two", "tie", kind="repeat"),
        row("one", "b", voter="lee", kind="repeat"),  # of a pair that lee has not seen
        row("four", "a", kind="attention"),
        row("four", "b", voter="lee", kind="attention"),
    ]
    found = statistics(tmp_path, rows)
    assert (found["consistent"]["share"], found["consistent"]["n"]) == (0.5, 2)
    assert found["checks_passed"]["share_interval"] == pytest.approx(wilson(1, 2))
    assert found["first_preferred"]["share"] == 1.0 and found["first_preferred"]["n"] == 2
    assert found["by_voter"] == [
        {"voter": "kim", "votes": 3, "repeats": 2, "same": 1, "checks": 1, "passed": 1},
        {"voter": "lee", "votes": 0, "repeats": 0, "same": 0, "checks": 1, "passed": 0},
    ]
    json.dumps(found, allow_nan=False)
