"""Running recipes: one in this process (and in its fellow ranks), or a folder, each in its own process."""

from __future__ import annotations

import functools
import importlib
import json as json_format
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from toolkit.base import files, progress, ranks
from toolkit.base.errors import RunError, ToolkitError, UsageError
from toolkit.config import loader
from toolkit.config.loader import LoadedRecipe
from toolkit.config.registry import STAGES
from toolkit.config.schema import StageRecipe
from toolkit.data import files as data_files
from toolkit.execution import dag, launching, memory_shortage  # fmt: skip
from toolkit.execution.launching import INTERRUPTED, ONE_PROCESS, PARENT, Options
from toolkit.runs import layout, opening, references, seal
from toolkit.runs.run import Run
from toolkit.runtime import accelerate_config, env_vars, signals


def run_command(
    path: Path | str,
    overrides: Sequence[str] = (),
    *,
    runs_dir: Path | str = "runs",
    fresh: bool = False,
    launch: Path | str | None = None,
    json: bool = False,
) -> int:
    """Run a recipe, or all recipes of a folder in the order of their references; returns the exit status.

    Under a launcher this is called on every rank; rank 0 raises and the others return the same status.

    Raises:
        ToolkitError: what the user can mend.
    """
    path, options = Path(path), Options(Path(runs_dir), fresh, Path(launch) if launch else None, json)
    _live_no_longer_than_parent()
    with signals.interruptible():
        try:
            if options.launch is not None:
                launching.check_configuration(options.launch)
            return (_run_folder if path.is_dir() else _run_recipe)(path, overrides, options)
        except ToolkitError as error:
            if ranks.rank() == 0 or isinstance(error, _OnThisRank):
                raise
            signals.let_rank_0_speak()
            return error.exit_status
        except KeyboardInterrupt:
            return INTERRUPTED


def _load_report() -> None:
    """Load what is shown at the end (2 s) while the stages run in processes of their own."""
    with suppress(ImportError):  # it is said where it is needed
        importlib.import_module("toolkit.report.page")


class _OnThisRank(ToolkitError):
    """An error that only a rank other than 0 has seen: it is printed all the same."""


def _run_recipe(path: Path, overrides: Sequence[str], options: Options) -> int:
    loaded = loader.load(path, overrides)
    place = references.below(loaded.name, options.runs_dir)
    if options.launch is not None and loaded.recipe.stage not in ONE_PROCESS:
        status = launching.start(loaded, options)
    else:
        env_vars.set_variables(loaded.recipe.device)
        with _stdout_to_stderr():
            if not launching.wait_to_begin(functools.partial(_prepare, loaded.recipe)):
                return INTERRUPTED
            status = _run_here(loaded, options, place)
    if status == 0 and options.json and ranks.rank() == 0:
        _print_json(_summarize([place]))
    return status


def _run_here(loaded: LoadedRecipe, options: Options, place: Path) -> int:
    """Run one recipe in this process; its fellow ranks do the same."""
    accelerate_config.require_supported(loaded.recipe)
    try:
        if ranks.world_size() > 1:
            return _run_on_ranks(loaded, options)
        with ExitStack() as stack:
            run = _open(loaded, options, stack)
            if run is not None:
                _work(loaded.recipe, run)
                _seal(run)
        return 0
    except KeyboardInterrupt:
        if ranks.rank() == 0:
            start = opening.where_from(place)
            print(f"{place}: interrupted; the same command goes on from {start}", file=sys.stderr)
        return INTERRUPTED


def _open(loaded: LoadedRecipe, options: Options, stack: ExitStack) -> Run | None:
    recipe = loaded.recipe
    return stack.enter_context(
        opening.open_run(
            loaded,
            runs_dir=options.runs_dir,
            fresh=options.fresh,
            data=data_files.digests(recipe),
            before=lambda: _prepare(recipe),
        )
    )


def _run_on_ranks(loaded: LoadedRecipe, options: Options) -> int:
    """Rank 0 opens and seals the run; all take part in the stage and end with the same status."""
    from toolkit.runtime import rank_zero  # torch and accelerate: 3 s

    run: Run | None = None

    def open_run() -> dict[str, Any] | None:
        nonlocal run
        run = _open(loaded, options, stack)
        return None if run is None else run.manifest

    with ExitStack() as stack:
        try:
            rank_zero.join(loaded.recipe.device)
            manifest = rank_zero.decide(open_run)
            if manifest is not None:
                run = run or Run(loaded, runs_dir=options.runs_dir, content=manifest)
                if run.is_main or loaded.recipe.stage not in ONE_PROCESS:
                    _work(loaded.recipe, run)
                rank_zero.wait()
                rank_zero.decide(functools.partial(_seal, run))
            rank_zero.leave()
            return 0
        except rank_zero.Told as told:
            signals.let_rank_0_speak()
            return told.status
        except ToolkitError as error:
            if ranks.rank() == 0:
                raise
            signals.let_rank_0_speak()
            raise _OnThisRank(error.what, where=error.where, fix=error.fix) from error


def _entry(stage: str) -> Callable[[StageRecipe, Run], None]:
    module, _, name = STAGES[stage][0].partition(":")
    return getattr(importlib.import_module(module), name)


def _prepare(recipe: StageRecipe) -> None:
    """Everything that can refuse before a byte is written: the machine, and the stage's own imports."""
    if recipe.stage not in ONE_PROCESS:  # those only read text
        from toolkit.runtime import devices  # torch: 3 s

        devices.select(recipe.device)
    _entry(recipe.stage)


def _work(recipe: StageRecipe, run: Run) -> None:
    """Run the stage; one that computes gets the threads that the run began with."""
    if recipe.stage not in ONE_PROCESS:
        _configure(recipe, run)
    try:
        _entry(recipe.stage)(recipe, run)
    except Exception as error:
        if files.disk_full(error):
            raise files.full_error(run.path) from error
        if memory_shortage.is_shortage(error):
            raise memory_shortage.shortage(error, recipe, run) from error
        raise


def _configure(recipe: StageRecipe, run: Run) -> None:
    from toolkit.runtime import devices

    threads = devices.default_threads(recipe)
    threads = run.record("threads", threads, keep=opening.keeps_threads(run.manifest))
    devices.configure(recipe, threads=threads)
    run.record("device", str(devices.select(recipe.device).type))
    run.record("accelerators", devices.accelerators(), keep=False)


def _seal(run: Run) -> None:
    try:
        seal.seal(run)
    except OSError as error:
        if files.disk_full(error):
            raise files.full_error(run.path) from error
        raise
    seconds = files.read_json(run.path / layout.TIMING)["seconds"]
    print(f"{run.path}: finished and sealed, {progress.duration(seconds)}", file=sys.stderr)


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send what a stage and its libraries print to stderr, C and child processes included."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _live_no_longer_than_parent() -> None:
    """End with the folder runner, or with the launcher, that started this process."""
    parent = os.environ.pop(PARENT, None)
    if parent is not None:
        signals.die_with_parent(int(parent))
    elif "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ:
        signals.die_with_parent()


# A folder


def _run_folder(folder: Path, overrides: Sequence[str], options: Options) -> int:
    if ranks.world_size() > 1 or "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ:
        raise UsageError(
            "a folder cannot run under a launcher: each of its stages is a launch of its own",
            where=str(folder),
            fix=f"toolkit run {folder} --launch ACCELERATE.yaml",
        )
    recipes = dag.order(loader.load_folder(folder, overrides))
    if not options.fresh:
        _refuse_changed(recipes, options)
    places = [references.below(loaded.name, options.runs_dir) for loaded in recipes]
    fresh = options.fresh
    if fresh:  # all at once, children first: an interrupted folder goes on without --fresh
        for place in reversed(places):
            opening.discard(place, runs_dir=options.runs_dir)
        options = replace(options, fresh=False)
    started = 0
    with launching.Ahead(recipes, places, options) as ahead:
        for number, (loaded, place) in enumerate(zip(recipes, places, strict=True), 1):
            head = f"[{number}/{len(recipes)}] {loaded.recipe.stage}  {loaded.path} -> {place}"
            if not fresh and _is_done(loaded, options):
                print(f"{head}  finished already", file=sys.stderr, flush=True)
                continue
            print(head, file=sys.stderr, flush=True)
            if started == 0:  # where all is finished there is often no page to write
                threading.Thread(target=_load_report, daemon=True).start()
            started += 1
            status = launching.start(loaded, options, ahead.of(number - 1))
            if status != 0:
                return _stopped(loaded, place, status, options)
    if started == 0:
        print(f"{folder}: everything is finished, nothing to do (--fresh starts over)", file=sys.stderr)
    _finish(places, options, new=started > 0)
    return 0


def _refuse_changed(recipes: Sequence[LoadedRecipe], options: Options) -> None:
    """Name every recipe that its run was not made from, before the first stage starts."""
    lines = []
    for loaded in recipes:
        for change in opening.changed_settings(loaded, runs_dir=options.runs_dir):
            lines.append(f"{references.below(loaded.name, options.runs_dir)}: {change}")
    if lines:
        raise RunError(
            "runs that are there were made from other settings:\n    " + "\n    ".join(lines),
            fix="put the settings back, name another --runs-dir, or start over with --fresh",
        )


def _is_done(loaded: LoadedRecipe, options: Options) -> bool:
    data = data_files.digests(loaded.recipe)
    return opening.examine(loaded, runs_dir=options.runs_dir, data=data).kind == "sealed"


def _stopped(loaded: LoadedRecipe, place: Path, status: int, options: Options) -> int:
    if status == INTERRUPTED:
        print(f"stopped in {loaded.recipe.stage}; the same command goes on there", file=sys.stderr)
    else:
        command = shlex.join(["toolkit", *launching.arguments(loaded, options)])
        print(
            f"{loaded.recipe.stage} failed (exit status {status}); what is finished stays.\n"
            f"The same command goes on there; this stage alone:\n  {command}",
            file=sys.stderr,
        )
    return status


# What is shown at the end


def _summarize(places: Sequence[Path]) -> dict[str, Any]:
    from toolkit.report import summary

    return summary.summarize(list(places))


def _print_json(value: Any) -> None:
    print(json_format.dumps(value, ensure_ascii=False, allow_nan=False))


def _finish(places: Sequence[Path], options: Options, *, new: bool) -> None:
    """Show the numbers of a folder on stderr, write its page, and with --json print one object."""
    from toolkit.cli import summary_tables

    numbers = _summarize(places)
    summary_tables.show(numbers)
    page = Path(os.path.commonpath([place.parent for place in places])) / "report.html"
    if new or not page.exists():
        from toolkit.report.page import write_report  # matplotlib: 0.5 s

        write_report(list(places), page)
    print(f"report: {page}", file=sys.stderr)
    if options.json:
        _print_json({"report": str(page), **numbers})


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
        with _stdout_to_stderr():
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
        _print_json({"run": str(run), "whole": not wrong, "chain": rows, **more})
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
