"""`toolkit report`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from toolkit.cli.parser import Parser


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "report",
        "Write one self-contained HTML page about runs; its path goes to stdout.",
        "toolkit report runs/tiny\ntoolkit report runs/tiny/dpo runs/tiny/ppo --output compared.html",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run directory, or a folder of them")
    parser.add_argument("--output", metavar="FILE", help="where to write it", type=Path)
    args = parser.parse_intermixed_args(arguments)
    from toolkit.report.page import write_report
    from toolkit.report.selection import select_runs

    selection = select_runs(args.runs)
    if selection.unfinished:
        print(f"left out, not finished: {', '.join(selection.unfinished)}", file=sys.stderr)
    output = args.output or selection.output
    write_report(selection.runs, output)
    print(output)
    return 0
