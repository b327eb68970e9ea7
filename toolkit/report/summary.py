"""The numbers of a folder of runs: one dictionary for programs, tables for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from toolkit.base.errors import RunError
from toolkit.runs import layout

REMEASURED = ("ended", "mean_length")
"""Measured by an evaluate stage on the same prompts for all models, they replace what ppo saw in training."""


def summarize(runs: Sequence[Path]) -> dict:
    """Return `{"stages": {name: numbers}, "samples": [...]}` of sealed runs, in their order.

    A stage has what its own evaluation.json says, `stage` and `seconds`; what an evaluate stage measured
    of a model stands under that model's stage (`stages.dpo.win_rate`, `.kl_to_baseline` ...).

    Raises:
        RunError: a path that is not a finished run.
    """
    stages: dict[str, dict] = {}
    evaluations = []
    for path in runs:
        numbers = _read(path, layout.EVALUATION, default={})
        kind = _stage_of(path)
        row = {"stage": kind, "seconds": _read(path, layout.TIMING, default={}).get("seconds")}
        if kind == "evaluate":
            evaluations.append(numbers)
            row |= {key: value for key, value in numbers.items() if key != "models"}
        else:
            row |= numbers
        stages[path.name] = row
    summary: dict = {"stages": stages, "samples": []}
    for numbers in evaluations:
        _merge(summary, numbers)
    return summary


def _stage_of(path: Path) -> str:
    manifest = _read(path, layout.MANIFEST)
    return manifest["stage"]


def _read(path: Path, name: str, *, default: dict | None = None) -> dict:
    try:
        return json.loads((path / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if default is not None:
            return default
        raise RunError(
            f"there is no {name}", where=str(path), fix="give the directory of a finished run"
        ) from None


def _merge(summary: dict, numbers: dict) -> None:
    """Put what an evaluate stage measured of each model beside that model's own numbers."""
    prompts: dict[str, dict[str, str]] = {}
    for name, measured in numbers.get("models", {}).items():
        row = summary["stages"].setdefault(name, {})
        for key, value in measured.items():
            if key == "samples":
                for sample in value:
                    prompts.setdefault(sample["prompt"], {})[name] = sample["answer"]
            elif key in row and not key.startswith(REMEASURED):
                continue  # the stage's own measurement
            else:
                row[key] = value
    summary["samples"] += [{"prompt": prompt, "answers": answers} for prompt, answers in prompts.items()]


def win_rate_text(row: dict, *, doubt: str = " (no verdict)") -> str:
    """Return `71.5% [66.0, 77.0]`, with `doubt` after it where the verdict is `no verdict`."""
    rate = row.get("win_rate")
    if rate is None:
        return "baseline" if row.get("is_baseline") else "-"
    text = f"{rate['estimate']:.1%} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
    return text + doubt if rate.get("verdict") == "no verdict" else text
