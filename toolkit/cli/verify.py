"""`toolkit verify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolkit.cli.parser import positive_int, run_parser


def main(arguments: Sequence[str]) -> int:
    parser = run_parser(
        "verify",
        "Check every file of a finished run, and of the runs that it was made from, against what was sealed. "
        "With --replay also train again: N optimizer steps of a pretraining, each compared bit for bit "
        "with what the run wrote down, and weights and optimizer with its checkpoints.",
        "toolkit verify runs/tiny/ppo\ntoolkit verify runs/tiny/pretrain --replay 20",
        "a run directory",
    )
    parser.add_argument(
        "--replay",
        type=positive_int,
        metavar="N",
        help="make N steps again, from the newest checkpoint that allows it, else from the start; nothing is "
        "written into the run",
    )
    args = parser.parse_intermixed_args(arguments)
    from toolkit.execution.runner import verify_command

    if args.replay is None:
        return verify_command(args.run, json=args.json)
    from toolkit.cli.replay import replayed  # torch: 3 s

    return verify_command(args.run, json=args.json, also=lambda: replayed(Path(args.run), args.replay))
