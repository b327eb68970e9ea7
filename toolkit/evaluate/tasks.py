"""Tasks of lm-evaluation-harness on any model that the toolkit loads."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from toolkit.base.errors import DataError, UsageError
from toolkit.inference.opening import open_reference
from toolkit.models.loading import DTYPES
from toolkit.runs import provenance
from toolkit.runs.hub import Reference
from toolkit.runtime import devices

BOOTSTRAP_SAMPLES = 1000
"""Resamples for metrics without a formula for the standard error in lm-eval."""
NORMAL = 1.959964
"""Half width of a 95% interval in standard errors."""


@dataclass(frozen=True)
class TaskSettings:
    """The tasks of an evaluation and how they are run.

    Attributes:
        tasks: names of tasks or of groups of tasks.
        include_path: a folder of task definitions, which are looked up first.
        examples: the number of examples of each task; None for all.
        few_shot: solved examples before each question; None for the task's own number.
        batch_examples: examples in one batch.
        chat: put questions into the chat template.
        precision: precision of the weights.
    """

    tasks: Sequence[str]
    include_path: Path | None = None
    examples: int | None = None
    few_shot: int | None = None
    batch_examples: int = 16
    chat: bool = False
    seed: int = 0
    precision: str = "fp32"


def measure_models(references: Mapping[str, Reference], settings: TaskSettings) -> dict[str, object]:
    """Measure models, by name; returns `models` with a row for each of their tasks, and `versions`.

    Raises:
        UsageError: an unknown task, or a folder that does not exist.
        DataError: the data of a task cannot be read.
        ToolkitError: a model that cannot be loaded.
    """
    with redirect_stdout(sys.stderr):  # lm-eval prints progress there
        manager = open_tasks(list(settings.tasks), settings.include_path)
        rows = {name: measure(reference, manager, settings) for name, reference in references.items()}
    return {"models": rows, "versions": {**provenance.versions(), "lm_eval": metadata.version("lm_eval")}}


def open_tasks(tasks: list[str], include_path: Path | None) -> TaskManager:
    """Find the tasks and read their data, before any model is loaded."""
    if include_path is not None and not include_path.is_dir():
        raise UsageError("no such folder", where=str(include_path), fix="name a folder of YAML files")
    manager = None if include_path is None else TaskManager(include_path=include_path, include_defaults=False)
    if manager is None or {*tasks} - {*manager.all_subtasks}:  # reading all built-in tasks takes 10 seconds
        manager = TaskManager(include_path=include_path)
    unknown = [name for name in tasks if name not in manager.all_tasks]
    if unknown:
        raise UsageError(
            f"lm-evaluation-harness has no task {', '.join(unknown)}",
            where="tasks",
            fix="`lm-eval ls tasks` lists its tasks; for tasks of your own, give their folder",
        )
    try:
        manager.load(tasks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"the task cannot be read: {reason}",
            where=f"tasks {','.join(tasks)}",
            fix="check its YAML; the data of lm-eval's own tasks come from the Hub",
        ) from error
    return manager


def measure(
    reference: Reference, manager: TaskManager, settings: TaskSettings
) -> dict[str, dict[str, object]]:
    """Return lm-eval's numbers of one model, by task."""
    opened = open_reference(reference, device=devices.select("auto"), dtype=DTYPES[settings.precision])
    results = lm_eval.simple_evaluate(
        model=HFLM(pretrained=opened.model, tokenizer=opened.tokenizer, batch_size=settings.batch_examples),
        tasks=list(settings.tasks),
        task_manager=manager,
        num_fewshot=settings.few_shot,
        limit=settings.examples,
        apply_chat_template=settings.chat,
        bootstrap_iters=BOOTSTRAP_SAMPLES,
        log_samples=False,
        random_seed=settings.seed,
        numpy_random_seed=settings.seed,
        torch_random_seed=settings.seed,
        fewshot_random_seed=settings.seed,
    )
    return {task: _row(task, results) for task in results["results"]}


def _row(task: str, evaluation: dict[str, dict]) -> dict[str, object]:
    """Return `<metric>` and `<metric>_interval` of a task, with n, version and few-shot examples."""
    row: dict[str, object] = {}
    results = evaluation["results"][task]
    for key, value in results.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        name = metric if kind == "none" else f"{metric}_{kind}"
        error = results.get(f"{metric}_stderr,{kind}")
        has_error = isinstance(error, int | float)
        row[name] = value
        row[f"{name}_interval"] = [value - NORMAL * error, value + NORMAL * error] if has_error else None
    return {
        **row,
        "n": evaluation.get("n-samples", {}).get(task, {}).get("effective"),
        "version": evaluation.get("versions", {}).get(task),
        "few_shot": evaluation.get("n-shot", {}).get(task),
    }
