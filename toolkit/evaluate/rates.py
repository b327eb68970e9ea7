"""Win rates and a ranking from outcomes of models against a baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from toolkit.runs.evaluation import WinRateResult
from toolkit.stats import Estimate, rankings, win_rates
from toolkit.stats.rankings import PairedComparison
from toolkit.stats.sequential import anytime
from toolkit.stats.significance import holm, power_text, verdict

NOT_AT_ANY_TIME = frozenset(
    {"seed", "wilson_interval", "length_controlled_interval", "length_effect_interval", "power"}
)
"""Numbers that are null where the judging stopped early: they assume a fixed number of prompts."""


def rate_all(
    outcomes: Mapping[str, np.ndarray],
    longer: Mapping[str, np.ndarray],
    *,
    units: Mapping[str, np.ndarray] | None = None,
    seed: int,
    samples: int,
    doubt: str | None = None,
    stopped: bool = False,
) -> dict[str, WinRateResult]:
    """Return the win rate of each model, length-controlled too, with its adjusted p-value and the verdict.

    Args:
        outcomes: outcomes of each model against the baseline, between 0 and 1, (answers,).
        longer: tokens of its answers minus those of the baseline's, (answers,).
        units: the prompt of each answer, (answers,); by default every answer has its own.
        doubt: the reason for which the judge's verdicts do not count; the verdict is then `no verdict`.
        stopped: the outcomes decided when the judging stopped. They must be in the order of judging;
            intervals and p-values are then anytime-valid, and numbers without such an interval have none.
    """
    rows: dict[str, WinRateResult] = {}
    for name, values in outcomes.items():
        prompts = None if units is None else units[name].tolist()
        rate = win_rates.win_rate(values, prompts, seed=seed, samples=samples)
        controlled, effect = win_rates.length_controlled(
            values, longer[name], prompts, seed=seed, samples=samples
        )
        row = WinRateResult(
            **asdict(rate.bootstrap),
            wilson_interval=rate.wilson.interval,
            comparisons=rate.comparisons,
            wins=rate.wins,
            ties=rate.ties,
            losses=rate.losses,
            tie_share=rate.ties / rate.comparisons,
            p_value=rate.p_value,
            length_controlled=controlled,
            length_effect=effect,
            power=power_text(rate.bootstrap.n, rate.bootstrap.estimate),
        )
        rows[name] = _at_any_time(row, win_rates.by_prompt(values, prompts)[0]) if stopped else row
    p_values = holm([rate.p_value for rate in rows.values()])
    return {
        name: replace(
            row,
            p_value_holm=adjusted,
            verdict=verdict(*row.interval, adjusted) if doubt is None else "no verdict",
        )
        for (name, row), adjusted in zip(rows.items(), p_values, strict=True)
    }


def _at_any_time(row: WinRateResult, means: np.ndarray) -> WinRateResult:
    """Return a row without the numbers that assume a fixed number of prompts; means (prompts,)."""
    sequential = anytime(means)
    return replace(
        row,
        **asdict(sequential.rate),
        wilson_interval=None,
        length_controlled=_without_interval(row.length_controlled),
        length_effect=_without_interval(row.length_effect),
        power=None,
        e_value=sequential.e_value,
        p_value=min(1.0, 1.0 / sequential.e_value),
        nulls=NOT_AT_ANY_TIME,
    )


def _without_interval(estimate: Estimate) -> Estimate:
    return replace(estimate, low=math.nan, high=math.nan)


def power_of(rows: Mapping[str, WinRateResult], n: int) -> str:
    """Describe the power of n prompts, and the n that the undecided model farthest from 50% would need."""
    open_rates = [row.estimate for row in rows.values() if row.verdict == "no verdict"]
    return power_text(n, max(open_rates, key=lambda share: abs(share - 0.5), default=None))


def ranking(
    outcomes: Mapping[tuple[str, str], np.ndarray], *, seed: int, samples: int, samples_per_prompt: int = 1
) -> dict[str, Any] | None:
    """Return Bradley-Terry strengths of models that answered the same prompts; None for fewer than three.

    Args:
        outcomes: by pair of models, of the first against the second, nan without a verdict, (answers,).
    """
    if len({name for pair in outcomes for name in pair}) < 3:
        return None
    comparisons = [
        PairedComparison(*pair, float(outcome), number // samples_per_prompt)
        for pair, values in outcomes.items()
        for number, outcome in enumerate(values)
        if not np.isnan(outcome)
    ]
    return rankings.bradley_terry(comparisons, seed=seed, samples=samples).as_json()
