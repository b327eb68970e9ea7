"""The training curves of one run, by stage: for the report and for notebooks."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.config.registry import STAGES
from toolkit.report import figures


def draw(stage: str, rows: Sequence[dict[str, Any]], numbers: Mapping[str, Any] | None = None) -> str | None:
    """Return the curves of a run as an `<svg>` element, None where its stage has none or nothing is logged.

    Args:
        stage: of the run.
        rows: of its metrics.jsonl.
        numbers: of its evaluation.json, for the levels; empty while the run is not finished.
    """
    numbers = dict(numbers or {})
    record = STAGES.get(stage)
    if record is not None and record.figure is not None:
        module, _, function = record.figure.partition(":")
        return getattr(importlib.import_module(module), function)(rows, numbers)
    return figures.tuning(
        [
            (curve.title, rows, curve.metric, numbers.get(curve.bound) if curve.bound else None)
            for curve in (() if record is None else record.curves)
        ]
    )
