"""Whether a training has collapsed, or pays for answers that are none any more.

What it compares with is the first rollout, which the reference sampled. The thresholds are judgements, set so
that the shipped recipes never reach them and the planted collapses of the tests do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toolkit.base.errors import ToolkitError
from toolkit.ppo.rollout import Episode

GRAM = 4
"""Tokens in a row that count as a repetition where they come again in the same answer."""
RISE = 0.5
"""Standard deviations of the first rollout's scores; with 64 answers chance alone moves a mean by 0.18."""
MORE_REPETITION, LENGTH_FACTOR, FEWER_ANSWERS = 0.2, 2.0, 0.5
KL_A_TOKEN = 0.25
"""Nats. Aligned models of the shipped recipes are at 0.02 to 0.15; the pretrained one is 0.6 from sft."""
ALL_REPETITION, ALL_ALIKE, PATIENCE = 0.8, 0.125, 3
"""Collapsed: shares of repetition and of answers that differ, seen in so many rollouts one after another."""


def require_finite(values: Sequence[float], what: str, *, rollout: int) -> None:
    """Raise ToolkitError where a number is NaN or infinite: nothing after it would mean anything."""
    if not np.isfinite(values).all():
        raise _collapsed(f"the {what} is not finite any more", rollout)


def _collapsed(why: str, rollout: int) -> ToolkitError:
    return ToolkitError(
        f"training collapsed: {why}",
        where=f"ppo, rollout {rollout}",
        fix="lower learning_rate or raise kl_coefficient, and start over",
    )


def signs(episodes: Sequence[Episode]) -> dict[str, float]:
    """`repetition`: share of an answer's 4-grams that it has said before, the mean over the answers.
    `distinct`: answers that differ, 1 where all do and 0 where all are the same, in a rollout of any size."""
    different = {tuple(episode.answer_ids) for episode in episodes}
    others = len(episodes) - 1
    return {
        "repetition": float(np.mean([_repetition(episode.answer_ids) for episode in episodes])),
        "distinct": (len(different) - 1) / others if others else 1.0,
    }


def _repetition(ids: Sequence[int]) -> float:
    grams = list(zip(*(ids[start:] for start in range(GRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def watch(
    seen: dict[str, Any],
    episodes: Sequence[Episode],
    numbers: Mapping[str, float],
    *,
    rollout: int,
    stop: bool,
) -> tuple[dict[str, float], list[str]]:
    """The `signs` of a rollout, and what `look` says of them and of its score, length and KL."""
    found = signs(episodes)
    spread = float(np.std([episode.score for episode in episodes]))
    both = {**found, **{name: numbers[name] for name in ("score", "length", "kl")}}
    return found, look(seen, both, spread=spread, rollout=rollout, stop=stop)


def look(
    seen: dict[str, Any], numbers: Mapping[str, float], *, spread: float, rollout: int, stop: bool
) -> list[str]:
    """Return what people should be told about a rollout, each thing once in a training.

    Args:
        seen: what it knows of the rollouts before; changed. Plain values of JSON.
        numbers: of this rollout: those of `signs`, score, length, kl.
        spread: the standard deviation of its scores; that of the first rollout is kept.
        stop: raise where the answers have collapsed, rather than say so.

    Raises:
        ToolkitError: three rollouts in a row whose answers are all repetition, or all the same.
    """
    if not seen:
        seen |= {"first": {**numbers, "spread": spread}, "in_a_row": 0, "told": []}
    first = seen["first"]
    broken = _broken(numbers, first)
    seen["in_a_row"] = seen["in_a_row"] + 1 if broken else 0
    if seen["in_a_row"] >= PATIENCE and stop:
        raise _collapsed(f"for {PATIENCE} rollouts {broken}", rollout)
    found = {"collapse": broken} if broken else {}
    if numbers["score"] > first["score"] + RISE * first["spread"]:
        change = f"the score rose from {first['score']:.3g} to {numbers['score']:.3g}, but"
        found |= {name: f"{change} {what}" for name, what in _degenerate(numbers, first).items()}
    new = [name for name in found if name not in seen["told"]]
    seen["told"] += new
    return [f"rollout {rollout}: {found[name]}" for name in new]


def _broken(now: Mapping[str, float], first: Mapping[str, float]) -> str | None:
    if now["repetition"] > max(ALL_REPETITION, first["repetition"] + MORE_REPETITION):
        return f"{now['repetition']:.0%} of the answers' text was repetition"
    if now["distinct"] < ALL_ALIKE * first["distinct"]:
        return f"only {now['distinct']:.0%} of the answers differed from one another"
    return None


def _degenerate(now: Mapping[str, float], first: Mapping[str, float]) -> dict[str, str]:
    found = {}
    if now["repetition"] > first["repetition"] + MORE_REPETITION:
        found["repetition"] = (
            f"answers repeat themselves ({first['repetition']:.0%} of their text at first, "
            f"now {now['repetition']:.0%})"
        )
    if now["distinct"] < FEWER_ANSWERS * first["distinct"]:
        found["distinct"] = f"answers become alike ({now['distinct']:.0%} differ)"
    if not first["length"] / LENGTH_FACTOR <= now["length"] <= first["length"] * LENGTH_FACTOR:
        found["length"] = f"answers went from {first['length']:.0f} tokens to {now['length']:.0f}"
    if now["kl"] > KL_A_TOKEN * now["length"]:
        found["kl"] = f"KL is at {now['kl'] / now['length']:.2f} nats a token: hardly the reference any more"
    return found
