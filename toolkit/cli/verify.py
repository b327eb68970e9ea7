"""`toolkit verify`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from toolkit.base.errors import RunError
from toolkit.cli.parser import positive_int, run_parser
from toolkit.runs import seal, suggestions


def main(arguments: Sequence[str]) -> int:
    parser = run_parser(
        "verify",
        "Check every file of a finished run, and of the runs that it was made from, against its sealed "
        "hashes. --replay and --incident also train again and compare every bit: N optimizer steps of a "
        "pretraining with its record and its checkpoints, or one step that stopped it or was skipped.",
        "toolkit verify runs/tiny/ppo\ntoolkit verify runs/tiny/pretrain --replay 20\n"
        "toolkit verify runs/tiny/pretrain --incident 42",
        "a run directory",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--replay",
        type=positive_int,
        metavar="N",
        help="replay N steps, from the newest checkpoint that allows it, else from the start; nothing is "
        "written into the run",
    )
    group.add_argument(
        "--incident",
        type=positive_int,
        metavar="STEP",
        help="replay the step of RUN/incidents/step-STEP from its stored state",
    )
    args = parser.parse_intermixed_args(arguments)
    path = Path(args.run)
    if args.replay is not None:
        return verify_command(path, json=args.json, recompute=lambda: _replay(path, args.replay))
    if args.incident is not None:
        return verify_command(path, json=args.json, recompute=lambda: _replay_incident(path, args.incident))
    return verify_command(path, json=args.json)


def verify_command(
    run: Path | str, *, json: bool = False, recompute: Callable[[], Mapping[str, object]] | None = None
) -> int:
    """Rehash a run and all runs it came from, show a table, and return 1 where something differs.

    Args:
        recompute: is called where the parents are unchanged, and returns {"same": bool, ...} for the JSON.
            The run itself need not be finished then.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from toolkit.base.console import print_json, stdout_to_stderr

    if not seal.is_run(Path(run)) and (found := suggestions.there_is(Path(run))):
        raise RunError("is not a run directory", where=str(run), fix=found)
    if recompute is None or seal.is_sealed(Path(run)):
        links = seal.chain(Path(run))
    else:
        links = _links_of_parents(Path(run))
    changed = [link for link in links if link.problems]
    table = Table("run", "stage", "files", "", box=None, pad_edge=False)
    for link in links:
        state = Text("differs", style="red") if link.problems else Text("whole")
        table.add_row(str(_relative(link.path)), link.stage or "-", str(link.files), state)
    Console(stderr=True, markup=False).print(table)
    for link in changed:
        for problem in link.problems:
            print(f"{_relative(link.path)}: {problem}", file=sys.stderr)
    result: Mapping[str, object] = {}
    if recompute is not None:
        own = Path(os.path.abspath(run))
        if any(link.path != own for link in changed):
            raise RunError("its parents changed since they were sealed: no step can be replayed",
                           where=str(run))  # fmt: skip
        with stdout_to_stderr():
            result = recompute()
    if json:
        chain = [
            {
                "run": str(_relative(link.path)),
                "stage": link.stage,
                "files": link.files,
                "problems": link.problems,
            }
            for link in links
        ]
        print_json({"run": str(run), "whole": not changed, "chain": chain, **result})
    return 1 if changed or not result.get("same", True) else 0


def _replay(run: Path, steps: int) -> Mapping[str, object]:
    from toolkit.cli import replay_tables  # torch: 3 s
    from toolkit.proofs import replay

    result = replay.replay_run(run, steps)
    replay_tables.show_replay(result)
    return {"same": not result.differences, "replay": replay.as_json(result)}


def _replay_incident(run: Path, step: int) -> Mapping[str, object]:
    from toolkit.cli import replay_tables
    from toolkit.proofs import incident_replay

    result = incident_replay.replay_incident(run, step)
    replay_tables.show_incident(result)
    return {"same": result.reproduced, "incident": result.as_json()}


def _links_of_parents(run: Path) -> list[seal.Link]:
    """Return the chain of a run that is not finished, without itself."""
    if not seal.is_run(run):
        return seal.chain(run)
    print(f"{run}: not finished, so hashes can only be checked of the runs it was made from", file=sys.stderr)
    links = [link for _, parent, _, is_run in seal.parents(run) if is_run for link in seal.chain(parent)]
    return list({link.path: link for link in links}.values())


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
