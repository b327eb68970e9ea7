"""`toolkit evaluate --tasks`: tasks of lm-evaluation-harness."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from toolkit.base.errors import UsageError
from toolkit.cli.parser import MODEL, Parser, add_dtype, add_json, non_negative_int, positive_int

INSTALL = "pip install 'lm_eval>=0.4.13,<0.5'"
"""Also in the extra `tasks` of pyproject.toml."""


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "evaluate",
        "Measure models on tasks of lm-evaluation-harness, with its own code. It must be installed: "
        f"{INSTALL}.",
        "toolkit evaluate runs/tiny/sft openai-community/gpt2 --tasks hellaswag,piqa --examples 200\n"
        "toolkit evaluate runs/tiny/sft --tasks my_task --include-path my-tasks --json",
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help=MODEL)
    parser.add_argument(
        "--tasks", required=True, type=_task_names, metavar="NAME,...", help="tasks or groups of tasks"
    )
    parser.add_argument("--include-path", type=Path, metavar="DIR", help="a folder of your own tasks (YAML)")
    parser.add_argument("--examples", type=positive_int, metavar="N", help="only the first N of each task")
    parser.add_argument(
        "--few-shot", type=non_negative_int, metavar="N", help="examples before each question"
    )
    parser.add_argument("--batch-examples", type=positive_int, default=16, metavar="N", help="default 16")
    parser.add_argument("--chat", action="store_true", help="put questions into the chat template")
    parser.add_argument(
        "--seed", type=non_negative_int, default=0, metavar="N", help="seed of the few-shot examples"
    )
    add_dtype(parser, "--precision", dest="precision")
    add_json(parser)
    args = parser.parse_intermixed_args(arguments)
    try:
        from toolkit.evaluate import tasks
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        raise UsageError(
            "tasks are measured by lm-evaluation-harness, which is not installed",
            where="--tasks",
            fix=INSTALL,
        ) from None
    from rich.console import Console

    from toolkit.cli import evaluate_tables
    from toolkit.evaluate.naming import models_by_name
    from toolkit.runs import references

    options = {key: value for key, value in vars(args).items() if key not in ("models", "json")}
    models = {name: references.named_model(model) for name, model in models_by_name(args.models).items()}
    results = tasks.measure_models(models, tasks.TaskSettings(**options))
    if args.json:
        include_path = args.include_path and str(args.include_path)
        settings = {"models": args.models, **options, "include_path": include_path}
        print(json.dumps({**results, "settings": settings}))
    else:
        Console(stderr=True, highlight=False, markup=False).print(
            evaluate_tables.task_table(results["models"])
        )
    return 0


def _task_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("must be names of tasks, separated by commas")
    return names
