"""Starting a recipe in a process, or in a launch of several processes, of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from toolkit.base import ranks
from toolkit.base.errors import UsageError
from toolkit.config.loader import LoadedRecipe
from toolkit.runs import seal
from toolkit.runtime import accelerate_config, hardware, signals

# They read text on one process, whatever the number of GPUs: a launcher would only add idle copies.
ONE_PROCESS = frozenset({"tokenizer", "corpus"})
PARENT = "TOOLKIT_PARENT"
WAIT = "TOOLKIT_WAIT"
PROGRAM = ("-m", "toolkit")
INTERRUPTED = signals.INTERRUPTED


@dataclass(frozen=True)
class Options:
    """What the command line says besides the recipe."""

    runs_dir: Path
    fresh: bool = False
    launch: Path | None = None


def arguments(loaded: LoadedRecipe, options: Options) -> list[str]:
    fresh = ["--fresh"] if options.fresh else []
    return ["run", str(loaded.path), *loaded.overrides, "--runs-dir", str(options.runs_dir), *fresh]


class Waiting:
    """A process that has loaded a stage's libraries (4 s) and waits to be told to begin.

    A stage that reads text uses one core; meanwhile another loads what the first stage that computes needs.
    """

    def __init__(self, loaded: LoadedRecipe, options: Options):
        reading, self._writing = os.pipe()
        self.loaded = loaded
        self.process = _child(loaded, options, pass_fds=(reading,), **{WAIT: str(reading)})
        os.close(reading)

    def begin(self) -> subprocess.Popen:
        """Let it run; it is an ordinary stage from now on."""
        with suppress(BrokenPipeError):  # it ended: its exit status says why
            os.write(self._writing, b"1")
        os.close(self._writing)
        return self.process

    def leave(self) -> None:
        """End it unused, also while it still loads; nothing was written."""
        self.process.terminate()
        os.close(self._writing)
        self.process.wait()


class Ahead:
    """While a stage only reads text, the process of the first one that computes loads its libraries."""

    def __init__(self, recipes: Sequence[LoadedRecipe], places: Sequence[Path], options: Options):
        self._recipes, self._places, self._options = recipes, places, options
        self._waiting: Waiting | None = None

    def __enter__(self) -> Ahead:
        return self

    def of(self, number: int) -> Waiting | None:
        """Return the process that waits for this stage, or None; starts one where there is time for it."""
        loaded = self._recipes[number]
        if self._waiting is not None and self._waiting.loaded is loaded:
            waiting, self._waiting = self._waiting, None
            return waiting
        reads = loaded.recipe.stage in ONE_PROCESS
        if reads and self._waiting is None and self._options.launch is None and hardware.cores() > 1:
            later = zip(self._recipes[number + 1 :], self._places[number + 1 :], strict=True)
            todo = (one for one, place in later if not seal.is_sealed(place))
            computes = next((one for one in todo if one.recipe.stage not in ONE_PROCESS), None)
            self._waiting = Waiting(computes, self._options) if computes else None
        return None

    def __exit__(self, *error: object) -> None:
        if self._waiting is not None:
            self._waiting.leave()


def wait_to_begin(load: Callable[[], object]) -> bool:
    """In a process that `Waiting` started: load, and wait; False where it is not needed after all."""
    descriptor = os.environ.pop(WAIT, None)
    if descriptor is None:
        return True
    try:
        load()
        told = os.read(int(descriptor), 1)
    except KeyboardInterrupt:
        return False
    finally:
        os.close(int(descriptor))
    signals.begin_anew()
    return bool(told)


def start(loaded: LoadedRecipe, options: Options, waiting: Waiting | None = None) -> int:
    """Run one recipe in a process (or a launch) of its own on this terminal; return its exit status."""
    if waiting is not None:
        return _wait(waiting.begin(), launched=False)
    sys.stdout.flush()
    if options.launch is not None and loaded.recipe.stage not in ONE_PROCESS:
        return _launch(loaded, options)
    return _wait(_child(loaded, options), launched=False)


def _child(
    loaded: LoadedRecipe, options: Options, *, pass_fds: tuple[int, ...] = (), **variables: str
) -> subprocess.Popen:
    """Start a stage that lives no longer than this process. stdout stays free for the one JSON object."""
    return subprocess.Popen(
        [sys.executable, *PROGRAM, *arguments(loaded, options)],
        env={**os.environ, PARENT: str(os.getpid()), **variables},
        stdout=sys.__stderr__,
        pass_fds=pass_fds,
    )


def _launch(loaded: LoadedRecipe, options: Options) -> int:
    """Start a stage with accelerate launch.

    A terminal's Ctrl-C must not reach a launcher, which ends at once with a traceback: it goes to its
    processes from here.
    """
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(options.launch), "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "status"
        child = subprocess.Popen(
            [sys.executable, *launcher, *PROGRAM, *arguments(loaded, options)],
            env={**os.environ, signals.STATUS: str(told)},
            stdout=sys.__stderr__,
            preexec_fn=signals.die_with_parent,
            process_group=0,
        )
        status = _wait(child, launched=True)
        return int(told.read_text()) if told.exists() and status != INTERRUPTED else status


def _wait(child: subprocess.Popen, *, launched: bool) -> int:
    try:
        status = child.wait()
    except KeyboardInterrupt:
        _pass_on(child, launched)
        return INTERRUPTED
    return 128 - status if status < 0 else status


def _pass_on(child: subprocess.Popen, launched: bool) -> None:
    """Interrupt a stage and wait for it: it may be saving a checkpoint. A second signal ends it at once."""
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
    """Refuse a launch configuration that is not there, or that starts something else than it says."""
    if ranks.world_size() > 1 or "LOCAL_RANK" in os.environ:
        raise UsageError("--launch under a launcher", where=str(path), fix="use one of them")
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
