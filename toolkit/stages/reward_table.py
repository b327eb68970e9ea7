"""The metrics of a reward model as rows of a table; no torch import."""

from __future__ import annotations

from toolkit.runs.evaluation import RewardMetrics
from toolkit.stats import estimate_text, interval_text


def table_rows(metrics: RewardMetrics) -> list[tuple[str, str]]:
    """Return (label, value) of each metric that was measured."""
    rows = [("accuracy, ties half", estimate_text(metrics.accuracy, percent=True))]
    if metrics.ties:
        rows.append(("ties", f"{metrics.ties} of {metrics.n}"))
    if metrics.bayes_accuracy is not None:
        rows.append(("the best possible (Bayes)", f"{metrics.bayes_accuracy:.1%}"))
        rows.append(("agrees with the true utility", estimate_text(metrics.gold_accuracy, percent=True)))
    calibration = metrics.calibration
    if calibration:
        error, usual = calibration["calibration_error"], calibration["calibration_error_usual"]
        rows += [
            ("calibration error", f"{error:.3f} (up to {usual:.3f} by chance)"),
            ("slope, 1 calibrated", interval_text(calibration, "slope", digits=2)),
        ]
    rows += [
        (f"where annotators agree {row.agreement[0]:.0%} to {row.agreement[1]:.0%}",
         f"{estimate_text(row.accuracy, percent=True)} of {row.n}; Bayes {row.bayes:.0%}")
        for row in metrics.by_annotator or []
    ]  # fmt: skip
    bias = metrics.length_bias
    if bias is not None:
        text = f"{bias.model:.0%} of {bias.n} pairs (annotators: {bias.people:.0%})"
        rows += [
            ("prefers the longer answer", text),
            ("length bias", estimate_text(bias.bias, percent=True)),
        ]
    rows += [
        (
            "in units of the utility, " + (f'"{found.word}" adds' if found.word else "each word adds"),
            estimate_text(found.bias, digits=2),
        )
        for found in metrics.score_biases or []
    ]
    rows.append(("end-of-text adds to a score", estimate_text(metrics.end_of_text, digits=2)))
    if metrics.padding is not None:
        rows.append(("padding changes at most", f"{metrics.padding:.1e}"))
    return rows
