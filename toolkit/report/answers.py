"""answers.jsonl of an evaluate run, as pairs to browse."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.runs import layout

SHOWN = 12
"""Prompts of each kind that the page shows: 400 prompts of four models would be 2 MB."""
KINDS = {1.0: "won", 0.5: "tied", 0.0: "lost"}


def grouped(run: Path, *, baseline: str) -> list[dict[str, Any]]:
    """Models with what they won, tied and lost against the baseline; empty where nothing was compared.

    Returns:
        One group a model: `model`, and `kinds` with `name`, `count` and `pairs` of prompt, answer, other and
        the scores, where the judge gives some.
    """
    path = run / layout.ANSWERS
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    base = {row["number"]: row for row in rows if row["model"] == baseline}
    groups = []
    for model in dict.fromkeys(row["model"] for row in rows if row.get("outcome") is not None):
        own = [row for row in rows if row["model"] == model and row["number"] in base]
        kinds = []
        for outcome, name in KINDS.items():
            found = [row for row in own if _kind(row.get("outcome")) == outcome]
            pairs = [_pair(row, base[row["number"]]) for row in found[:SHOWN]]
            kinds.append({"name": name, "count": len(found), "pairs": pairs})
        groups.append({"model": model, "baseline": baseline, "kinds": kinds})
    return groups


def _kind(outcome: float | None) -> float | None:
    """Means of several votes lie between: what is nearer to a win counts as one."""
    return None if outcome is None else 1.0 if outcome > 0.5 else 0.0 if outcome < 0.5 else 0.5


def _pair(own: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, str]:
    return {
        "prompt": own["prompt"][-1]["content"],
        "answer": _shown(own),
        "other": _shown(other),
        "score": _score(own),
        "other_score": _score(other),
    }


def _shown(row: Mapping[str, Any]) -> str:
    return row["answer"].strip() + ("" if row["ended"] else " \N{HORIZONTAL ELLIPSIS}")


def _score(row: Mapping[str, Any]) -> str:
    return "" if row.get("score") is None else f"{row['score']:.2f}"
