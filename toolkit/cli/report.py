"""`toolkit report`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from toolkit.cli.parser import Parser

LANGUAGES = ("en", "ja")


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "report",
        "Write one self-contained HTML page about runs; its path goes to stdout. Runs of the same stage are "
        "drawn in the same plots. Runs that differ only in their seeds are averaged, with Student's 95% "
        "intervals over the seeds.",
        "toolkit report runs/tiny\n"
        "toolkit report runs/tiny/dpo runs/tiny/ppo --output compared.html\n"
        "toolkit report runs/seed0 runs/seed1 runs/seed2 --export figures",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run directory, or a folder of them")
    parser.add_argument("--output", metavar="FILE", help="where to write it", type=Path)
    parser.add_argument(
        "--language", choices=LANGUAGES, default="en", help="English (the default) or Japanese"
    )
    parser.add_argument(
        "--export",
        metavar="DIR",
        type=Path,
        help="also write every plot as SVG and PDF, and every table as CSV",
    )
    args = parser.parse_intermixed_args(arguments)
    from toolkit.report.page import write_report
    from toolkit.report.selection import select_runs

    selection = select_runs(args.runs)
    if selection.unfinished:
        print(f"left out, not finished: {', '.join(selection.unfinished)}", file=sys.stderr)
    output = args.output or selection.output
    output.parent.mkdir(parents=True, exist_ok=True)
    write_report(selection.runs, output, language=args.language, export_to=args.export)
    if args.export is not None:
        print(f"plots and tables: {args.export}", file=sys.stderr)
    print(output)
    return 0
