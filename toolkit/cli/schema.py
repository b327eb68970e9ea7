"""`toolkit schema`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from toolkit.cli.parser import Parser


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "schema",
        "Write the JSON schema of recipes, with which editors complete and check them.",
        "toolkit schema\ntoolkit schema --output - | head",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="where to write it, - for stdout (default recipes/recipe.schema.json where it "
        "is there, else stdout)",
    )
    args = parser.parse_args(arguments)
    from toolkit.config import json_schema

    output = args.output or (str(json_schema.DEFAULT) if json_schema.DEFAULT.exists() else "-")
    if output == "-":
        sys.stdout.write(json_schema.text())
        return 0
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(json_schema.text(), encoding="utf-8")
    print(f"written: {output}", file=sys.stderr)
    return 0
