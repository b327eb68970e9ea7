"""`toolkit evaluate --tasks`: tasks of lm-evaluation-harness."""

from __future__ import annotations

import argparse
import json as json_format
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

from toolkit.base.console import number_table
from toolkit.base.errors import UsageError
from toolkit.cli.parser import MODEL, Parser, non_negative_int, positive_int
from toolkit.evaluate.naming import models_by_name
from toolkit.evaluate.tasks import measure, open_tasks
from toolkit.runs import provenance, references
from toolkit.stats import interval_text


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
    names = {name: references.named_model(model) for name, model in models_by_name(models).items()}
    with redirect_stdout(sys.stderr):  # what lm-eval prints is not our result
        manager = open_tasks(tasks, include_path)
        rows = {name: measure(reference, tasks, manager, how) for name, reference in names.items()}
    if json:
        versions = {**provenance.versions(), "lm_eval": metadata.version("lm_eval")}
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


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("names of tasks, with commas between them")
    return names


def main(arguments: Sequence[str]) -> int:
    """Read the arguments and hand over.

    Raises:
        UsageError: lm-evaluation-harness is not installed.
    """
    parser = Parser(
        "evaluate",
        "Measure models on tasks of lm-evaluation-harness, which has to be installed "
        "(pip install 'toolkit[tasks]'): its own code and its own numbers, for any of our checkpoints.",
        "toolkit evaluate runs/tiny/sft openai-community/gpt2 --tasks hellaswag,piqa --examples 200\n"
        "toolkit evaluate runs/tiny/sft --tasks my_task --include-path my-tasks --json",
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help=MODEL)
    parser.add_argument(
        "--tasks", required=True, type=_names, metavar="NAME,...", help="tasks or groups of tasks"
    )
    parser.add_argument("--include-path", type=Path, metavar="DIR", help="a folder of your own tasks (YAML)")
    parser.add_argument("--examples", type=positive_int, metavar="N", help="only the first N of each task")
    parser.add_argument(
        "--few-shot", type=non_negative_int, metavar="N", help="examples before each question"
    )
    parser.add_argument("--batch-examples", type=positive_int, default=16, metavar="N", help="default 16")
    parser.add_argument("--chat", action="store_true", help="put questions into the chat template")
    parser.add_argument("--seed", type=non_negative_int, default=0, metavar="N", help="of few-shot examples")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the weights")
    parser.add_argument("--json", action="store_true", help="exactly one JSON object on stdout")
    args = parser.parse_intermixed_args(arguments)
    try:
        from toolkit.cli.evaluate_tasks import tasks_command
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        raise UsageError(
            "tasks are measured by lm-evaluation-harness, which is not installed",
            where="--tasks",
            fix="pip install 'toolkit[tasks]'",
        ) from None
    given = vars(args)
    return tasks_command(given.pop("models"), given.pop("tasks"), **given)
