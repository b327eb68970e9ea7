"""Run a folder of recipes: each stage in a process, independent stages side by side."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.base import console, ranks
from toolkit.base.errors import RecipeError, RunError, UsageError
from toolkit.config import loader
from toolkit.config.loader import LoadedRecipe
from toolkit.config.registry import STAGES
from toolkit.config.schema import CorpusRecipe, PreferencesRecipe, StageRecipe
from toolkit.data import files as data_files
from toolkit.execution import dag, data_checks, launching, machine_checks, starting_over
from toolkit.execution.launching import INTERRUPTED, RunOptions
from toolkit.execution.schedule import Schedule, StageTask
from toolkit.execution.stage_output import StageOutput
from toolkit.execution.stage_processes import StageProcesses
from toolkit.execution.starting_over import StartingOver
from toolkit.runs import opening, references, seal, suggestions
from toolkit.runtime import accelerate_config, hardware
from toolkit.runtime.host_memory import available_memory

STAGE_BYTES = 2 * 2**30
"""Memory that must be available before a stage starts, or loads its libraries, beside another one."""


@dataclass(frozen=True)
class RunOutcome:
    """How the run of a recipe, or of a folder of recipes, ended."""

    status: int
    """The exit status: 0 done, 1 failed, 2 invalid recipe, 130 interrupted."""
    runs: tuple[Path, ...] = ()
    """The run directories, in the order of execution."""
    is_folder: bool = False
    started: int = 0
    """Number of stages of a folder that were started; the others were already finished."""


def run_folder(
    folder: Path, overrides: Sequence[str], options: RunOptions, on_first_stage: Callable[[], None] | None
) -> RunOutcome:
    """Run the recipes of a folder that are not finished yet; stop when the first one fails.

    Args:
        on_first_stage: called when the first unfinished stage is about to start.

    Raises:
        ToolkitError: a problem that the user can fix.
        KeyboardInterrupt: a signal arrived while no stage ran.
    """
    accelerate_config.require_recipe_decides()
    if ranks.world_size() > 1 or "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ:
        raise UsageError(
            "a folder cannot run under a launcher: each of its stages is a separate launch",
            where=str(folder),
            fix=f"toolkit run {folder} --processes N, or --launch ACCELERATE.yaml",
        )
    suggestions.require_no_runs(folder)
    recipes = [
        replace(loaded, recipe=data_files.with_fixed_votes(loaded.recipe))
        for loaded in dag.order(loader.load_folder(folder, overrides))
    ]
    anew = StartingOver()
    if options.fresh:
        anew = starting_over.examine(recipes, runs_dir=options.runs_dir)
    else:
        _refuse_changed(recipes, options)
    run_dirs = tuple(references.below(loaded.name, options.runs_dir) for loaded in recipes)
    _refuse_unable(recipes, options, anew)
    if options.fresh:
        starting_over.tell(anew, runs_dir=options.runs_dir)
        # All together, children first: an interrupted folder is resumed without --fresh.
        for name in reversed(anew.reasons):
            opening.discard(references.below(name, options.runs_dir), runs_dir=options.runs_dir)
    run = _FolderRun(recipes, options, on_first_stage, anew)
    status = run.finish()
    if status == 0 and run.started == 0:
        console.tell(
            f"{folder}: everything is finished, nothing to do; to make a run anew, delete its folder, or run "
            "its recipe with --fresh"
        )
    return RunOutcome(status, run_dirs, is_folder=True, started=run.started)


def cores_of(recipe: StageRecipe, *, launched: bool = False) -> int:
    """Return the number of cores that a stage computes on; all of them if it must run alone.

    A launch and a stage that may use a GPU run alone: another process would take the launch's cores, or the
    GPU's memory.
    """
    everything = hardware.cores()
    if isinstance(recipe, CorpusRecipe):
        return recipe.workers or everything
    if not STAGES[recipe.stage].uses_torch:
        return 1
    if launched or recipe.device == "mps" or (recipe.device != "cpu" and hardware.has_gpu()):
        return everything
    workers = recipe.workers if isinstance(recipe, PreferencesRecipe) else 1
    return workers * recipe.threads if recipe.threads else everything


class _FolderRun:
    """One run of the recipes of a folder, which are in the order of `dag.order`.

    Args:
        anew: what `--fresh` has found out; the other runs are examined in their turn.
    """

    def __init__(
        self,
        recipes: Sequence[LoadedRecipe],
        options: RunOptions,
        on_first_stage: Callable[[], None] | None,
        anew: StartingOver,
    ):
        self._recipes = {loaded.name: loaded for loaded in recipes}
        self._numbers = {loaded.name: number for number, loaded in enumerate(recipes, 1)}
        self._anew, self._options = anew, replace(options, fresh=False)
        self._on_first_stage = on_first_stage
        parents, launched = dag.parents(recipes), options.launches
        tasks = [
            StageTask(
                loaded.name, frozenset(parents[loaded.name]), cores_of(loaded.recipe, launched=launched)
            )
            for loaded in recipes
        ]
        self._schedule = Schedule(tasks, jobs=options.jobs, cores=hardware.cores())
        self._side_by_side = self._schedule.runs_side_by_side()
        self.started = 0

    def finish(self) -> int:
        """Run all stages and return the exit status, of the first stage that fails."""
        with ExitStack() as stack:
            output = None
            if self._side_by_side:
                labels = {name: loaded.path.stem for name, loaded in self._recipes.items()}
                output = stack.enter_context(StageOutput(labels))
            processes = stack.enter_context(StageProcesses(self._options, output))
            try:
                failed, status = self._run(processes)
            except KeyboardInterrupt:
                failed, status = list(self._schedule.running), INTERRUPTED
                if not failed:
                    raise
            processes.stop()
        if status != 0:
            self._report_stop(failed, status)
        return status

    def _run(self, processes: StageProcesses) -> tuple[list[str], int]:
        """Run all stages; return the one that failed, if any, and its exit status."""
        while self._schedule.waiting or self._schedule.running:
            self._start_stages(processes)
            self._preload(processes)
            ended = processes.wait() if self._schedule.running else None
            if ended is None:
                continue
            if ended.status != 0:
                self._tell_stopping(ended.name)
                return [ended.name], ended.status
            self._schedule.finish(ended.name)
        return [], 0

    def _start_stages(self, processes: StageProcesses) -> None:
        """Start all stages that can start now."""
        while (name := self._schedule.next()) is not None:
            loaded = self._recipes[name]
            head = self._head(loaded)
            if self._is_done(loaded):
                console.tell(f"{head}  finished already")
                self._schedule.finish(name)
                continue
            if self._schedule.running and available_memory() < STAGE_BYTES:
                return
            console.tell(head)
            if self.started == 0 and self._on_first_stage is not None:
                self._on_first_stage()
            self.started += 1
            processes.start(loaded)
            self._schedule.start(name)

    def _is_done(self, loaded: LoadedRecipe) -> bool:
        if loaded.name in self._anew.finished or loaded.name in self._anew.reasons:
            return loaded.name in self._anew.finished
        data = data_files.digests(loaded.recipe)
        return opening.examine(loaded, runs_dir=self._options.runs_dir, data=data).kind == "sealed"

    def _head(self, loaded: LoadedRecipe) -> str:
        run_dir = references.below(loaded.name, self._options.runs_dir)
        place = f"[{self._numbers[loaded.name]}/{len(self._numbers)}]"
        return f"{place} {loaded.recipe.stage}  {loaded.path} -> {run_dir}"

    def _preload(self, processes: StageProcesses) -> None:
        """Let an idle core load the libraries of the next stage that needs torch, one stage at a time.

        Where stages run side by side, two more are loaded than can run: while a stage computes on all cores,
        or two start together, nothing is loaded, and the stages after these must be ready, too.
        """
        most = self._schedule.jobs + 2 if self._side_by_side else 1
        if (
            self._options.launches
            or processes.is_loading
            or len(processes.preloaded) >= most
            or self._schedule.idle_cores == 0
            or available_memory() < STAGE_BYTES
        ):
            return
        for name in self._schedule.waiting:
            loaded = self._recipes[name]
            sealed = seal.is_sealed(references.below(name, self._options.runs_dir))
            if STAGES[loaded.recipe.stage].uses_torch and not sealed and not processes.has_preloaded(name):
                processes.preload(loaded)
                return

    def _tell_stopping(self, failed: str) -> None:
        others = [self._recipes[name].recipe.stage for name in self._schedule.running if name != failed]
        if others:
            console.tell(f"{self._recipes[failed].recipe.stage} failed; stopping {' and '.join(others)}")

    def _report_stop(self, names: Sequence[str], status: int) -> None:
        stages = " and ".join(self._recipes[name].recipe.stage for name in names)
        these = "this stage" if len(names) == 1 else "these stages"
        if status == INTERRUPTED:
            console.tell(f"stopped in {stages}; the same command continues with {these}")
            return
        loaded, options = self._recipes[names[0]], replace(self._options, jobs=None)
        command = shlex.join(["toolkit", *launching.arguments(loaded.path, loaded.overrides, options)])
        console.tell(
            f"{stages} failed (exit status {status}); finished stages are kept.\n"
            f"The same command continues with {these}; to run only this stage:\n  {command}"
        )


def _refuse_changed(recipes: Sequence[LoadedRecipe], options: RunOptions) -> None:
    """Refuse recipes whose runs were made from other settings, before the first stage starts."""
    lines = []
    for loaded in recipes:
        for change in opening.changed_settings(loaded, runs_dir=options.runs_dir):
            lines.append(f"{references.below(loaded.name, options.runs_dir)}: {change}")
    if lines:
        raise RunError(
            "existing runs were made from other settings:\n    " + "\n    ".join(lines),
            fix="restore the settings, name another --runs-dir, or start the changed runs over with --fresh",
        )


def _refuse_unable(recipes: Sequence[LoadedRecipe], options: RunOptions, anew: StartingOver) -> None:
    """Refuse what a later stage would stop at, of recipes that are still to run: their settings and data."""
    problems = []
    for loaded in recipes:
        sealed = seal.is_sealed(references.below(loaded.name, options.runs_dir))
        if sealed and loaded.name not in anew.reasons:
            continue
        is_launched = options.launches and STAGES[loaded.recipe.stage].uses_torch
        if is_launched:
            options.require_agreement(loaded.recipe)
        processes = options.num_processes() if is_launched else None
        problems += machine_checks.problems(loaded, processes=processes)
        data = data_checks.check(loaded, runs_dir=options.runs_dir)
        problems += [*data.missing, *data.problems]
    if problems:
        raise RecipeError(problems)
