"""Start a recipe in a subprocess, or in a launch of several processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from toolkit.base import console, progress, ranks
from toolkit.base.errors import UsageError
from toolkit.config import recipe_texts
from toolkit.config.loader import LoadedRecipe
from toolkit.config.registry import STAGES
from toolkit.config.schema import StageRecipe
from toolkit.runtime import accelerate_config, signals

PARENT = "TOOLKIT_PARENT"
WAIT = "TOOLKIT_WAIT"
PROGRAM = ("-m", "toolkit")
LAUNCHER = ("-m", "toolkit.execution.launcher")
INTERRUPTED = signals.INTERRUPTED


@dataclass(frozen=True)
class RunOptions:
    """The options of `toolkit run` besides the recipe and its overrides."""

    runs_dir: Path
    fresh: bool = False
    launch: Path | None = None
    jobs: int | None = None
    """The largest number of stages of a folder that run at the same time; None is as many as fit."""
    processes: int = 1
    """Processes of each stage on this machine, started by torch's launcher; 1 is without a launcher."""

    @property
    def launches(self) -> bool:
        """Whether a launcher starts the stages that use torch."""
        return self.launch is not None or self.processes > 1

    def require_agreement(self, recipe: StageRecipe) -> None:
        """Refuse a configuration of `launch` that contradicts a recipe.

        Raises:
            UsageError: they differ in their precision.
        """
        if self.launch is not None:
            content = _configuration(self.launch)
            accelerate_config.require_same_precision(recipe, content, where=str(self.launch))

    def num_processes(self) -> int | None:
        """Return how many processes run a stage that uses torch; None: this one or those of its launcher."""
        if self.launch is None:
            return self.processes if self.processes > 1 else None
        return _configuration(self.launch).get("num_processes", 1)


def arguments(path: Path, overrides: Sequence[str], options: RunOptions) -> list[str]:
    """Return the arguments of the command line that runs a recipe, or a folder of recipes.

    The overrides are written as in a recipe: `runs/...` is below the runs directory.
    """
    changes = [word for override in overrides for word in ("--set", override)]
    fresh = ["--fresh"] if options.fresh else []
    launch = ["--launch", str(options.launch)] if options.launch is not None else []
    jobs = ["--jobs", str(options.jobs)] if options.jobs is not None else []
    processes = ["--processes", str(options.processes)] if options.processes > 1 else []
    return [
        "run", str(path), *changes, "--runs-dir", str(options.runs_dir), *fresh, *launch, *jobs, *processes
    ]  # fmt: skip


def stage_arguments(loaded: LoadedRecipe, options: RunOptions) -> list[str]:
    """Return the arguments of the command line that runs one recipe of a folder without a launcher."""
    return arguments(loaded.path, loaded.overrides, replace(options, launch=None, jobs=None, processes=1))


class StageProcess:
    """A stage that runs in a process of its own, or in a launch of several processes."""

    def __init__(self, child: subprocess.Popen[bytes]):
        self.child = child

    def wait(self) -> int:
        """Wait for the end of the stage, and return its exit status; a signal n that ended it is 128 + n."""
        status = self.child.wait()
        return 128 - status if status < 0 else status

    def interrupt(self) -> None:
        """Interrupt the stage: it saves a checkpoint if it can, and ends."""
        self.child.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End the stage immediately."""
        self.child.kill()


class LaunchedStage(StageProcess):
    """A stage that accelerate launch or torch's launcher runs.

    The launcher would exit immediately with a traceback on a terminal's Ctrl-C, so it runs in a separate
    process group, and signals are sent to the launcher's processes.
    """

    def __init__(self, loaded: LoadedRecipe, options: RunOptions):
        if options.launch is not None:
            launcher = ["accelerate", "--config_file", str(options.launch), "--quiet"]
        else:
            launcher = ["torchrun", "--standalone", "--nproc-per-node", str(options.processes)]
        self._folder = tempfile.TemporaryDirectory()
        self._status_file = Path(self._folder.name) / "status"
        self._interrupted = False
        child = subprocess.Popen(
            [sys.executable, *LAUNCHER, *launcher, *PROGRAM, *stage_arguments(loaded, options)],
            env={
                **os.environ,
                **recipe_texts.handed_over(loaded.sources),
                signals.STATUS: str(self._status_file),
            },
            stdout=sys.__stderr__,
            preexec_fn=signals.die_with_parent,
            process_group=0,
        )
        super().__init__(child)

    def wait(self) -> int:
        """Return the status that the stage wrote, which the launcher does not pass on."""
        status = super().wait()
        if self._interrupted:
            status = INTERRUPTED
        elif self._status_file.exists():
            status = int(self._status_file.read_text())
        self._folder.cleanup()
        return status

    def interrupt(self) -> None:
        self._interrupted = True
        with suppress(ProcessLookupError):
            for process in signals.children(self.child.pid):
                os.kill(process, signal.SIGINT)


class PreloadedStage(StageProcess):
    """A process that has loaded a stage's libraries, which takes 4 to 9 s, and waits for `start`."""

    def __init__(self, loaded: LoadedRecipe, options: RunOptions, *, captured: bool = False):
        self._socket, childs_end = socket.socketpair()
        with childs_end:
            descriptor = childs_end.fileno()
            super().__init__(
                _child(loaded, options, captured, pass_fds=(descriptor,), **{WAIT: str(descriptor)})
            )

    def wait_until_loaded(self) -> None:
        """Wait until the libraries are loaded, or the process has ended."""
        self._socket.recv(1)

    def start(self) -> None:
        """Let the process run its stage, as soon as the libraries are loaded."""
        with suppress(OSError):  # the process has ended; its exit status gives the reason
            self._socket.send(b"1")

    def wait(self) -> int:
        status = super().wait()
        self._socket.close()
        return status

    def discard(self) -> None:
        """End the process, even while it loads libraries; it has written nothing."""
        self.child.terminate()
        self.wait()


def wait_for_start(load: Callable[[], object]) -> bool:
    """Call `load` and wait, in a process of `PreloadedStage`; return False if it is discarded."""
    descriptor = os.environ.pop(WAIT, None)
    if descriptor is None:
        return True
    try:
        load()
        os.write(int(descriptor), b"1")
        started = os.read(int(descriptor), 1)
    except (KeyboardInterrupt, ConnectionError):
        return False
    finally:
        os.close(int(descriptor))
    signals.begin_anew()
    return bool(started)


def start(loaded: LoadedRecipe, options: RunOptions, *, captured: bool = False) -> StageProcess:
    """Start one recipe in a subprocess, or in a launch if the options ask for one and the stage uses torch.

    Args:
        captured: the caller reads the stage's output from `child.stdout`; otherwise the stage writes to this
            process's stderr. A launch always does.
    """
    sys.stdout.flush()
    if options.launches and STAGES[loaded.recipe.stage].uses_torch:
        return LaunchedStage(loaded, options)
    return StageProcess(_child(loaded, options, captured))


def run(loaded: LoadedRecipe, options: RunOptions) -> int:
    """Run one recipe as `start` does, on this terminal, and return its exit status.

    At an interrupt it waits for the stage, which may be saving a checkpoint; a second one kills the stage.
    """
    process = start(loaded, options)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.interrupt()
        try:
            process.wait()
        except KeyboardInterrupt:
            process.kill()
            process.wait()
        return INTERRUPTED


def _child(
    loaded: LoadedRecipe,
    options: RunOptions,
    captured: bool,
    *,
    pass_fds: tuple[int, ...] = (),
    **variables: str,
) -> subprocess.Popen[bytes]:
    """Start a stage that ends with this process; its stdout is stderr, because stdout is only for JSON."""
    if captured and console.on_terminal():  # the caller draws bars there
        variables[progress.REPORTS] = "1"
    return subprocess.Popen(
        [sys.executable, *PROGRAM, *stage_arguments(loaded, options)],
        env={
            **os.environ,
            **recipe_texts.handed_over(loaded.sources),
            PARENT: str(os.getpid()),
            **variables,
        },
        stdout=subprocess.PIPE if captured else sys.__stderr__,
        stderr=subprocess.STDOUT if captured else None,
        pass_fds=pass_fds,
    )


def check_launch(options: RunOptions) -> None:
    """Refuse options that name two launchers, or a launch configuration that does not do what it says.

    Raises:
        UsageError: names the option or the setting.
    """
    if not options.launches:
        return
    option = "--launch" if options.launch is not None else "--processes"
    if options.launch is not None and options.processes > 1:
        raise UsageError(
            "--launch and --processes are two ways to start processes",
            fix="give one of them; the file of --launch has num_processes",
        )
    if ranks.world_size() > 1 or "LOCAL_RANK" in os.environ:
        raise UsageError(f"{option} under a launcher", fix="use only one of them")
    if options.launch is not None:
        check_configuration(options.launch)


def _configuration(path: Path) -> dict[str, Any]:
    """Return the content of a configuration of Accelerate."""
    fix = "write one with `accelerate config --config_file FILE`"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot be read: {error}", where=str(path), fix=fix) from None
    if not isinstance(content, dict):
        raise UsageError("is not an Accelerate configuration", where=str(path), fix=fix)
    return content


def check_configuration(path: Path) -> None:
    """Refuse a launch configuration that is missing, invalid, or would not start what it specifies."""
    content = _configuration(path)
    accelerate_config.require_supported_configuration(content, where=str(path))
    mpi = (content.get("mpirun_config") or {}).get("mpirun_hostfile")
    if content.get("distributed_type") == "MULTI_CPU" and (content.get("num_processes") or 1) > 1 and not mpi:
        raise UsageError(
            "MULTI_CPU without mpirun: Accelerate would silently start a single process",
            where=str(path),
            fix="set num_processes: 1, or use --processes N instead of --launch",
        )
