"""Runs that differ only in their seeds: which ones these are, and the mean of their numbers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.base import files
from toolkit.config.registry import measures_models
from toolkit.evaluate.naming import evaluated_models
from toolkit.report.summary import RunNames
from toolkit.runs import layout
from toolkit.stats import student_mean

_SEED = "seed"
_RUNS = "runs/"


@dataclass(frozen=True)
class SeedGroup:
    """Runs of one recipe with different seeds.

    Attributes:
        name: under which their mean is reported.
        members: the name of each run in the summary -> its seed.
    """

    name: str
    members: dict[str, int]


@dataclass(frozen=True)
class Lineage:
    """What a run was made from, apart from seeds, and the seeds of the run and of what it was made from."""

    recipe: str
    seeds: tuple[int, ...]


def lineage_of(run: Path) -> Lineage:
    """Return the lineage of a run.

    Two runs have the same `recipe` if their settings and those of all their parents are equal, apart from
    seeds and from the names of runs.
    """
    manifest = files.read_json(run / layout.MANIFEST)
    inputs = manifest.get("inputs") or {}
    parents = {key: _parent_lineage(run, parent) for key, parent in sorted(inputs.get("parents", {}).items())}
    data = {
        key: digest
        for key, digest in inputs.get("data", {}).items()
        if not any(parent == key or parent.startswith(f"{key}.") for parent in parents)
    }
    settings = _without_names(inputs.get("settings", {}))
    settings.pop(_SEED, None)
    content = [manifest["stage"], settings, data, {key: line.recipe for key, line in parents.items()}]
    seeds = (manifest["seeds"]["root"], *(seed for line in parents.values() for seed in line.seeds))
    return Lineage(json.dumps(content, sort_keys=True), seeds)


def _parent_lineage(run: Path, parent: Mapping[str, Any]) -> Lineage:
    path = run / parent.get("path", "")
    if parent["kind"] == "run" and (path / layout.MANIFEST).is_file():
        return lineage_of(path)
    return Lineage(parent["digest"], ())


def _without_names(value: Any) -> Any:
    """Return settings in which `runs/...` stands for every name of a run."""
    if isinstance(value, Mapping):
        return {key: _without_names(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_names(item) for item in value]
    return _RUNS if isinstance(value, str) and value.startswith(_RUNS) else value


def seed_groups(names: RunNames) -> list[SeedGroup]:
    """Return the groups of at least two runs, among those of a report, that differ only in their seeds.

    Models that only an evaluate run names belong to a group, too.
    """
    paths = {name: path for path, name in names.runs.items()}
    for path, name in names.runs.items():
        if name in names.models:
            for measured, identity in evaluated_models(path).items():
                paths.setdefault(names.models[name][measured], Path(identity))
    lineages = {name: lineage_of(path) for name, path in paths.items() if (path / layout.MANIFEST).is_file()}
    by_recipe: dict[str, list[str]] = {}
    for name, lineage in lineages.items():
        by_recipe.setdefault(lineage.recipe, []).append(name)
    groups: list[SeedGroup] = []
    for members in by_recipe.values():
        seeds = [lineages[name].seeds for name in members]
        if len(members) > 1 and len(set(seeds)) == len(seeds):
            taken = {*paths, *(group.name for group in groups)} - {*members}
            groups.append(
                SeedGroup(_common_name(members, taken), {name: lineages[name].seeds[0] for name in members})
            )
    return groups


def _common_name(members: Sequence[str], taken: set[str]) -> str:
    """Return the last parts of the names that all have in common, or how the names begin."""
    parts = [name.split("/") for name in members]
    shared = 0
    while all(len(part) > shared and part[-1 - shared] == parts[0][-1 - shared] for part in parts):
        shared += 1
    options = ["/".join(parts[0][-shared:])] if shared else []
    beginning = "".join(
        signs[0]
        for signs in itertools.takewhile(lambda signs: len({*signs}) == 1, zip(*members, strict=False))
    )
    options.append(beginning.rstrip("-_./0123456789"))
    return next((name for name in options if name and name not in taken), " + ".join(members))


def mean_summary(summary: Mapping[str, Any], groups: Sequence[SeedGroup]) -> dict[str, Any]:
    """Return a summary in which the mean of each group, under its name, takes the place of its runs.

    A number that differs gets a Student interval over the seeds as `<key>_interval`, in place of the one
    over prompts or documents. Texts and lists of texts are those of the first run.
    """
    rename = _renaming(groups)
    stages = _merged({name: _renamed(row, rename) for name, row in summary["stages"].items()}, rename)
    samples: dict[str, dict[str, Any]] = {}
    for sample in summary["samples"]:
        evaluation = rename(sample["evaluated_by"])
        key = json.dumps([evaluation, sample.get("turns", sample["prompt"])])
        by_model = {
            name: _first_of_each(sample[name], rename)
            for name in ("answers", "all_answers")
            if name in sample
        }
        samples.setdefault(key, {**sample, "evaluated_by": evaluation, **by_model})
    return {"stages": stages, "samples": [*samples.values()]}


def group_names(names: RunNames, groups: Sequence[SeedGroup]) -> RunNames:
    """Return names under which the runs of a group have the name of the group; without further members."""
    rename = _renaming(groups)
    runs: dict[Path, str] = {}
    models: dict[str, dict[str, str]] = {}
    for path, name in names.runs.items():
        if rename(name) not in runs.values():
            runs[path] = rename(name)
            if name in names.models:
                models[rename(name)] = {key: rename(value) for key, value in names.models[name].items()}
    return RunNames(runs, models)


def _renaming(groups: Sequence[SeedGroup]) -> Callable[[str], str]:
    names = {member: group.name for group in groups for member in group.members}
    return lambda name: names.get(name, name)


def _renamed(row: Mapping[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """Return the numbers of a run with the names of groups for the models that it measured."""
    renamed = {key: rename(row[key]) for key in ("baseline", "evaluated_by") if isinstance(row.get(key), str)}
    if measures_models(row.get("stage")):
        renamed["models"] = _merged(row.get("models", {}), rename)
    return {**row, **renamed}


def _first_of_each(values: Mapping[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in values.items():
        kept.setdefault(rename(name), value)
    return kept


def _merged(rows: Mapping[str, Mapping], rename: Callable[[str], str]) -> dict[str, dict]:
    """Return the mean of all rows that get the same name."""
    by_name: dict[str, list[Mapping]] = {}
    for name, row in rows.items():
        by_name.setdefault(rename(name), []).append(row)
    return {name: dict(found[0]) if len(found) == 1 else _mean(found) for name, found in by_name.items()}


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of objects of the same kind, by key; keys that one of them lacks are left out."""
    first = rows[0]
    if "estimate" in first and "low" in first:
        return _mean_estimate(rows)
    result: dict[str, Any] = {}
    for key in first:
        if not all(key in row for row in rows) or key.endswith("_interval"):
            continue
        values = [row[key] for row in rows]
        if key == _SEED:
            continue
        result[key] = _mean_value(values)
        if all(_is_number(value) for value in values) and (f"{key}_interval" in first or len({*values}) > 1):
            result[f"{key}_interval"] = student_mean(values).interval
    return result


def _mean_value(values: Sequence[Any]) -> Any:
    if all(_is_number(value) for value in values):
        return values[0] if len({*values}) == 1 else student_mean(values).estimate
    if all(isinstance(value, Mapping) for value in values):
        return _mean(values)
    is_rows = all(
        isinstance(value, list) and value and isinstance(value[0], Mapping) and len(value) == len(values[0])
        for value in values
    )
    if is_rows:
        return [_mean(items) for items in zip(*values, strict=True)]
    return values[0]


def _mean_estimate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of win rates; its verdict follows from the interval over the seeds."""
    mean = student_mean([row["estimate"] for row in rows])
    low, high = mean.interval
    result = {"estimate": mean.estimate, "low": low, "high": high, "n": rows[0].get("n")}
    if "verdict" in rows[0]:
        decided = low is not None and high is not None and not low <= 0.5 <= high
        result["verdict"] = ("better" if mean.estimate > 0.5 else "worse") if decided else "no verdict"
    return result


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
