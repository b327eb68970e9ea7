"""`toolkit verify`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from toolkit.base.console import print_json, stdout_to_stderr
from toolkit.base.errors import RunError
from toolkit.cli.parser import positive_int, run_parser
from toolkit.runs import seal


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
    if args.replay is None:
        return verify_command(args.run, json=args.json)
    from toolkit.cli.replay import replayed  # torch: 3 s

    return verify_command(args.run, json=args.json, also=lambda: replayed(Path(args.run), args.replay))


def verify_command(
    run: Path | str, *, json: bool = False, also: Callable[[], dict[str, Any]] | None = None
) -> int:
    """Rehash a run and all runs it came from, show a table, and return 1 where something differs.

    Args:
        also: does more where the parents are whole, and returns {"same": bool, ...} for the JSON. The run
            itself need not be finished then.
    """
    links = seal.chain(Path(run)) if also is None or seal.is_sealed(Path(run)) else _parents(Path(run))
    wrong = [link for link in links if link.problems]
    table = Table("run", "stage", "files", "", box=None, pad_edge=False)
    for link in links:
        word = "[red]differs" if link.problems else "whole"
        table.add_row(str(_near(link.path)), link.stage or "-", str(link.files), word)
    Console(stderr=True).print(table)
    for link in wrong:
        for problem in link.problems:
            print(f"{_near(link.path)}: {problem}", file=sys.stderr)
    more: dict[str, Any] = {}
    if also is not None:
        own = Path(os.path.abspath(run))
        if any(link.path != own for link in wrong):
            raise RunError("its parents are not what was sealed: nothing can be made again", where=str(run))
        with stdout_to_stderr():
            more = also()
    if json:
        rows = [
            {
                "run": str(_near(link.path)),
                "stage": link.stage,
                "files": link.files,
                "problems": link.problems,
            }
            for link in links
        ]
        print_json({"run": str(run), "whole": not wrong, "chain": rows, **more})
    return 1 if wrong or not more.get("same", True) else 0


def _parents(run: Path) -> list[seal.Link]:
    """The chain of a run that is not finished, without itself."""
    if not seal.is_run(run):
        return seal.chain(run)
    print(f"{run}: not finished, so only what it was made from can be checked by hashes", file=sys.stderr)
    links = [link for _, place, _, is_run in seal.parents(run) if is_run for link in seal.chain(place)]
    return list({link.path: link for link in links}.values())


def _near(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
