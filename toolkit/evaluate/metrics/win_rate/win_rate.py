"""Win rate of scored answers for `evaluate.load`: the numbers of `toolkit evaluate --baseline`."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np

from toolkit import stats
from toolkit.evaluate.judges import compare as compare_scores

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
    the interval excludes one half, else "no verdict".
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
        rate = stats.bootstrap_share(outcomes, seed=seed, samples=samples)
        wins, losses = int((outcomes == 1).sum()), int((outcomes == 0).sum())
        verdict = "better" if rate.estimate > 0.5 else "worse"
        return {
            **rate.as_json("win_rate"),
            "n": rate.n,
            "wins": wins,
            "ties": len(outcomes) - wins - losses,
            "losses": losses,
            "p_value": stats.sign_test(wins, losses),
            "verdict": verdict if rate.excludes(0.5) else "no verdict",
        }
