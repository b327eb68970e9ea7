"""`toolkit run`."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from toolkit.base import ranks
from toolkit.base.errors import UsageError
from toolkit.cli.parser import Parser, add_json, add_recipe, non_negative_int, positive_int

if TYPE_CHECKING:
    from toolkit.execution.runner import RunOutcome


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "run",
        "Run a recipe, or a folder of recipes in the order that their references give, independent ones side "
        "by side. Finished stages are skipped; interrupted ones continue from their last checkpoint.",
        "toolkit run recipes/tiny\ntoolkit run recipes/tiny/dpo.yaml trainer.beta=0.2\n"
        "toolkit run recipes/gpt2-124m --launch recipes/accelerate/gpus.yaml",
    )
    add_recipe(parser)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="root of all runs")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="key=value",
        help="a setting to change, written as in a recipe: runs/... is below --runs-dir",
    )
    parser.add_argument(
        "--seed", type=non_negative_int, metavar="N", help="the seed of every recipe, as the override seed=N"
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start the run of a recipe over; of a folder, those runs whose recipe, data or parents changed, "
        "and all that were made from them",
    )
    parser.add_argument(
        "--launch",
        metavar="ACCELERATE.yaml",
        help="start each stage with accelerate launch and this configuration",
    )
    parser.add_argument(
        "--processes",
        type=positive_int,
        default=1,
        metavar="N",
        help="run each stage that can on N processes of this machine, as torchrun does",
    )
    parser.add_argument(
        "--jobs",
        type=positive_int,
        metavar="N",
        help="run at most N stages of a folder at the same time (default: as many as the cores allow; "
        "a stage takes `threads` cores, or all cores without `threads`)",
    )
    parser.add_argument("--replay-incident", action=_ReplayIncident, help=argparse.SUPPRESS)
    add_json(parser)
    args = parser.parse_intermixed_args(arguments)
    from toolkit.config import recipe_texts
    from toolkit.config.shipped_recipes import locate
    from toolkit.runs import references

    # Paths on the command line are literal: with another --runs-dir `runs/x` still means ./runs/x.
    given = [*args.overrides, *args.set]
    if args.seed is not None and any(override.partition("=")[0].strip() == "seed" for override in given):
        raise UsageError("--seed and seed= set the same setting", fix="give one of them")
    seed = [] if args.seed is None else [f"seed={args.seed}"]
    overrides = [*references.of_overrides([*args.overrides, *seed], args.runs_dir), *args.set]
    return run_command(
        args.recipe if recipe_texts.are_handed_over() else locate(args.recipe),
        overrides,
        runs_dir=args.runs_dir,
        fresh=args.fresh,
        launch=args.launch and locate(args.launch),
        jobs=args.jobs,
        processes=args.processes,
        json=args.json,
    )


class _ReplayIncident(argparse.Action):
    """Names the command that replaced `toolkit run --replay-incident FILE`."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> NoReturn:
        path = Path(values)
        folder = path.parent if path.suffix == ".json" else path
        step = re.fullmatch(r"step-0*(\d+)", folder.name)
        is_complete = step is not None and len(folder.parts) > 2
        run, number = (str(folder.parents[1]), step[1]) if is_complete else ("RUN", "STEP")
        raise UsageError(
            "was replaced by `toolkit verify RUN --incident STEP`",
            where="--replay-incident",
            fix=f"toolkit verify {shlex.quote(run)} --incident {number}",
        )


def run_command(
    path: Path | str,
    overrides: Sequence[str] = (),
    *,
    runs_dir: Path | str = "runs",
    fresh: bool = False,
    launch: Path | str | None = None,
    jobs: int | None = None,
    processes: int = 1,
    json: bool = False,
) -> int:
    """Run a recipe or a folder, show what came out, and return the exit status.

    What a folder shows goes to stdout and its page is written; with `json` stdout gets exactly one object.
    """
    from toolkit.base.console import print_json
    from toolkit.execution.runner import run_recipes

    start = time.monotonic()
    outcome = run_recipes(
        path,
        overrides,
        runs_dir=runs_dir,
        fresh=fresh,
        launch=launch,
        jobs=jobs,
        processes=processes,
        on_first_stage=_load_report_aside,
    )
    if outcome.status != 0 or ranks.rank() != 0:
        return outcome.status
    if outcome.is_folder:
        elapsed = time.monotonic() - start if outcome.started == len(outcome.runs) else None
        _show_folder(outcome, elapsed=elapsed, json=json)
    elif json:
        from toolkit.report.summary import summarize

        print_json(summarize(outcome.runs))
    return 0


def _load_report_aside() -> None:
    """Import the report (2 s) while the stages run in processes of their own."""

    def load() -> None:
        with suppress(ImportError):  # raised again where the report is written
            importlib.import_module("toolkit.report.page")

    threading.Thread(target=load, daemon=True).start()


def _show_folder(outcome: RunOutcome, *, elapsed: float | None, json: bool) -> None:
    """Write the page of a folder, and show what it teaches or, with `json`, print one object.

    Args:
        elapsed: seconds of this command, if it ran every stage.
    """
    from rich.console import Console

    from toolkit.base.console import print_json
    from toolkit.cli import summary_tables
    from toolkit.report.lesson import lesson_of
    from toolkit.report.summary import summarize

    runs = outcome.runs
    page = Path(os.path.commonpath([run.parent for run in runs])) / "report.html"
    if outcome.started or not page.exists():
        from toolkit.report.page import write_report  # matplotlib: 0.5 s

        write_report(list(runs), page)
    console = Console(stderr=json, highlight=False, markup=False)
    summary_tables.show(lesson_of(runs, elapsed=elapsed, page=page), console=console)
    print(f"report: {page}", file=sys.stderr)
    if json:
        print_json({"report": str(page), **summarize(runs)})
