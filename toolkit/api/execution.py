"""Run recipes from Python, each in a subprocess.

A stage sets environment variables, threads, deterministic kernels and signal handlers. In a process of its
own it leaves none of them behind in a notebook, needs no main thread, frees all its memory, and computes the
same bits as `toolkit run`, which is the command that runs there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from toolkit.api.run_view import RunView
from toolkit.base import console, error_file
from toolkit.base.errors import RunError, UsageError
from toolkit.config import loader, recipe_texts
from toolkit.config.loader import LoadedRecipe
from toolkit.config.schema import StageRecipe
from toolkit.config.shipped_recipes import locate
from toolkit.execution import dag
from toolkit.execution.launching import INTERRUPTED, PARENT, PROGRAM, RunOptions, arguments
from toolkit.runs import references

PathOrText = str | os.PathLike[str]


def run(
    recipe: PathOrText | StageRecipe,
    overrides: Mapping[str, Any] | None = None,
    *,
    runs_dir: PathOrText = "runs",
    fresh: bool = False,
    launch: PathOrText | None = None,
    quiet: bool = False,
) -> RunView:
    """Run one recipe in a subprocess and return its sealed run.

    A finished run is returned immediately; an interrupted one continues from its newest checkpoint. An
    interrupt (Ctrl-C, a notebook's stop button) stops the stage as in a terminal: it saves what it can, and
    the same call continues.

    Args:
        recipe: a recipe's file, or a recipe object with its `run` set, such as
            `DpoRecipe(stage="dpo", run="tiny/dpo", ...)`.
        overrides: settings to change, by dotted key: `{"trainer.beta": 0.2}`. `runs/...` as a text is a run
            below `runs_dir`, as in a recipe; a Run or a Path stands for its own directory.
        runs_dir: the root of all runs.
        fresh: start the run over.
        launch: an Accelerate configuration to launch the stage with.
        quiet: do not show the stage's progress.

    Raises:
        RecipeError: the recipe is wrong; nothing was written.
        ToolkitError: the error that the stage ended with.
        KeyboardInterrupt: the call was interrupted.
    """
    settings = _settings(overrides, runs_dir)
    with tempfile.TemporaryDirectory() as folder:
        path = _write(recipe, Path(folder)) if isinstance(recipe, StageRecipe) else locate(os.fspath(recipe))
        if path.is_dir():
            raise UsageError("is a folder of recipes", where=str(path), fix="give it to run_folder")
        loaded = loader.load(path, settings)
        _run_process(
            path,
            settings,
            options=_options(runs_dir, fresh, launch),
            quiet=quiet,
            handed=recipe_texts.handed_over(loaded.sources),
        )
    return _view(loaded, runs_dir)


def run_folder(
    folder: PathOrText,
    overrides: Mapping[str, Any] | None = None,
    *,
    runs_dir: PathOrText = "runs",
    fresh: bool = False,
    launch: PathOrText | None = None,
    jobs: int | None = None,
    quiet: bool = False,
) -> list[RunView]:
    """Run all recipes of a folder in the order of their references, and return their runs in this order.

    Args and errors are those of `run`; an override applies to the recipes that set its key. Independent
    stages run side by side: `jobs` at most, by default as many as the cores allow. `fresh` starts over the
    runs whose recipe, data or parents changed, and all that were made from them.
    """
    settings = _settings(overrides, runs_dir)
    path = locate(os.fspath(folder))
    loaded = dag.order(loader.load_folder(path, settings))
    _run_process(path, settings, options=_options(runs_dir, fresh, launch, jobs), quiet=quiet)
    return [_view(entry, runs_dir) for entry in loaded]


def _view(loaded: LoadedRecipe, runs_dir: PathOrText) -> RunView:
    return RunView(references.below(loaded.name, Path(runs_dir)))


def _settings(overrides: Mapping[str, Any] | None, runs_dir: PathOrText) -> list[str]:
    """Return overrides as the command line takes them, `key=value`; JSON is YAML.

    A text `runs/x` names a run below `runs_dir`; a Run or a Path stands for its own directory.
    """

    def path_text(path: os.PathLike[str]) -> str:
        return references.of_path(os.fspath(path), Path(runs_dir))

    return [f"{key}={json.dumps(value, default=path_text)}" for key, value in (overrides or {}).items()]


def _write(recipe: StageRecipe, folder: Path) -> Path:
    """Write a recipe object as a recipe file.

    Raises:
        UsageError: the recipe does not name its run, which a file's own name does otherwise.
    """
    if recipe.run is None:
        raise UsageError(
            "the recipe does not name its run",
            where=type(recipe).__name__,
            fix=f'set run, such as {type(recipe).__name__}(run="tiny/{recipe.stage}", ...)',
        )
    content = {"stage": recipe.stage, **recipe.model_dump(mode="json", exclude_defaults=True)}
    path = folder / f"{recipe.stage}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def _options(
    runs_dir: PathOrText, fresh: bool, launch: PathOrText | None, jobs: int | None = None
) -> RunOptions:
    return RunOptions(Path(runs_dir), fresh, None if launch is None else locate(os.fspath(launch)), jobs)


def _run_process(
    path: Path,
    settings: Sequence[str],
    *,
    options: RunOptions,
    quiet: bool,
    handed: Mapping[str, str] | None = None,
) -> None:
    """Run `toolkit run` in a subprocess.

    Args:
        handed: the environment variable that hands over the text of a recipe that was read here.

    Raises:
        ToolkitError: the error that it reported, or that it failed without one.
        KeyboardInterrupt: this process was interrupted; the other one has ended in order.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "error.json"
        # A new process group, so that Ctrl-C of a terminal reaches it once, from here.
        with subprocess.Popen(
            [sys.executable, *PROGRAM, *arguments(path, settings, options)],
            env={
                **os.environ,
                **(handed or {}),
                PARENT: str(os.getpid()),
                error_file.VARIABLE: str(file),
            },
            stdin=subprocess.DEVNULL,
            stdout=None if _on_terminal(quiet) else subprocess.PIPE,
            stderr=None if _on_terminal(quiet) else subprocess.STDOUT,
            process_group=0,
        ) as process:
            status = _wait(process, quiet=quiet)
        if status == 0:
            return
        error = error_file.read(file)
    if error is not None:
        raise error
    if status == INTERRUPTED:
        raise RunError("was interrupted", where=str(path), fix="call it again: it continues where it stopped")
    raise RunError(
        f"the run ended with exit status {status} and without a message",
        where=str(path),
        fix="see what it printed last" if not quiet else "run it again without quiet=True",
    )


def _on_terminal(quiet: bool) -> bool:
    """Say whether the process may write to this process's terminal itself, with bars that redraw."""
    return not quiet and sys.stderr is sys.__stderr__ and console.on_terminal()


def _wait(process: subprocess.Popen[bytes], *, quiet: bool) -> int:
    """Show what a process prints until it ends, and return its exit status.

    Raises:
        KeyboardInterrupt: this process was interrupted. The first interrupt is passed on and waited for: the
            process may be saving a checkpoint. The second one kills the process.
    """
    try:
        return _show(process, quiet=quiet)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        try:
            _show(process, quiet=quiet)
        except KeyboardInterrupt:
            process.kill()
        raise


def _show(process: subprocess.Popen[bytes], *, quiet: bool) -> int:
    """Copy a process's output line by line to where notices go (a notebook's cell), and return its status."""
    if process.stdout is not None:
        for line in process.stdout:
            if not quiet:
                console.tell(line.decode(errors="replace"), end="")
    return process.wait()
