"""Start a recipe in a subprocess, or in a launch of several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from toolkit.base import ranks
from toolkit.base.errors import UsageError
from toolkit.config.loader import LoadedRecipe
from toolkit.config.registry import STAGES
from toolkit.runs import seal
from toolkit.runtime import accelerate_config, hardware, signals

PARENT = "TOOLKIT_PARENT"
WAIT = "TOOLKIT_WAIT"
PROGRAM = ("-m", "toolkit")
INTERRUPTED = signals.INTERRUPTED


@dataclass(frozen=True)
class RunOptions:
    """The options of `toolkit run` besides the recipe and its overrides."""

    runs_dir: Path
    fresh: bool = False
    launch: Path | None = None


def arguments(path: Path, overrides: Sequence[str], options: RunOptions) -> list[str]:
    """Return the arguments of the command line that runs a recipe, or a folder of recipes.

    The overrides are written as in a recipe: `runs/...` is below the runs directory.
    """
    changes = [word for override in overrides for word in ("--set", override)]
    fresh = ["--fresh"] if options.fresh else []
    launch = ["--launch", str(options.launch)] if options.launch is not None else []
    return ["run", str(path), *changes, "--runs-dir", str(options.runs_dir), *fresh, *launch]


def stage_arguments(loaded: LoadedRecipe, options: RunOptions) -> list[str]:
    """Return the arguments of the command line that runs one recipe of a folder without a launcher."""
    return arguments(loaded.path, loaded.overrides, replace(options, launch=None))


class PreloadedStage:
    """A process that has loaded a stage's libraries, which takes 4 s, and waits for `start`."""

    def __init__(self, loaded: LoadedRecipe, options: RunOptions):
        read_end, self._write_end = os.pipe()
        self.loaded = loaded
        self.process = _child(loaded, options, pass_fds=(read_end,), **{WAIT: str(read_end)})
        os.close(read_end)

    def start(self) -> subprocess.Popen:
        """Let the process run its stage, and return it."""
        with suppress(BrokenPipeError):  # the process has ended; its exit status gives the reason
            os.write(self._write_end, b"1")
        os.close(self._write_end)
        return self.process

    def discard(self) -> None:
        """End the process, even while it loads libraries; it has written nothing."""
        self.process.terminate()
        os.close(self._write_end)
        self.process.wait()


class StagePreloader:
    """Loads the libraries of the next stage that needs torch while a stage runs that only reads text.

    A stage that reads text uses one core, so a second one is idle.
    """

    def __init__(self, recipes: Sequence[LoadedRecipe], run_dirs: Sequence[Path], options: RunOptions):
        self._recipes, self._run_dirs, self._options = recipes, run_dirs, options
        self._preloaded: PreloadedStage | None = None

    def __enter__(self) -> StagePreloader:
        return self

    def take(self, number: int) -> PreloadedStage | None:
        """Return the preloaded process of this stage, or None; start to preload the next one if possible."""
        loaded = self._recipes[number]
        if self._preloaded is not None and self._preloaded.loaded is loaded:
            preloaded, self._preloaded = self._preloaded, None
            return preloaded
        reads = not STAGES[loaded.recipe.stage].uses_torch
        if reads and self._preloaded is None and self._options.launch is None and hardware.cores() > 1:
            later = zip(self._recipes[number + 1 :], self._run_dirs[number + 1 :], strict=True)
            unfinished = (recipe for recipe, run_dir in later if not seal.is_sealed(run_dir))
            computes = next((item for item in unfinished if STAGES[item.recipe.stage].uses_torch), None)
            self._preloaded = PreloadedStage(computes, self._options) if computes else None
        return None

    def __exit__(self, *error: object) -> None:
        if self._preloaded is not None:
            self._preloaded.discard()


def wait_for_start(load: Callable[[], object]) -> bool:
    """Call `load` and wait, in a process of `PreloadedStage`; return False if it is discarded."""
    descriptor = os.environ.pop(WAIT, None)
    if descriptor is None:
        return True
    try:
        load()
        started = os.read(int(descriptor), 1)
    except KeyboardInterrupt:
        return False
    finally:
        os.close(int(descriptor))
    signals.begin_anew()
    return bool(started)


def start(loaded: LoadedRecipe, options: RunOptions, preloaded: PreloadedStage | None = None) -> int:
    """Run one recipe in a subprocess or a launch on this terminal and return its exit status."""
    if preloaded is not None:
        return _wait(preloaded.start(), launched=False)
    sys.stdout.flush()
    if options.launch is not None and STAGES[loaded.recipe.stage].uses_torch:
        return _launch(loaded, options)
    return _wait(_child(loaded, options), launched=False)


def _child(
    loaded: LoadedRecipe, options: RunOptions, *, pass_fds: tuple[int, ...] = (), **variables: str
) -> subprocess.Popen:
    """Start a stage that ends with this process; its stdout is stderr, because stdout is only for JSON."""
    return subprocess.Popen(
        [sys.executable, *PROGRAM, *stage_arguments(loaded, options)],
        env={**os.environ, PARENT: str(os.getpid()), **variables},
        stdout=sys.__stderr__,
        pass_fds=pass_fds,
    )


def _launch(loaded: LoadedRecipe, options: RunOptions) -> int:
    """Run a stage with accelerate launch.

    The launcher would exit immediately with a traceback on a terminal's Ctrl-C, so it runs in a separate
    process group, and this process forwards the signal to the launcher's processes.
    """
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(options.launch), "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        status_file = Path(folder) / "status"
        child = subprocess.Popen(
            [sys.executable, *launcher, *PROGRAM, *stage_arguments(loaded, options)],
            env={**os.environ, signals.STATUS: str(status_file)},
            stdout=sys.__stderr__,
            preexec_fn=signals.die_with_parent,
            process_group=0,
        )
        status = _wait(child, launched=True)
        return int(status_file.read_text()) if status_file.exists() and status != INTERRUPTED else status


def _wait(child: subprocess.Popen, *, launched: bool) -> int:
    try:
        status = child.wait()
    except KeyboardInterrupt:
        _forward_interrupt(child, launched)
        return INTERRUPTED
    return 128 - status if status < 0 else status


def _forward_interrupt(child: subprocess.Popen, launched: bool) -> None:
    """Interrupt a stage and wait, as it may be saving a checkpoint; a second signal kills it."""
    try:
        for process in signals.children(child.pid) if launched else [child.pid]:
            os.kill(process, signal.SIGINT)
    except ProcessLookupError:
        pass
    try:
        child.wait()
    except KeyboardInterrupt:
        child.kill()
        child.wait()


def check_configuration(path: Path) -> None:
    """Refuse a launch configuration that is missing, invalid, or would not start what it specifies."""
    if ranks.world_size() > 1 or "LOCAL_RANK" in os.environ:
        raise UsageError("--launch under a launcher", where=str(path), fix="use only one of them")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"cannot be read: {error}",
            where=str(path),
            fix="write one with `accelerate config --config_file FILE`",
        ) from None
    if not isinstance(content, dict):
        raise UsageError(
            "is not an Accelerate configuration",
            where=str(path),
            fix="write one with `accelerate config --config_file FILE`",
        )
    accelerate_config.require_supported_configuration(content, where=str(path))
    mpi = (content.get("mpirun_config") or {}).get("mpirun_hostfile")
    if content.get("distributed_type") == "MULTI_CPU" and (content.get("num_processes") or 1) > 1 and not mpi:
        raise UsageError(
            "MULTI_CPU without mpirun: Accelerate would silently start a single process",
            where=str(path),
            fix="set num_processes: 1, or use torchrun --nproc-per-node N",
        )
