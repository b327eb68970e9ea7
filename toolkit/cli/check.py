"""`toolkit check`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from toolkit.cli.parser import Parser, add_json, add_recipe

if TYPE_CHECKING:
    from toolkit.execution.check import CheckReport


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "check",
        "Report every error in a recipe or a folder of recipes, and list what cannot be checked without data "
        "and parents. Nothing is run or written.",
        "toolkit check recipes/tiny\ntoolkit check my.yaml trainer.beta=0.2 --json",
    )
    add_recipe(parser)
    add_json(parser)
    args = parser.parse_intermixed_args(arguments)
    from toolkit.config.shipped_recipes import locate
    from toolkit.execution.check import check_recipes

    report = check_recipes(locate(args.recipe), args.overrides)
    if args.json:
        recipes = [asdict(recipe) | {"path": str(recipe.path)} for recipe in report.recipes]
        problems = [asdict(problem) for problem in report.problems]
        print(json.dumps({"ok": not problems, "recipes": recipes, "problems": problems}))
    else:
        _show(report)
    return 2 if report.problems else 0


def _show(report: CheckReport) -> None:
    width = max((len(str(recipe.path)) for recipe in report.recipes), default=0)
    for recipe in report.recipes:
        if recipe.ok:
            print(f"{recipe.path!s:{width}}  ok  {recipe.stage}", file=sys.stderr)
            for text in recipe.not_checked:
                print(f"{'':{width}}  not checked: {text}", file=sys.stderr)
    for problem in report.problems:
        print(problem, file=sys.stderr)
    count = len(report.problems)
    if count:
        print(f"{count} problem{'s' * (count > 1)}", file=sys.stderr)
