"""`toolkit reproduce`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.cli.parser import run_parser

if TYPE_CHECKING:
    from toolkit.proofs.reproduction import Reproduction


def main(arguments: Sequence[str]) -> int:
    parser = run_parser(
        "reproduce",
        "Rerun a finished run from scratch in another folder, with the same settings and parents, and "
        "compare every file with what was sealed.",
        "toolkit reproduce runs/tiny/corpus\ntoolkit reproduce runs/tiny/pretrain --output again",
        "a finished run",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="keep the new run below this folder (default: do not keep it)",
    )
    parser.add_argument(
        "--launch",
        type=Path,
        metavar="ACCELERATE.yaml",
        help="start it with accelerate launch and this configuration",
    )
    args = parser.parse_intermixed_args(arguments)
    from toolkit.base.console import print_json
    from toolkit.proofs.reproduction import reproduce

    result = reproduce(Path(args.run), output=args.output, launch=args.launch)
    _show(result)
    if args.json:
        print_json(result.as_json())
    return 0 if result.same else 1


def _show(result: Reproduction) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from toolkit.proofs.reproduction import APART, DIFFERS, SAME

    styles = {SAME: "", DIFFERS: "red", APART: "dim"}
    table = Table("file", "", "", box=None, pad_edge=False)
    table.columns[0].min_width = max(len(file.name) for file in result.files)  # names are never cut
    for file in result.files:
        style = styles[file.result]
        table.add_row(file.name, Text(file.result, style=style), Text(file.note, style=style))
    Console(stderr=True, highlight=False, markup=False).print(table)
    differing = [file for file in result.files if file.result == DIFFERS]
    count = sum(file.result != APART for file in result.files)
    if differing:
        summary = f"error: {result.run}: {len(differing)} of {count} files differ, first {differing[0].name}"
    else:
        summary = f"{result.run}: reproduced, all {count} files that were compared are the same"
    print(summary, file=sys.stderr)
    if result.rerun is not None:
        print(f"the new run: {result.rerun}", file=sys.stderr)
