"""Statistics of people's votes: who wins, whether people agree, and whether there are enough votes."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from toolkit import stats
from toolkit.data.vote_file import VALUES, prompt_key, read_rows
from toolkit.stats import agreement, sequential, significance
from toolkit.stats.win_rates import win_rate

DIFFERENCES = (0.55, 0.6, 0.7)
"""Win rates for which the number of votes is given."""
SEED = 0


@dataclass(frozen=True)
class CountedVote:
    """A vote that is not undone.

    Attributes:
        pair: (prompt, a, b) with the answers in a fixed order, so that both orders of a pair are one.
        value: of the answer that is first in `pair`: 1, 0.5 or 0; None for bad.
        models: of the answers in `pair`; None if they are unknown.
        first_shown: whether the preferred answer was shown first; None without a preference or an order.
    """

    pair: tuple[str, str, str]
    value: float | None
    models: tuple[str, str] | None
    voter: str | None
    kind: str
    first_shown: bool | None


def read(path: Path) -> list[CountedVote]:
    """Return the votes of a file that are not undone, in order.

    Raises:
        DataError: it cannot be read.
    """
    return [_counted(row) for _, row in read_rows(path)]


def _counted(row: Any) -> CountedVote:
    value = VALUES[str(row["vote"]).strip().lower()]
    first, second = row["answer_a"], row["answer_b"]
    models = row.get("models")
    models = json.loads(models) if isinstance(models, str) else models
    shown = row.get("shown")
    is_first = None if value in (None, 0.5) or shown is None else (value == 1.0) == (shown == "ab")
    kind = row.get("kind") or "normal"
    # A check keeps its order: the answer that is whole is always a.
    if kind != "attention" and second < first:
        first, second, value = second, first, None if value is None else 1 - value
        models = models[::-1] if models else None
    pair = (prompt_key(row["prompt"]), first, second)
    return CountedVote(pair, value, tuple(models) if models else None, row.get("voter"), kind, is_first)


def statistics(votes: Sequence[CountedVote]) -> dict[str, Any]:
    """Return the statistics of votes as a JSON object (docs/FEEDBACK.md describes it)."""
    normal = [vote for vote in votes if vote.kind == "normal"]
    first = [float(vote.first_shown) for vote in normal if vote.first_shown is not None]
    return {
        "votes": len(normal),
        "pairs": len({vote.pair for vote in normal}),
        "voters": len({vote.voter for vote in normal}),
        "ties": sum(vote.value == 0.5 for vote in normal),
        "bad": sum(vote.value is None for vote in normal),
        "first_preferred": _share(first),
        "agreement": agreement_of(normal),
        "consistent": _share(consistency(votes)),
        "checks_passed": _share([float(vote.value == 1.0) for vote in votes if vote.kind == "attention"]),
        "by_voter": by_voter(votes),
        "comparisons": comparisons(normal),
    }


def agreement_of(votes: Sequence[CountedVote]) -> dict[str, Any] | None:
    """Return Krippendorff's alpha between voters on pairs that several voted on; None if there are none."""
    ratings: dict[tuple[str, str, str], dict[Hashable, float | str]] = defaultdict(dict)
    for vote in votes:
        ratings[vote.pair][vote.voter] = "bad" if vote.value is None else vote.value
    shared = [given for given in ratings.values() if len(given) > 1]
    if not shared:
        return None
    voters = sorted({voter for given in shared for voter in given}, key=str)
    rows = [[given.get(voter) for given in shared] for voter in voters]
    found = agreement.krippendorff_alpha(rows, seed=SEED)
    return {**found.as_json("alpha"), "pairs": len(shared)}


def consistency(votes: Sequence[CountedVote]) -> list[float]:
    """Return for each repeated pair whether the same person voted the same again."""
    first = {(vote.voter, vote.pair): vote.value for vote in votes if vote.kind == "normal"}
    return [
        float(first[vote.voter, vote.pair] == vote.value)
        for vote in votes
        if vote.kind == "repeat" and (vote.voter, vote.pair) in first
    ]


def by_voter(votes: Sequence[CountedVote]) -> list[dict[str, Any]]:
    """Return for each voter the number of votes, consistency and passed checks, most votes first."""
    own: dict[str | None, list[CountedVote]] = defaultdict(list)
    for vote in votes:
        own[vote.voter].append(vote)
    rows = []
    for voter, given in own.items():
        checks = [vote.value == 1.0 for vote in given if vote.kind == "attention"]
        same = consistency(given)
        rows.append({
            "voter": voter, "votes": sum(vote.kind == "normal" for vote in given),
            "repeats": len(same), "same": int(sum(same)), "checks": len(checks), "passed": sum(checks),
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["votes"])


def comparisons(votes: Sequence[CountedVote]) -> list[dict[str, Any]]:
    """Return the win rate of each pair of models, that of the first in alphabetical order.

    A bad vote counts as a tie. The win rate and its interval are over prompts, each the mean of its votes.
    The verdict is valid at any time (`toolkit.stats.sequential`): it takes the first vote on each prompt,
    in the order of the votes, so that later votes change nothing of the past.
    """
    outcomes: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for vote in votes:
        if vote.models is None or vote.models[0] == vote.models[1]:
            continue
        models, value = vote.models, 0.5 if vote.value is None else vote.value
        if models[1] < models[0]:
            models, value = models[::-1], 1 - value
        outcomes[models].append((vote.pair[0], value))
        name = "bad" if vote.value is None else {1.0: "wins", 0.5: "ties", 0.0: "losses"}[value]
        counts[models][name] += 1
    return [_comparison(models, given, counts[models]) for models, given in sorted(outcomes.items())]


def _comparison(
    models: tuple[str, str], given: Sequence[tuple[str, float]], counts: Counter[str]
) -> dict[str, Any]:
    values = [value for _, value in given]
    estimate = win_rate(values, [prompt for prompt, _ in given], seed=SEED)
    first: dict[str, float] = {}
    for prompt, value in given:
        first.setdefault(prompt, value)
    means: dict[str, list[float]] = defaultdict(list)
    for prompt, value in given:
        means[prompt].append(value)
    sequence = sequential.anytime(list(first.values()))
    deviation = float(np.std([fmean(one) for one in means.values()], ddof=1)) if len(means) > 1 else 0.0
    return {
        "models": list(models),
        "votes": len(given),
        "prompts": len(first),
        **{name: counts[name] for name in ("wins", "ties", "losses", "bad")},
        **estimate.bootstrap.as_json("win_rate"),
        "anytime": sequence.as_json(),
        "verdict": None if sequence.decided_at is None else models[int(sequence.rate.estimate < 0.5)],
        "power": power(len(first), estimate.bootstrap.estimate, deviation or significance.COIN),
    }


def power(n: int, share: float, deviation: float) -> dict[str, Any]:
    """Return the win rate that n prompts can tell from one half, and how many more others need.

    With a probability of 80 % at the 95 % level (`toolkit.stats.significance`).

    Args:
        deviation: standard deviation of the outcome of a prompt.
    """
    needed = {
        str(rate): max(0, round(significance.prompts_needed(rate, deviation=deviation)) - n)
        for rate in DIFFERENCES
    }
    observed = significance.prompts_needed(share, deviation=deviation)
    return {
        "detectable": significance.detectable_share(n, deviation=deviation),
        "more_for": needed,
        "more_for_observed": None if observed > significance.UNREACHABLE else max(0, int(observed) - n),
    }


def _share(values: Sequence[float]) -> dict[str, Any] | None:
    return stats.wilson(sum(values), len(values)).as_json("share") | {"n": len(values)} if values else None
