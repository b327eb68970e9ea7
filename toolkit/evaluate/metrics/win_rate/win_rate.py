"""Win rate of scored answers for `evaluate.load`: the numbers of `toolkit evaluate --baseline`."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np

from toolkit.evaluate.judges import compare as compare_scores
from toolkit.stats.significance import verdict
from toolkit.stats.win_rates import win_rate

DESCRIPTION = """How often a model's answer is better than a baseline's to the same prompt: a win counts 1, a
tie one half. The unit is the prompt; the interval is a bootstrap over prompts, the p-value that of the exact
sign test."""
INPUTS = """
Args:
    predictions: a judge's score of the model's answer, one a prompt.
    references: its score of the baseline's answer to the same prompt, in the same order.
    tie: scores at most so far apart are a tie (default 0).
    seed, samples: of the bootstrap (default 0, 2000).
Returns:
    win_rate, win_rate_interval (95 %), n, wins, ties, losses, p_value, and verdict: "better" or "worse" where
    the interval excludes one half and the sign test is clear, else "no verdict".
Example:
    >>> import evaluate
    >>> from toolkit.evaluate import metrics
    >>> metric = evaluate.load(metrics.folder("win_rate"))
    >>> metric.compute(predictions=[1.0, 2.0, 3.0], references=[0.5, 2.0, 1.0])["win_rate"]
"""


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, INPUTS)
class WinRate(evaluate.Metric):
    """A module of the evaluate library."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            module_type="metric",
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(
        self,
        predictions: list[float],
        references: list[float],
        *,
        tie: float = 0.0,
        seed: int = 0,
        samples: int = 2000,
    ) -> dict[str, object]:
        outcomes = compare_scores(np.asarray(predictions), np.asarray(references), tie=tie)
        rate = win_rate(outcomes, seed=seed, samples=samples)
        low, high = rate.bootstrap.interval
        return {
            **rate.bootstrap.as_json("win_rate"),
            "n": rate.bootstrap.n,
            "wins": rate.wins,
            "ties": rate.ties,
            "losses": rate.losses,
            "p_value": rate.p_value,
            "verdict": verdict(low, high, rate.p_value),
        }
