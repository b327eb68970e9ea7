"""`toolkit report`."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.cli.parser import Parser


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "report",
        "Write one self-contained HTML page about runs; its path goes to stdout.",
        "toolkit report runs/tiny\ntoolkit report runs/tiny/dpo runs/tiny/ppo --output compared.html",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run directory, or a folder of them")
    parser.add_argument("--output", metavar="FILE", help="where to write it")
    args = parser.parse_intermixed_args(arguments)
    from toolkit.report.command import report_command

    return report_command(args.runs, output=args.output)
