"""The pairs of answers in answers.jsonl of an evaluate run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from toolkit.runs import layout

SHOWN = 12
"""Pairs of each outcome on the page: all 400 prompts of four models would be 2 MB."""
OUTCOMES = {1.0: "won", 0.5: "tied", 0.0: "lost"}
Row = Mapping[str, object]
"""A line of answers.jsonl."""


def grouped(
    run: Path, *, baseline: str | None, names: Mapping[str, str] | None = None
) -> list[dict[str, object]]:
    """Return the answers of each model with those of the baseline, grouped by outcome.

    Args:
        baseline: the name of the baseline on the page.
        names: `{name in answers.jsonl: name on the page}`; by default they are the same.

    Returns:
        One group for each model: `model`, `baseline`, and `kinds` with `name`, `count` and `pairs` of
        `prompt`, `answer`, `other` and their scores if the judge gives scores; empty if the run compared
        nothing.
    """
    path = run / layout.ANSWERS
    if baseline is None or not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if names is not None:
        rows = [{**row, "model": names[row["model"]]} for row in rows]
    baseline_rows = {row["number"]: row for row in rows if row["model"] == baseline}
    groups = []
    for model in dict.fromkeys(row["model"] for row in rows if row.get("outcome") is not None):
        model_rows = [row for row in rows if row["model"] == model and row["number"] in baseline_rows]
        kinds = []
        for outcome, name in OUTCOMES.items():
            matching = [row for row in model_rows if _rounded(row.get("outcome")) == outcome]
            pairs = [_pair(row, baseline_rows[row["number"]]) for row in matching[:SHOWN]]
            kinds.append({"name": name, "count": len(matching), "pairs": pairs})
        groups.append({"model": model, "baseline": baseline, "kinds": kinds})
    return groups


def _rounded(outcome: float | None) -> float | None:
    """Round the mean outcome of several votes to a win, a tie or a loss."""
    return None if outcome is None else 1.0 if outcome > 0.5 else 0.0 if outcome < 0.5 else 0.5


def _pair(row: Row, baseline_row: Row) -> dict[str, str]:
    return {
        "prompt": row["prompt"][-1]["content"],
        "answer": _answer_text(row),
        "other": _answer_text(baseline_row),
        "score": _score_text(row),
        "other_score": _score_text(baseline_row),
    }


def _answer_text(row: Row) -> str:
    return row["answer"].strip() + ("" if row["ended"] else " \N{HORIZONTAL ELLIPSIS}")


def _score_text(row: Row) -> str:
    return "" if row.get("score") is None else f"{row['score']:.2f}"
