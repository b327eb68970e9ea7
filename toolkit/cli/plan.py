"""`toolkit plan`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from toolkit.cli.parser import Parser, add_json, add_recipe, positive_int


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "plan",
        "Say what a recipe or a folder will cost before it runs: parameters, tokens, FLOPs, memory, time and "
        "money. Time comes from a few real training steps on this machine, in a few seconds.",
        "toolkit plan recipes/tiny\ntoolkit plan recipes/tiny/pretrain.yaml model.n_layer=8 --no-probe\n"
        "toolkit plan recipes/gpt2-124m --processes 8 --price 2.5",
    )
    add_recipe(parser)
    for option, metavar, kind, text in (
        ("--price", "P", float, "money for an hour of one process (a GPU, or this machine)"),
        ("--processes", "N", positive_int, "plan for N processes, each on hardware like this (default 1)"),
        ("--runs-dir", "DIR", Path, "where a finished corpus is looked for (default runs)"),
    ):  # what is not given has the default of plan_command
        parser.add_argument(option, type=kind, default=argparse.SUPPRESS, metavar=metavar, help=text)
    off = {"dest": "probe", "action": "store_false", "default": argparse.SUPPRESS}
    parser.add_argument("--no-probe", help="make no training steps: only count, at once", **off)
    add_json(parser)
    given = vars(parser.parse_intermixed_args(arguments))
    from toolkit.config.shipped_recipes import locate
    from toolkit.planning.plan import plan_command

    return plan_command(str(locate(given.pop("recipe"))), given.pop("overrides"), **given)
