"""The metrics of a reward model as rows of a table; no torch import."""

from __future__ import annotations

from toolkit.report.wording import Message, Part, message
from toolkit.runs.evaluation import RewardMetrics
from toolkit.stats import estimate_text, interval_text


def table_rows(metrics: RewardMetrics) -> list[tuple[Message, Part]]:
    """Return (label, value) of each metric that was measured."""
    rows: list[tuple[Message, Part]] = [
        (message("reward.label.accuracy"), estimate_text(metrics.accuracy, percent=True))
    ]
    if metrics.ties:
        ties = message("reward.value.of", some=str(metrics.ties), all=str(metrics.n))
        rows.append((message("reward.label.ties"), ties))
    if metrics.bayes_accuracy is not None:
        rows += [
            (message("reward.label.bayes"), f"{metrics.bayes_accuracy:.1%}"),
            (message("reward.label.gold"), estimate_text(metrics.gold_accuracy, percent=True)),
        ]
    calibration = metrics.calibration
    if calibration:
        error, usual = calibration["calibration_error"], calibration["calibration_error_usual"]
        up_to = message("reward.value.calibration", error=f"{error:.3f}", usual=f"{usual:.3f}")
        rows += [
            (message("reward.label.calibration"), up_to),
            (message("reward.label.slope"), interval_text(calibration, "slope", digits=2)),
        ]
    for row in metrics.by_annotator or []:
        low, high = (f"{share:.0%}" for share in row.agreement)
        accuracy = message(
            "reward.value.agreement",
            accuracy=estimate_text(row.accuracy, percent=True),
            n=str(row.n),
            bayes=f"{row.bayes:.0%}",
        )
        rows.append((message("reward.label.agreement", low=low, high=high), accuracy))
    bias = metrics.length_bias
    if bias is not None:
        longer = message(
            "reward.value.longer", model=f"{bias.model:.0%}", n=str(bias.n), people=f"{bias.people:.0%}"
        )
        rows += [
            (message("reward.label.longer"), longer),
            (message("reward.label.length_bias"), estimate_text(bias.bias, percent=True)),
        ]
    for found in metrics.score_biases or []:
        label = message("reward.label.word", word=found.word) if found.word else message("reward.label.words")
        rows.append((label, estimate_text(found.bias, digits=2)))
    rows.append((message("reward.label.end"), estimate_text(metrics.end_of_text, digits=2)))
    if metrics.padding is not None:
        rows.append((message("reward.label.padding"), f"{metrics.padding:.1e}"))
    return rows
