"""Run a recipe in this process and the other ranks of its launch, or start the run of a folder."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from toolkit.base import console, files, progress, ranks, system_errors
from toolkit.base.errors import RecipeError, ToolkitError, UsageError
from toolkit.config import loader, recipe_texts
from toolkit.config.loader import LoadedRecipe
from toolkit.config.registry import STAGES
from toolkit.config.schema import StageRecipe
from toolkit.data import files as data_files
from toolkit.execution import launching, machine_checks, memory_shortage
from toolkit.execution.folder import RunOutcome, run_folder
from toolkit.execution.launching import INTERRUPTED, PARENT, RunOptions
from toolkit.runs import layout, opening, references
from toolkit.runs.run import Run
from toolkit.runtime import accelerate_config, env_vars, library_output, signals, waiting


def run_recipes(
    path: Path | str,
    overrides: Sequence[str] = (),
    *,
    runs_dir: Path | str = "runs",
    fresh: bool = False,
    launch: Path | str | None = None,
    jobs: int | None = None,
    processes: int = 1,
    on_first_stage: Callable[[], None] | None = None,
) -> RunOutcome:
    """Run a recipe, or all recipes of a folder in the order of their references.

    Progress is printed on stderr. A launcher calls this on every rank; rank 0 raises errors and the others
    return the same status.

    Args:
        path, overrides: a recipe or a folder of recipes, and `key=value` settings to change.
        runs_dir: the root of all runs.
        fresh: start the run over; of a folder, the runs that changed (see `starting_over`).
        launch: an Accelerate configuration with which each stage is launched.
        processes: number of processes of each stage, started by torch's launcher on this machine.
        jobs: the largest number of stages of a folder that run at the same time; None is as many as fit.
        on_first_stage: called when a folder's first unfinished stage is about to start.

    Raises:
        ToolkitError: a problem that the user can fix.
    """
    path = Path(path)
    options = RunOptions(Path(runs_dir), fresh, Path(launch) if launch else None, jobs, processes)
    _end_with_parent()
    waiting.spin_by_load()
    progress.report_to_parent()
    with signals.interruptible():
        try:
            launching.check_launch(options)
            if path.is_dir():
                return run_folder(path, overrides, options, on_first_stage)
            return _run_recipe(path, overrides, options)
        except ToolkitError as error:
            if ranks.rank() == 0 or isinstance(error, _ErrorOfThisRank):
                raise
            signals.wait_for_rank_0()
            return RunOutcome(error.exit_status)
        except KeyboardInterrupt:
            return RunOutcome(INTERRUPTED)


class _ErrorOfThisRank(ToolkitError):
    """An error that occurred on a rank other than 0, which has to print it itself."""


def _run_recipe(path: Path, overrides: Sequence[str], options: RunOptions) -> RunOutcome:
    texts = recipe_texts.receive()
    if ranks.world_size() > 1 and path.exists() and path not in texts:
        raise UsageError(
            "a recipe from a pipe can be read by one process only",
            where=str(path),
            fix="write the recipe to a file, or use --launch instead of a launcher",
        )
    with console.notices_to(None) if texts.known else nullcontext():  # the process that read it has told them
        loaded = loader.load(path, overrides, texts=texts)
    loaded = dataclasses.replace(loaded, recipe=data_files.with_fixed_votes(loaded.recipe))
    run_dir = references.below(loaded.name, options.runs_dir)
    if options.launches and STAGES[loaded.recipe.stage].uses_torch:
        options.require_agreement(loaded.recipe)
        _refuse_unable(loaded, processes=options.num_processes())
        status = launching.run(loaded, options)
    else:
        env_vars.set_variables(loaded.recipe.device)
        with console.stdout_to_stderr():
            if not launching.wait_for_start(functools.partial(_prepare, loaded)):
                return RunOutcome(INTERRUPTED)
            status = _run_in_this_process(loaded, options, run_dir)
    return RunOutcome(status, (run_dir,))


def _run_in_this_process(loaded: LoadedRecipe, options: RunOptions, run_dir: Path) -> int:
    """Run one recipe in this process; every rank calls it."""
    if STAGES[loaded.recipe.stage].uses_torch:
        accelerate_config.require_supported(loaded.recipe)
    try:
        if ranks.world_size() > 1:
            _refuse_unable(loaded)  # before the processes wait for each other
            return _run_on_ranks(loaded, options)
        with ExitStack() as stack:
            run = _open(loaded, options, stack)
            if run is not None:
                _work(run.recipe, run)
                _seal(run)
        return 0
    except KeyboardInterrupt:
        if ranks.rank() == 0:
            console.tell(f"{run_dir}: interrupted; the same command {opening.resumption(run_dir)}")
        return INTERRUPTED


def _open(loaded: LoadedRecipe, options: RunOptions, stack: ExitStack) -> Run | None:
    """Open the run of a recipe; None if it is already finished."""
    with system_errors.explain(references.below(loaded.name, options.runs_dir)):
        return stack.enter_context(
            opening.open_run(
                loaded,
                runs_dir=options.runs_dir,
                fresh=options.fresh,
                data=data_files.digests(loaded.recipe),
                before=lambda: _prepare(loaded),
            )
        )


def _run_on_ranks(loaded: LoadedRecipe, options: RunOptions) -> int:
    """Run one recipe on several ranks: rank 0 opens and seals the run, and all end with the same status."""
    from toolkit.runtime import rank_zero  # torch and accelerate: 3 s

    with ExitStack() as stack:
        try:
            return _run_together(loaded, options, stack)
        except rank_zero.RankZeroFailed as failure:
            _end_in_order()
            signals.wait_for_rank_0()
            return failure.status
        except RuntimeError as error:
            if not rank_zero.lost_process(error):
                raise
            if rank_zero.is_first_to_tell():
                raise _another_ended(references.below(loaded.name, options.runs_dir)) from error
            signals.wait_for_rank_0()
            return ToolkitError.exit_status
        except ToolkitError as error:
            rank_zero.is_first_to_tell()  # the others then say nothing when they notice
            together = _end_in_order()
            if ranks.rank() == 0:
                raise
            if together:
                return error.exit_status
            signals.wait_for_rank_0()
            raise _ErrorOfThisRank(error.what, where=error.where, fix=error.fix) from error


def _run_together(loaded: LoadedRecipe, options: RunOptions, stack: ExitStack) -> int:
    """Run one recipe on several ranks; errors of any of them are raised."""
    from toolkit.runtime import rank_zero

    run: Run | None = None

    def open_run() -> dict[str, Any] | None:
        nonlocal run
        run = _open(loaded, options, stack)
        return None if run is None else run.manifest

    rank_zero.join(loaded.recipe.device)
    if ranks.rank() != 0 and STAGES[loaded.recipe.stage].uses_torch:
        _entry(loaded.recipe.stage)  # some seconds, while rank 0 opens the run
    manifest = rank_zero.decide(open_run)
    if manifest is not None:
        run = run or Run(loaded, runs_dir=options.runs_dir, content=manifest)
        if run.is_main or STAGES[loaded.recipe.stage].uses_torch:
            _work(run.recipe, run)
        rank_zero.wait()
        rank_zero.decide(functools.partial(_seal, run))
    rank_zero.leave()
    return 0


def _another_ended(run_dir: Path) -> ToolkitError:
    """Return the error of a process that cannot go on without one that has ended."""
    return _ErrorOfThisRank(
        "another process of this launch has ended",
        where=str(run_dir),
        fix="if it gave no reason, it was killed, perhaps for lack of memory; the same command "
        + opening.resumption(run_dir),
    )


def _end_in_order() -> bool:
    """Return whether all processes have failed at the same place, so that the launcher need not end them.

    Other launchers than `toolkit run` end all processes after the first one; rank 0 then needs time to print.
    """
    from toolkit.runtime import rank_zero

    together = rank_zero.failed_together()
    if together:
        signals.stopped_in_order()
        if signals.STATUS not in os.environ:
            signals.wait_for_rank_0()
    return together


def _entry(stage: str) -> Callable[[StageRecipe, Run], None]:
    module, _, name = STAGES[stage].entry.partition(":")
    return getattr(importlib.import_module(module), name)


def _prepare(loaded: LoadedRecipe) -> None:
    """Check, before anything is written, that this machine can do it and that the stage can be imported."""
    recipe = loaded.recipe
    _refuse_unable(loaded)
    if STAGES[recipe.stage].uses_torch:  # those only read text
        from toolkit.runtime import devices  # torch: 3 s

        devices.select(recipe.device)
    _entry(recipe.stage)


def _refuse_unable(loaded: LoadedRecipe, *, processes: int | None = None) -> None:
    """Refuse settings that this machine, or so many processes, cannot carry out."""
    if problems := machine_checks.problems(loaded, processes=processes):
        raise RecipeError(problems)


def _work(recipe: StageRecipe, run: Run) -> None:
    """Run the stage, with the number of threads that the run recorded if it uses torch."""
    if STAGES[recipe.stage].uses_torch:
        _configure(recipe, run)
    try:
        with system_errors.explain(run.path):
            with_files = references.with_data_files(recipe, runs_dir=run.runs_dir)
            entry = _entry(recipe.stage)
            library_output.quiet()
            entry(with_files, run)
    except Exception as error:
        if memory_shortage.is_shortage(error):
            raise memory_shortage.shortage(error, recipe, run) from error
        raise


def _configure(recipe: StageRecipe, run: Run) -> None:
    from toolkit.runtime import devices

    record = run.decide if opening.keeps_threads(run.manifest) else run.describe
    threads = record("threads", devices.default_threads(recipe))
    devices.configure(recipe, threads=threads)
    run.decide("device", str(devices.select(recipe.device).type))
    run.describe("accelerators", devices.accelerators())


def _seal(run: Run) -> None:
    with system_errors.explain(run.path):
        run.seal()
    seconds = files.read_json(run.path / layout.TIMING)["seconds"]
    console.tell(f"{run.path}: finished and sealed, {progress.duration(seconds)}")


def _end_with_parent() -> None:
    """Make this process end with the folder runner or the launcher that started it."""
    parent = os.environ.pop(PARENT, None)
    if parent is not None:
        signals.die_with_parent(int(parent))
    elif "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ:
        signals.die_with_parent()
