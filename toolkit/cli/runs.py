"""`toolkit runs`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from toolkit.base.console import print_json
from toolkit.base.errors import RunError, UsageError
from toolkit.base.progress import duration
from toolkit.cli.number_table import number_table
from toolkit.cli.parser import Parser, add_json


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "runs",
        "List the runs below a folder. With --clean remove unneeded checkpoints: unfinished runs "
        "keep the newest whole one, from which they continue; sealed runs keep all: verify covers them.",
        "toolkit runs\ntoolkit runs runs/tiny --stage ppo --json\ntoolkit runs --clean --dry-run",
    )
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", type=Path, default=Path("runs"), help="default: runs"
    )
    parser.add_argument("--stage", metavar="STAGE", help="only runs of this stage")
    parser.add_argument("--clean", action="store_true", help="remove unneeded checkpoints")
    parser.add_argument("--dry-run", action="store_true", help="with --clean: list them and remove nothing")
    parser.add_argument("--yes", action="store_true", help="with --clean: do not ask")
    add_json(parser)
    args = parser.parse_intermixed_args(arguments)
    if (args.dry_run or args.yes) and not args.clean:
        parser.error("--dry-run and --yes go with --clean")
    if args.clean:
        return clean(args.folder, stage=args.stage, dry_run=args.dry_run, yes=args.yes, json=args.json)
    return show(args.folder, stage=args.stage, json=args.json)


def show(folder: Path, *, stage: str | None, json: bool) -> int:
    """Print the runs below a folder, as a table or as one JSON object."""
    from toolkit.runs.index import list_runs

    entries = list_runs(folder, stage=_known(stage))
    if json:
        print_json({"folder": str(folder), "runs": [entry.to_json() for entry in entries]})
        return 0
    table = number_table(f"runs in {folder}", ["run", "stage", "state"], ["size", "age", "time"])
    now = datetime.now(UTC)
    for entry in entries:
        age = age_text((now - entry.changed).total_seconds())
        seconds = "-" if entry.seconds is None else duration(entry.seconds)
        table.add_row(entry.reference, entry.stage, entry.state, size(entry.bytes), age, seconds)
    Console(highlight=False, markup=False).print(table)
    return 0


def clean(folder: Path, *, stage: str | None, dry_run: bool, yes: bool, json: bool) -> int:
    """List unneeded files, ask for confirmation, and remove them. The exit status is 1 if the user declines.

    Raises:
        UsageError: there is nobody to ask, and neither --yes nor --dry-run was given.
    """
    from toolkit.runs.index import list_runs, removable, remove

    candidates, in_use = [], []
    for entry in list_runs(folder, stage=_known(stage)):
        try:
            candidates += removable(entry.path)
        except RunError as error:  # in use
            in_use.append(entry.path)
            print(f"skipped: {error.where}: {error.what}", file=sys.stderr)
    for item in candidates:
        print(f"{size(item.bytes):>9}  {item.path}  ({item.reason})", file=sys.stderr)
    freed = sum(item.bytes for item in candidates)
    removed = []
    if not candidates:
        print(f"{folder}: nothing to remove", file=sys.stderr)
    elif dry_run:
        print(f"{size(freed)} would be freed; nothing was removed (--dry-run)", file=sys.stderr)
    elif not (yes or _confirmed(f"remove these {len(candidates)} ({size(freed)})? [y/N] ")):
        print("nothing was removed", file=sys.stderr)
        return 1
    else:
        for run in dict.fromkeys(item.run for item in candidates):
            removed += remove(run)
        print(f"{size(sum(item.bytes for item in removed))} freed", file=sys.stderr)
    if json:
        print_json(
            {
                "folder": str(folder),
                "removable": [item.to_json() for item in candidates],
                "removed": [item.to_json() for item in removed],
                "in_use": [str(path) for path in in_use],
            }
        )
    return 0


def _known(stage: str | None) -> str | None:
    """Return a stage's name.

    Raises:
        UsageError: there is no such stage.
    """
    from toolkit.config.messages import suggestion
    from toolkit.config.registry import STAGES

    if stage is not None and stage not in STAGES:
        hint = suggestion(stage, STAGES)
        raise UsageError(
            f"there is no stage {stage!r}{hint}", where="--stage", fix=f"give one of {', '.join(STAGES)}"
        )
    return stage


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on", where="--clean", fix="give --yes or --dry-run")
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def age_text(seconds: float) -> str:
    """Write an age as 2m05s, 3h20m, or from two days on as 5 days."""
    days = int(seconds // 86400)
    return f"{days} days" if days >= 2 else duration(seconds)


def size(count: int) -> str:
    """Write a number of bytes as 512 B, 3.4 MB or 1.2 GB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
