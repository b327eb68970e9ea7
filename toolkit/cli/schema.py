"""`toolkit schema`."""

from __future__ import annotations

from collections.abc import Sequence

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
    from toolkit.config.json_schema import schema_command

    return schema_command(output=args.output)
