"""Detects a training that has collapsed, or whose score rises while its answers degenerate.

Rollouts are compared with the first, which the reference sampled. The thresholds are judgements: the shipped
recipes never reach them, the planted collapses of the tests do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toolkit.base.errors import ToolkitError
from toolkit.ppo.episode import Episode

GRAM = 4
"""Length, in tokens, of the n-grams that count as repetition where an answer has them again."""
SCORE_RISE = 0.5
"""In standard deviations of the first rollout's scores; with 64 answers chance moves a mean by 0.18."""
REPETITION_RISE, LENGTH_FACTOR, DISTINCT_FACTOR = 0.2, 2.0, 0.5
KL_PER_TOKEN = 0.25
"""Nats. Aligned models of the shipped recipes are at 0.02 to 0.15; the pretrained one is 0.6 from sft."""
COLLAPSED_REPETITION, COLLAPSED_DISTINCT, PATIENCE = 0.8, 0.125, 3
"""Shares of repetition and of distinct answers that are a collapse, after this many rollouts in a row."""


def require_finite(values: Sequence[float], name: str, *, rollout: int) -> None:
    """Raise ToolkitError if a value is NaN or infinite."""
    if not np.isfinite(values).all():
        raise _collapsed(f"the {name} is not finite", rollout)


def _collapsed(reason: str, rollout: int) -> ToolkitError:
    return ToolkitError(
        f"training collapsed: {reason}",
        where=f"ppo, rollout {rollout}",
        fix="lower learning_rate or raise kl_coefficient, and start over",
    )


def diversity(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return `repetition`, the mean share of an answer's 4-grams that it has had before, and `distinct`,
    from 0 (all answers are equal) to 1 (all differ), in a rollout of any size."""
    distinct = {tuple(episode.answer_ids) for episode in episodes}
    others = len(episodes) - 1
    return {
        "repetition": float(np.mean([_repetition(episode.answer_ids) for episode in episodes])),
        "distinct": (len(distinct) - 1) / others if others else 1.0,
    }


def _repetition(ids: Sequence[int]) -> float:
    grams = list(zip(*(ids[start:] for start in range(GRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def check_rollout(
    state: dict[str, Any],
    episodes: Sequence[Episode],
    metrics: Mapping[str, float],
    *,
    rollout: int,
    stop: bool,
) -> tuple[dict[str, float], list[str]]:
    """Return the `diversity` of a rollout, and the warnings of `check`."""
    measured = diversity(episodes)
    spread = float(np.std([episode.score for episode in episodes]))
    compared = {**measured, **{name: metrics[name] for name in ("score", "length", "kl")}}
    return measured, check(state, compared, spread=spread, rollout=rollout, stop=stop)


def check(
    state: dict[str, Any], metrics: Mapping[str, float], *, spread: float, rollout: int, stop: bool
) -> list[str]:
    """Return warnings about a rollout; a training repeats none.

    Args:
        state: of the rollouts before, changed in place; empty at first, JSON values.
        metrics: `repetition`, `distinct`, `score`, `length` and `kl` of this rollout.
        spread: the standard deviation of its scores; that of the first rollout is kept.
        stop: raise on a collapse instead of warning.

    Raises:
        ToolkitError: the answers were repetition, or equal, in three rollouts in a row.
    """
    if not state:
        state |= {"first": {**metrics, "spread": spread}, "in_a_row": 0, "told": []}
    first = state["first"]
    collapse = _collapse(metrics, first)
    state["in_a_row"] = state["in_a_row"] + 1 if collapse else 0
    if state["in_a_row"] >= PATIENCE and stop:
        raise _collapsed(f"for {PATIENCE} rollouts {collapse}", rollout)
    warnings = {"collapse": collapse} if collapse else {}
    if metrics["score"] > first["score"] + SCORE_RISE * first["spread"]:
        change = f"the score rose from {first['score']:.3g} to {metrics['score']:.3g}, but"
        warnings |= {name: f"{change} {text}" for name, text in _degeneration(metrics, first).items()}
    new = [name for name in warnings if name not in state["told"]]
    state["told"] += new
    return [f"rollout {rollout}: {warnings[name]}" for name in new]


def _collapse(now: Mapping[str, float], first: Mapping[str, float]) -> str | None:
    if now["repetition"] > max(COLLAPSED_REPETITION, first["repetition"] + REPETITION_RISE):
        return f"{now['repetition']:.0%} of the answers' text was repetition"
    if now["distinct"] < COLLAPSED_DISTINCT * first["distinct"]:
        return f"only {now['distinct']:.0%} of the answers differed from one another"
    return None


def _degeneration(now: Mapping[str, float], first: Mapping[str, float]) -> dict[str, str]:
    warnings = {}
    if now["repetition"] > first["repetition"] + REPETITION_RISE:
        warnings["repetition"] = (
            f"answers repeat themselves ({first['repetition']:.0%} of their text at first, "
            f"now {now['repetition']:.0%})"
        )
    if now["distinct"] < DISTINCT_FACTOR * first["distinct"]:
        warnings["distinct"] = f"answers become alike ({now['distinct']:.0%} differ)"
    if not first["length"] / LENGTH_FACTOR <= now["length"] <= first["length"] * LENGTH_FACTOR:
        warnings["length"] = f"answers went from {first['length']:.0f} tokens to {now['length']:.0f}"
    if now["kl"] > KL_PER_TOKEN * now["length"]:
        warnings["kl"] = f"KL is at {now['kl'] / now['length']:.2f} nats per token, far from the reference"
    return warnings
