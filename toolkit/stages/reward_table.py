"""The measurements of a reward model as rows of a table; no torch import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit import stats


def table_rows(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (label, value) of each result of `reward_quality.measure`."""
    accuracy = stats.interval_text(numbers, "accuracy", percent=True)
    rows = [("accuracy, ties half", accuracy)]
    if numbers.get("ties"):
        rows.append(("ties", f"{numbers['ties']} of {numbers['n']}"))
    if numbers.get("bayes_accuracy") is not None:
        rows.append(("the best possible (Bayes)", f"{numbers['bayes_accuracy']:.1%}"))
        gold = stats.interval_text(numbers, "gold_accuracy", percent=True)
        rows.append(("agrees with the true utility", gold))
    calibration = numbers.get("calibration")
    if calibration:
        error, usual = calibration["calibration_error"], calibration["calibration_error_usual"]
        rows += [
            ("calibration error", f"{error:.3f} (up to {usual:.3f} by chance)"),
            ("slope, 1 calibrated", stats.interval_text(calibration, "slope", digits=2)),
        ]
    rows += [
        (f"where annotators agree {row['agreement'][0]:.0%} to {row['agreement'][1]:.0%}",
         f"{stats.interval_text(row, 'accuracy', percent=True)} of {row['n']}; Bayes {row['bayes']:.0%}")
        for row in numbers.get("by_annotator", [])
    ]  # fmt: skip
    bias = numbers.get("length_bias")
    if bias:
        text = f"{bias['model']:.0%} of {bias['n']} pairs (people: {bias['people']:.0%})"
        rows += [
            ("prefers the longer answer", text),
            ("length bias", stats.interval_text(bias, "bias", percent=True)),
        ]
    rows.append(("end-of-text adds to a score", stats.interval_text(numbers, "end_of_text", digits=2)))
    if numbers.get("padding") is not None:
        rows.append(("padding changes at most", f"{numbers['padding']:.1e}"))
    return rows
