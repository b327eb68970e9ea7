"""`toolkit check`."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.cli.parser import Parser, add_json, add_recipe


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "check",
        "Find every mistake in a recipe or a folder of them, and say what cannot be "
        "checked without data and parents. Nothing is run or written.",
        "toolkit check recipes/tiny\ntoolkit check my.yaml trainer.beta=0.2 --json",
    )
    add_recipe(parser)
    add_json(parser)
    args = parser.parse_intermixed_args(arguments)
    from toolkit.config.shipped_recipes import locate
    from toolkit.execution.check import check_command

    return check_command(locate(args.recipe), args.overrides, json=args.json)
