"""`toolkit schema`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from toolkit.cli.parser import Parser


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "schema",
        "Print the JSON schema of recipes, with which editors complete and check them.",
        "toolkit schema | head\ntoolkit schema --output recipes/recipe.schema.json",
    )
    parser.add_argument(
        "--output", metavar="FILE", default="-", help="write it to this file (default -, stdout)"
    )
    args = parser.parse_args(arguments)
    from toolkit.config import json_schema

    if args.output == "-":
        sys.stdout.write(json_schema.text())
        return 0
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(json_schema.text(), encoding="utf-8")
    print(f"written: {args.output}", file=sys.stderr)
    return 0
