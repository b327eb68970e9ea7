"""`toolkit reproduce`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolkit.cli.parser import run_parser


def main(arguments: Sequence[str]) -> int:
    parser = run_parser(
        "reproduce",
        "Make a finished run again from nothing, with the same settings and parents, in another place, and "
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
        help="start it with accelerate launch, as it was made",
    )
    args = parser.parse_intermixed_args(arguments)
    from toolkit.proofs.reproduction import reproduce_command

    return reproduce_command(Path(args.run), output=args.output, launch=args.launch, json=args.json)
