"""Tasks of lm-evaluation-harness on any of our checkpoints: its code measures, here it is called."""

from __future__ import annotations

from pathlib import Path

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from toolkit.base.errors import DataError, UsageError
from toolkit.evaluate.session import DTYPES
from toolkit.models.loading import load_causal_lm
from toolkit.runtime import devices

BOOTSTRAP_SAMPLES = 1000
"""Of metrics whose standard error lm-eval has no formula for."""
NORMAL = 1.959964
"""Standard errors to each side of a 95 % interval."""


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
    model, tokenizer = load_causal_lm(reference, device=devices.select("auto"), dtype=precision)
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
