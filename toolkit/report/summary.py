"""The numbers of several runs as one dictionary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.base.errors import RunError
from toolkit.config.registry import measures_models
from toolkit.evaluate.naming import display_names, evaluated_models, run_identity
from toolkit.runs import layout

Numbers = dict[str, object]
"""Measured values of a run by key, as in its evaluation.json."""
REMEASURED = ("ended", "mean_length")
"""An evaluate run measures these on the same prompts for all models; its values replace those of training."""


@dataclass(frozen=True)
class RunNames:
    """The names under which a summary reports runs and models.

    Attributes:
        runs: the name of each run directory.
        models: for each evaluate run by name, `{name in its evaluation.json: name in the summary}`.
    """

    runs: dict[Path, str]
    models: dict[str, dict[str, str]]


@dataclass(frozen=True)
class BaselineComparison:
    """The models that one evaluate run compared with a baseline.

    Attributes:
        rows: what this evaluate run measured of the baseline and of the models, by name, in the order of its
            recipe.
        is_only: no other evaluate run of the summary compared models, so it needs no label.
    """

    evaluation: str
    baseline: str
    judge: Mapping[str, object]
    rows: dict[str, Numbers]
    is_only: bool

    @property
    def label(self) -> str:
        """The name of the evaluate run in brackets after a space; empty if it is the only one."""
        return "" if self.is_only else f" ({self.evaluation})"

    @property
    def win_rates(self) -> dict[str, Mapping[str, object]]:
        """The win rate of each model but the baseline."""
        return {name: row["win_rate"] for name, row in self.rows.items() if name != self.baseline}


RATES = {
    "wish_rate": "wishes met",
    "answer_accuracy": "answers right",
    "refusal_rate": "unkind refused",
    "over_refusal_rate": "kind refused",
    "wellformed": "grammatical",
}
"""Rates of the small storyworld that tables show -> column heading."""


def rates_of(row: Mapping) -> Mapping[str, Any]:
    """Return the rates of a model's answers; empty if the prompts are not of the small world."""
    return (row.get("gold") or {}).get("rates") or {}


def measured_rates(models: Mapping[str, Mapping]) -> list[str]:
    """Return the rates of RATES that at least one model has."""
    return [rate for rate in RATES if any(rate in rates for rates in models.values())]


def name_runs(runs: Sequence[Path]) -> RunNames:
    """Name runs, and the models that the evaluate runs among them measured (see `display_names`).

    Raises:
        UsageError: a run is given twice.
        RunError: a path is not a finished run.
    """
    references = {path: str(path.absolute()) for path in runs}
    reference_of = {run_identity(path): reference for path, reference in reversed(references.items())}
    evaluated = {}
    for path in references:
        if measures_models(stage_of(path)):
            models = evaluated_models(path)
            evaluated[path] = {name: reference_of.get(model, model) for name, model in models.items()}
    others = [model for models in evaluated.values() for model in models.values()]
    given = [str(path.absolute()) for path in runs]
    names = display_names([*given, *dict.fromkeys(model for model in others if model not in given)])
    return RunNames(
        {path: names[reference] for path, reference in references.items()},
        {
            names[references[path]]: {name: names[model] for name, model in models.items()}
            for path, models in evaluated.items()
        },
    )


def summarize(runs: Sequence[Path], names: RunNames | None = None) -> dict:
    """Return `{"stages": {name: numbers}, "samples": [...]}` of sealed runs, in their order.

    A sample is a prompt with `answers` of each model, the first one; where there are several, they are in
    `all_answers`.

    A stage has the numbers of its own evaluation.json, `stage` and `seconds`. What an evaluate run measured
    of each model is below its `models`, and is added to the stage of that model (`stages.dpo.win_rate`,
    `.kl_to_baseline` ...); where several evaluate runs measured the same number, that of the first is added.

    Args:
        names: as `name_runs` returns them, which is the default.

    Raises:
        UsageError: a run is given twice.
        RunError: a path is not a finished run.
    """
    names = names or name_runs(runs)
    stages: dict[str, Numbers] = {}
    evaluations: dict[str, Numbers] = {}
    for path in runs:
        name = names.runs[path]
        numbers = _read(path, layout.EVALUATION, default={})
        stage = stage_of(path)
        stages[name] = {"stage": stage, "seconds": _read(path, layout.TIMING, default={}).get("seconds")}
        if measures_models(stage):
            evaluations[name] = numbers
            stages[name] |= {key: value for key, value in numbers.items() if key != "models"}
        else:
            stages[name] |= numbers
    summary: dict = {"stages": stages, "samples": []}
    for name, numbers in evaluations.items():
        _add_evaluation(summary, name, numbers, names.models[name])
    return summary


def comparisons(summary: Mapping) -> list[BaselineComparison]:
    """Return the comparison of every evaluate run that compared models with a baseline."""
    stages = summary["stages"]
    evaluations = {
        name: row for name, row in stages.items() if measures_models(row.get("stage")) and row.get("judge")
    }
    rows_of: dict[str, dict[str, Numbers]] = {}
    for evaluation, about in evaluations.items():
        measured = about["models"]
        rows = {
            name: numbers
            for name, numbers in measured.items()
            if name == about["baseline"] or "win_rate" in numbers
        }
        if len(rows) > 1:
            rows_of[evaluation] = rows
    return [
        BaselineComparison(
            evaluation,
            evaluations[evaluation]["baseline"],
            evaluations[evaluation]["judge"],
            rows,
            is_only=len(rows_of) == 1,
        )
        for evaluation, rows in rows_of.items()
    ]


def win_rate_text(row: Mapping, *, is_baseline: bool = False, doubt: str = " (no verdict)") -> str:
    """Return `71.5% [66.0, 77.0]`, followed by `doubt` if the verdict is `no verdict`."""
    if is_baseline:
        return "baseline"
    rate = row["win_rate"]
    text = f"{rate['estimate']:.1%} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
    return text + doubt if rate.get("verdict") == "no verdict" else text


def stage_of(path: Path) -> str:
    """Return the stage of a run."""
    return _read(path, layout.MANIFEST)["stage"]


def _read(path: Path, name: str, *, default: Numbers | None = None) -> Numbers:
    try:
        return json.loads((path / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if default is not None:
            return default
        raise RunError(
            f"there is no {name}", where=str(path), fix="give the directory of a finished run"
        ) from None


def _add_evaluation(summary: dict, evaluation: str, numbers: Numbers, names: Mapping[str, str]) -> None:
    """Add what an evaluate run measured of each model to that model's own numbers."""
    stages = summary["stages"]
    if stages[evaluation].get("baseline") is not None:
        stages[evaluation]["baseline"] = names[stages[evaluation]["baseline"]]
    models = stages[evaluation]["models"] = {}
    samples: dict[tuple[str, ...], dict[str, Any]] = {}
    for measured_name, measured in numbers.get("models", {}).items():
        name = names[measured_name]
        row = stages.setdefault(name, {})
        models[name] = {key: value for key, value in measured.items() if key != "samples"}
        if "win_rate" in measured and "win_rate" not in row:
            row["evaluated_by"] = evaluation
        for key, value in measured.items():
            if key == "samples":
                for sample in value:
                    _add_sample(samples, sample, name)
            elif key not in row or key.startswith(REMEASURED):
                row[key] = value
    summary["samples"] += [{**sample, "evaluated_by": evaluation} for sample in samples.values()]


def _add_sample(samples: dict[tuple[str, ...], dict[str, Any]], sample: Mapping, model: str) -> None:
    """Add the answers of a model to a sample prompt; `answers` has the first one of each model."""
    turns = tuple(sample.get("turns") or [sample["prompt"]])
    entry = samples.setdefault(turns, {"prompt": sample["prompt"], "answers": {}})
    entry["answers"][model] = sample["answer"]
    if len(turns) > 1:
        entry["turns"] = list(turns)
    if sample.get("answers"):
        entry.setdefault("all_answers", {})[model] = sample["answers"]
