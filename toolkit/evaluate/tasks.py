"""Tasks of lm-evaluation-harness on any of our checkpoints: its code measures, here it is called."""

from __future__ import annotations

import json as json_format
import sys
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from rich.console import Console
from rich.table import Table

from toolkit.evaluate.session import DTYPES, names_of
from toolkit.evaluate.tables import number_table
from toolkit.models.load import load_causal_lm
from toolkit.recipe.errors import DataError, UsageError
from toolkit.runs import environment, facts, references
from toolkit.stats import interval_text

BOOTSTRAP_SAMPLES = 1000
"""Of metrics whose standard error lm-eval has no formula for."""
NORMAL = 1.959964
"""Standard errors to each side of a 95 % interval."""


def tasks_command(
    models: list[str],
    tasks: list[str],
    *,
    include_path: Path | None = None,
    json: bool = False,
    **how: object,
) -> int:
    """Measure models on tasks; a table on stderr, or with `json` one object on stdout.

    Args:
        include_path: a folder of tasks of one's own, which are looked for first.
        how: `examples`, `few_shot`, `batch_examples`, `chat`, `seed` and `precision`.

    Raises:
        UsageError: an unknown task, a folder that is not there.
        DataError: the data of a task cannot be had.
        ToolkitError: a model that cannot be had.
    """
    names = {name: references.named_model(model) for name, model in names_of(models).items()}
    with redirect_stdout(sys.stderr):  # what lm-eval prints is not our result
        manager = open_tasks(tasks, include_path)
        rows = {name: measure(reference, tasks, manager, how) for name, reference in names.items()}
    if json:
        versions = {**facts.versions(), "lm_eval": metadata.version("lm_eval")}
        settings = {
            "models": models,
            "tasks": tasks,
            "include_path": include_path and str(include_path),
            **how,
        }
        print(json_format.dumps({"models": rows, "versions": versions, "settings": settings}))
    else:
        Console(stderr=True, highlight=False).print(table(rows))
    return 0


def open_tasks(tasks: list[str], include_path: Path | None) -> TaskManager:
    """Find the tasks and read their data, before any model is loaded."""
    if include_path is not None and not include_path.is_dir():
        raise UsageError(
            "no such folder", where=f"--include-path {include_path}", fix="name a folder of YAML files"
        )
    manager = None if include_path is None else TaskManager(include_path=include_path, include_defaults=False)
    if manager is None or {*tasks} - {*manager.all_subtasks}:  # to read all of its own tasks takes 10 seconds
        manager = TaskManager(include_path=include_path)
    unknown = [name for name in tasks if name not in manager.all_tasks]
    if unknown:
        raise UsageError(
            f"lm-evaluation-harness has no task {', '.join(unknown)}",
            where="--tasks",
            fix="`lm-eval ls tasks` lists its tasks; --include-path names a folder of your own",
        )
    try:
        manager.load(tasks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"the task cannot be read: {reason}",
            where=f"--tasks {','.join(tasks)}",
            fix="check its YAML; the data of lm-eval's own tasks come from the Hub",
        ) from error
    return manager


def measure(
    reference: tuple[str, str | None], tasks: list[str], manager: TaskManager, how: dict[str, object]
) -> dict[str, dict[str, object]]:
    """lm-eval's numbers of one model, by task."""
    precision = DTYPES[how.get("precision", "fp32")]
    model, tokenizer = load_causal_lm(reference, device=environment.device("auto"), dtype=precision)
    seed = how.get("seed", 0)
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=how.get("batch_examples", 16)),
        tasks=list(tasks),
        task_manager=manager,
        num_fewshot=how.get("few_shot"),
        limit=how.get("examples"),
        apply_chat_template=how.get("chat", False),
        bootstrap_iters=BOOTSTRAP_SAMPLES,
        log_samples=False,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    return {task: _row(task, found) for task in found["results"]}


def _row(task: str, found: dict[str, dict]) -> dict[str, object]:
    """Numbers of a task as ours are written: `<metric>` with `<metric>_interval`; n, version, examples."""
    row: dict[str, object] = {}
    results = found["results"][task]
    for key, value in results.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        name = metric if kind == "none" else f"{metric}_{kind}"
        error = results.get(f"{metric}_stderr,{kind}")
        known = isinstance(error, int | float)
        row[name] = value
        row[f"{name}_interval"] = [value - NORMAL * error, value + NORMAL * error] if known else None
    return {
        **row,
        "n": found.get("n-samples", {}).get(task, {}).get("effective"),
        "version": found.get("versions", {}).get(task),
        "few_shot": found.get("n-shot", {}).get(task),
    }


def table(models: dict[str, dict[str, dict[str, object]]]) -> Table:
    """One row for each metric of each task of each model."""
    title = "tasks of lm-evaluation-harness, 95% intervals from its standard errors"
    result = number_table(title, ["model", "task", "metric"], ["value", "n"])
    for name, tasks in models.items():
        for task, row in tasks.items():
            for key in row:
                if f"{key}_interval" in row:
                    count = "-" if row["n"] is None else f"{row['n']:,}"
                    result.add_row(name, task, key, interval_text(row, key), count)
    return result
