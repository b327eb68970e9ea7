"""Starting a recipe in a process, or in a launch of several processes, of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from toolkit.recipe.errors import UsageError
from toolkit.recipe.reader import LoadedRecipe
from toolkit.runs import distribution, facts, processes

# They read text on one process, whatever the number of GPUs: a launcher would only add idle copies.
ONE_PROCESS = frozenset({"tokenizer", "corpus"})
PARENT = "TOOLKIT_PARENT"
PROGRAM = ("-m", "toolkit")
INTERRUPTED = processes.INTERRUPTED


@dataclass(frozen=True)
class Options:
    """What the command line says besides the recipe."""

    runs_dir: Path
    fresh: bool = False
    launch: Path | None = None
    json: bool = False


def arguments(loaded: LoadedRecipe, options: Options) -> list[str]:
    fresh = ["--fresh"] if options.fresh else []
    return ["run", str(loaded.path), *loaded.overrides, "--runs-dir", str(options.runs_dir), *fresh]


def start(loaded: LoadedRecipe, options: Options) -> int:
    """Run one recipe in a process (or a launch) of its own on this terminal; return its exit status."""
    command = [*PROGRAM, *arguments(loaded, options)]
    environment = dict(os.environ)
    launched = options.launch is not None and loaded.recipe.stage not in ONE_PROCESS
    if launched:
        launcher = ["-m", "accelerate.commands.launch", "--config_file", str(options.launch), "--quiet"]
        command = [*launcher, *command]
    else:
        environment[PARENT] = str(os.getpid())
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "status"
        if launched:
            environment[processes.STATUS] = str(told)
        # stdout stays free for the one JSON object. A terminal's Ctrl-C must not reach a launcher, which
        # ends at once with a traceback: it goes to its processes from here.
        child = subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdout=sys.__stderr__,
            preexec_fn=processes.die_with_parent if launched else None,
            process_group=0 if launched else None,
        )
        try:
            status = child.wait()
        except KeyboardInterrupt:
            _pass_on(child, launched)
            return INTERRUPTED
        if told.exists():
            status = int(told.read_text())
    return 128 - status if status < 0 else status


def _pass_on(child: subprocess.Popen, launched: bool) -> None:
    """Interrupt a stage and wait for it: it may be saving a checkpoint. A second signal ends it at once."""
    try:
        for process in processes.children(child.pid) if launched else [child.pid]:
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
    if facts.world_size() > 1 or "LOCAL_RANK" in os.environ:
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
    distribution.require_supported_configuration(content, where=str(path))
    mpi = (content.get("mpirun_config") or {}).get("mpirun_hostfile")
    if content.get("distributed_type") == "MULTI_CPU" and (content.get("num_processes") or 1) > 1 and not mpi:
        raise UsageError(
            "MULTI_CPU without mpirun: Accelerate would silently start a single process",
            where=str(path),
            fix="set num_processes: 1, or use torchrun --nproc-per-node N",
        )
