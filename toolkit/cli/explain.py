"""`toolkit explain`."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.cli.parser import MODEL, Parser

TEXT = "A story about a fox who finds a key."


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "explain",
        "Write what models do with one text as a self-contained HTML page: the next token at every position, "
        "surprise model by model, and attention. It needs no server; `toolkit playground` takes any text.",
        "toolkit explain runs/tiny/pretrain runs/tiny/sft runs/tiny/dpo --output page.html\n"
        'toolkit explain MODEL --text "The bank of the river" --output page.html --language ja',
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help=MODEL)
    parser.add_argument("--text", default=TEXT, metavar="TEXT", help=f"default: {TEXT}")
    parser.add_argument("--output", required=True, metavar="FILE", help="the page")
    parser.add_argument("--language", choices=("en", "ja"), default="en", help="default: en")
    args = parser.parse_intermixed_args(arguments)
    from toolkit.playground.explain import explain_command

    explain_command(**vars(args))
    print(args.output)
    return 0
