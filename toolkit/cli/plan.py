"""`toolkit plan`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.cli.parser import Parser, add_json, add_recipe, positive_int

if TYPE_CHECKING:
    from toolkit.planning.plan import Plan, Question


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "plan",
        "Estimate what a recipe or a folder will cost: parameters, tokens, FLOPs, memory, time and money. "
        "The time comes from a few real training steps on this machine, which take a few seconds.",
        "toolkit plan recipes/tiny\ntoolkit plan recipes/tiny/pretrain.yaml model.n_layer=8 --no-probe\n"
        "toolkit plan recipes/gpt2-124m --processes 8 --price 2.5",
    )
    add_recipe(parser)
    parser.add_argument(
        "--price", type=float, metavar="P", help="price of one hour of one process (a GPU or this machine)"
    )
    parser.add_argument(
        "--processes", type=positive_int, default=1, metavar="N",
        help="plan for N processes, each on hardware like this (default 1)",
    )  # fmt: skip
    parser.add_argument(
        "--runs-dir", type=Path, default=Path("runs"), metavar="DIR",
        help="where to look for a finished corpus (default runs)",
    )  # fmt: skip
    parser.add_argument(
        "--no-probe", dest="probe", action="store_false", help="do not take training steps, only count"
    )
    add_json(parser)
    args = parser.parse_intermixed_args(arguments)
    from toolkit.config.shipped_recipes import locate
    from toolkit.planning.plan import Question, plan_recipes

    question = Question(args.probe, args.price, args.processes, args.runs_dir)
    path = locate(args.recipe)
    plan = plan_recipes(path, args.overrides, question=question)
    if args.json:
        total = {"flops": plan.flops, "seconds": plan.seconds, "money": plan.money}
        print(json.dumps({"plan": [asdict(row) for row in plan.stages], "total": total}))
    else:
        _show(path, plan, question)
    return 0


def _show(path: Path, plan: Plan, question: Question) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, markup=False)
    names = ("stage", "weights", "tokens", "FLOPs", "GiB", "tokens/s", "time")
    table = Table(*names, title=f"plan of {path}", title_justify="left", box=None, pad_edge=False)
    if question.price is not None:
        table.add_column("money")
    for row in plan.stages:
        approximate = "" if row.basis in (None, "measured") else "~"
        num_bytes = row.peak_bytes or row.state_bytes
        cells = [
            row.stage, _short(row.parameters), _short(row.tokens),
            "-" if row.flops is None else f"{row.flops:.1e}",
            "-" if num_bytes is None else f"{'' if row.peak_bytes else '>'}{num_bytes / 2**30:.2f}",
            _short(row.tokens_per_second and round(row.tokens_per_second)),
            "-" if row.seconds is None else approximate + _duration(row.seconds),
            "-" if row.money is None else f"{approximate}{row.money:.2f}",
        ]  # fmt: skip
        table.add_row(*cells[: len(table.columns)])
    console.print(table)
    for row in plan.stages:
        if row.note != "no training":
            print(f"{row.stage}: {row.note}", file=sys.stderr)
    _show_total(plan, question)


def _show_total(plan: Plan, question: Question) -> None:
    if plan.seconds is not None:
        left_out = [row.stage for row in plan.stages if row.seconds is None]
        words = f"; not counted: {', '.join(left_out)}" if left_out else ""
        many = f" on {question.processes} processes" if question.processes > 1 else ""
        money = "" if plan.money is None else f", {plan.money:.2f} at {question.price:g} an hour each"
        print(f"in all {_duration(plan.seconds)}{many}{money}{words}", file=sys.stderr)
    elif plan.flops is not None:
        from toolkit.planning import plan as planning

        flops = plan.flops
        print(
            f"{flops:.2e} floating-point operations in the stages that can be counted: "
            f"{_duration(flops / 0.2e12)} at 0.2 TFLOP/s (2 laptop cores), "
            f"{_duration(flops / planning.ASSUMED_FLOPS)} at {planning.ASSUMED}",
            file=sys.stderr,
        )


def _short(number: int | None) -> str:
    if number is None:
        return "-"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"
