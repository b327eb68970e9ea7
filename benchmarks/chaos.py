"""Disturb runs of every stage, resume them, and compare what they end with: a Markdown table.

    python -m benchmarks.chaos                                  about half an hour on 2 cores
    python -m benchmarks.chaos --only save --stage dpo          one kind of disturbance, one stage
    python -m benchmarks.chaos --kills 20 --output table.md     a short campaign

Each recipe of `chaos_recipes.py` first runs undisturbed. Each case copies the runs that it needs, disturbs
the run as its kind says (`chaos_cases.py`), gives the same command until the run is finished, and compares
every sealed file with the undisturbed run, as `toolkit reproduce` does. The seed determines the cases and
where each is disturbed; a SIGKILL after a time comes at another instruction every time.

The exit status is 1 if a run ended differently, never finished, or printed a traceback. Its folder is then
kept, and the command that repeats its cell is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import chaos_cases, chaos_recipes
from benchmarks.chaos_cases import Case, Outcome, Reference, Scene
from benchmarks.chaos_process import LAUNCHER, Command, ForkServer
from benchmarks.commands import header
from toolkit.base.progress import Progress
from toolkit.runtime import hardware

KILLS = 150
HEADINGS = {
    "kill": "SIGKILL after a random time",
    "change": "SIGKILL at a change of the disk",
    "save": "SIGKILL while saving",
    "rank": "SIGKILL of one of two processes",
    "signal": "INT, TERM, HUP, USR1",
    "no-room": "every write fails",
    "full-disk": "full disk",
    "damage": "damaged file",
    "environment": "other environment",
}
"""Kind -> the heading of its column."""
_KILLS = ("kill", "change", "save")
_WITHOUT_SAVES = ("tokenizer", "evaluate")
_RANKS = ("pretrain", "sft", "reward", "dpo", "ppo")
_CASES = {"signal": 4, "no-room": 3, "full-disk": 2, "damage": 6}
"""Cases of each stage's first recipe; its other recipes have one of `no-room` and `damage`."""
_KILLS_PER_CASE = 1.6
"""Of three cases one kills up to three times; some runs end before."""


def plan(
    kills: int, *, kinds: Sequence[str] = (*HEADINGS,), names: Sequence[str] = (*chaos_recipes.RECIPES,)
) -> list[Case]:
    """Return the cases of a campaign.

    Args:
        kills: about how many SIGKILLs; each cell of `_KILLS` has at least one case.
        kinds, names: only these columns and rows of the table.
    """
    cases = _kills(kills, [kind for kind in _KILLS if kind in kinds], names)
    for name in names:
        for kind in (kind for kind in kinds if kind not in _KILLS):
            cases += [Case(kind, name, number) for number in _numbers(kind, name)]
    return cases


def _kills(kills: int, kinds: Sequence[str], names: Sequence[str]) -> list[Case]:
    cells = [(kind, name) for kind in kinds for name in names
             if kind != "save" or chaos_recipes.stage(name) not in _WITHOUT_SAVES]  # fmt: skip
    wanted = max(round(kills / _KILLS_PER_CASE), len(cells))
    return [Case(*cells[i % len(cells)], i // len(cells)) for i in range(wanted if cells else 0)]


def _numbers(kind: str, name: str) -> Sequence[int]:
    """Return the numbers of the cases of a cell."""
    stage = chaos_recipes.stage(name)
    if name != stage:
        return range(kind in ("no-room", "damage"))
    if kind == "rank":
        return range(stage in _RANKS)
    if kind == "environment":
        every = len(chaos_cases.VARIABLES) + len(chaos_cases.PLACES)
        return range(list(chaos_recipes.PARENTS).index(stage), every, len(chaos_recipes.PARENTS))
    return range(_CASES[kind])


class Campaign:
    """The references and the cases of a campaign, in one folder."""

    def __init__(self, work: Path, *, seed: int, jobs: int):
        self.work, self.seed, self.jobs = work, seed, jobs
        self.references: dict[str, Reference] = {}
        self._servers: queue.Queue[ForkServer] = queue.Queue()
        chaos_recipes.write(work)

    def run(self, cases: Sequence[Case]) -> list[Outcome]:
        """Carry out cases, several at a time; progress is on stderr."""
        needed = [name for case in cases for name in (*chaos_recipes.ancestors(case.recipe), case.recipe)]
        needed = list(dict.fromkeys(needed))
        alone = list(dict.fromkeys(case.recipe for case in cases if case.kind == "rank"))
        with ExitStack() as stack:
            servers = [ForkServer() for _ in range(self.jobs)]
            for server in servers:
                stack.callback(server.stop)
            for server in servers:
                server.wait_until_ready()
                self._servers.put(server)
            with Progress("undisturbed runs", len(needed) + len(alone), unit="run") as progress:
                for done, name in enumerate(needed, 1):
                    self.references[name] = self._reference(name)
                    progress.update(done)
                for done, name in enumerate(alone, len(needed) + 1):
                    self.references[f"{name} on two"] = self._reference_on_two(name)
                    progress.update(done)
            return self._cases(cases, stack)

    def _cases(self, cases: Sequence[Case], stack: ExitStack) -> list[Outcome]:
        pool = stack.enter_context(ThreadPoolExecutor(self.jobs))
        futures = [pool.submit(self._case, number, case) for number, case in enumerate(cases)]
        outcomes: list[Outcome] = []
        with Progress("chaos", len(cases), unit="case") as progress:
            for future in as_completed(futures):
                outcomes.append(future.result())
                failed = sum(outcome.failed for outcome in outcomes)
                kills = sum(outcome.kills for outcome in outcomes)
                progress.update(len(outcomes), kills=kills, failed=failed)
                if outcomes[-1].failed:
                    tell_failure(outcomes[-1], seed=self.seed)
        return outcomes

    def _case(self, number: int, case: Case) -> Outcome:
        server = self._servers.get()
        folder = self.work / "cases" / f"{number:03d}-{case.kind}-{chaos_recipes.stem(case.recipe)}"
        try:
            name = f"{case.recipe} on two" if case.kind == "rank" else case.recipe
            scene = Scene(case, self.references[name], work=self.work, folder=folder, server=server)
            outcome = chaos_cases.carry_out(case, scene, seed=self.seed)
        finally:
            self._servers.put(server)
        if outcome.failed:
            outcome.notes.append(f"kept in {folder}")
        else:
            shutil.rmtree(folder)
        return outcome

    def _reference(self, name: str) -> Reference:
        server = self._servers.get()
        counts, output = self.work / f"{chaos_recipes.stem(name)}.json", self._output(name)
        fault = {"count": str(counts), "below": str(self.work / "runs")}
        end = server.start(self._arguments(name, self.work / "runs"), output, fault).end()
        self._servers.put(server)
        self._require(end.status == 0, name, end.output)
        run = self.work / "runs" / chaos_recipes.FOLDER / chaos_recipes.stem(name)
        return Reference(run, end.seconds, json.loads(counts.read_text()))

    def _reference_on_two(self, name: str) -> Reference:
        """The undisturbed run on two processes, whose bits differ from those on one."""
        runs_dir = self.work / "runs-on-two" / chaos_recipes.stem(name)
        for parent in chaos_recipes.ancestors(name):
            stem = f"{chaos_recipes.FOLDER}/{chaos_recipes.stem(parent)}"
            if not (runs_dir / stem).exists():
                (runs_dir / stem).parent.mkdir(parents=True, exist_ok=True)
                (runs_dir / stem).symlink_to(self.work / "runs" / stem)
        output = self._output(f"{name} on two")
        end = Command.start(self._arguments(name, runs_dir), output, variables={}, launcher=LAUNCHER).end()
        self._require(end.status == 0, name, end.output)
        run = runs_dir / chaos_recipes.FOLDER / chaos_recipes.stem(name)
        return Reference(run, end.seconds, {})

    def _output(self, name: str) -> Path:
        return self.work / f"{chaos_recipes.stem(name)}.txt"

    def _arguments(self, name: str, runs_dir: Path) -> list[str]:
        recipe = self.work / "recipes" / chaos_recipes.FOLDER / f"{chaos_recipes.stem(name)}.yaml"
        return ["run", str(recipe), "--runs-dir", str(runs_dir)]

    def _require(self, is_well: bool, name: str, output: str) -> None:
        if not is_well:
            raise SystemExit(f"the undisturbed run of {name!r} failed:\n{output}")


def tell_failure(outcome: Outcome, *, seed: int) -> None:
    """Print a failed case, and the command that repeats its cell, on stderr."""
    case = outcome.case
    print(f"{outcome.verdict}: {case.recipe}, {case.kind} {case.number}: {'; '.join(outcome.notes)}",
          file=sys.stderr)  # fmt: skip
    kills = round(_KILLS_PER_CASE * (case.number + 1))
    options = f"--seed {seed} --kills {kills} --only {case.kind} --recipe '{case.recipe}'"
    print(f"  repeat: python -m benchmarks.chaos {options}", file=sys.stderr, flush=True)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the Markdown table of recipes and kinds, with the totals in its last row."""
    kinds = [kind for kind in HEADINGS if any(outcome.case.kind == kind for outcome in outcomes)]
    names = [name for name in chaos_recipes.RECIPES if any(each.case.recipe == name for each in outcomes)]
    lines = [header("recipe", *(HEADINGS[kind] for kind in kinds))]
    for name in names:
        of_name = [outcome for outcome in outcomes if outcome.case.recipe == name]
        cells = [cell([each for each in of_name if each.case.kind == kind]) for kind in kinds]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    totals = [cell([each for each in outcomes if each.case.kind == kind]) for kind in kinds]
    lines.append(f"| **all** | {' | '.join(totals)} |")
    return "\n".join(lines)


def cell(outcomes: Sequence[Outcome]) -> str:
    """Return the counts of one cell: `3`, `3, 1 refused`, or `2, **1 differs**`; `-` without cases."""
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.verdict] = counts.get(outcome.verdict, 0) + 1
    equal, refused = counts.pop(chaos_cases.EQUAL, 0), counts.pop(chaos_cases.REFUSED, 0)
    words = [str(equal)] if equal else []
    words += [f"{refused} refused"] if refused else []
    words += [f"**{number} {verdict}**" for verdict, number in sorted(counts.items())]
    return ", ".join(words) or "-"


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return the totals in words, with versions and machine."""
    count = {verdict: sum(outcome.verdict == verdict for outcome in outcomes)
             for verdict in (chaos_cases.EQUAL, chaos_cases.REFUSED, chaos_cases.DIFFERS,
                             chaos_cases.NOT_FINISHED, chaos_cases.TRACEBACK)}  # fmt: skip
    kills = sum(outcome.kills for outcome in outcomes)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "accelerate"))
    return (
        f"{len(outcomes)} cases with {kills} SIGKILLs: {count[chaos_cases.EQUAL]} ended equal, "
        f"{count[chaos_cases.REFUSED]} refused with a clear line, {count[chaos_cases.DIFFERS]} differing, "
        f"{count[chaos_cases.NOT_FINISHED]} not finished, {count[chaos_cases.TRACEBACK]} tracebacks.\n"
        f"{datetime.now(UTC):%Y-%m-%d}, {hardware.processor()['name']}, {hardware.cores()} cores, Python "
        f"{platform.python_version()}, {packages}."
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kills", type=int, default=KILLS, help="about how many SIGKILLs (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=[*HEADINGS], default=[*HEADINGS], metavar="KIND",
                        help=", ".join(HEADINGS))  # fmt: skip
    stages = [*chaos_recipes.PARENTS]
    parser.add_argument("--stage", nargs="*", choices=stages, default=stages, metavar="STAGE",
                        help=", ".join(stages))  # fmt: skip
    parser.add_argument("--recipe", nargs="*", choices=[*chaos_recipes.RECIPES], metavar="RECIPE",
                        help="rows of the table; default: all")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=min(2, hardware.cores()), help="cases at the same time")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    args = parser.parse_args(arguments)
    work = Path(tempfile.mkdtemp(prefix="toolkit-chaos-")).resolve()
    names = [name for name in args.recipe or chaos_recipes.RECIPES if chaos_recipes.stage(name) in args.stage]
    cases = plan(args.kills, kinds=args.only, names=names)
    if not chaos_cases.can_mount(work / "mount"):
        print("full-disk is left out: mounting a file system needs the privileges of root", file=sys.stderr)
        cases = [case for case in cases if case.kind != "full-disk"]
    outcomes = Campaign(work, seed=args.seed, jobs=args.jobs).run(cases)
    text = f"{table(outcomes)}\n\n{summary(outcomes)}"
    print(text)
    if args.output:
        args.output.write_text(text + "\n")
    failed = [outcome for outcome in outcomes if outcome.failed]
    for outcome in failed:
        tell_failure(outcome, seed=args.seed)
    if not failed:
        shutil.rmtree(work)
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    raise SystemExit(main())
