"""Start, kill and resume pretraining runs in subprocesses.

As a program, it plants a fault and then executes `toolkit run` for each recipe:
    trainings.py FAULT RECIPE ... --runs-dir DIR
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parents[2]))

from accelerate import Accelerator

from toolkit.base import files
from toolkit.cli import main as main_module
from toolkit.pretrain import prefetch, step, training_state
from toolkit.runs import checkpoint, metrics
from toolkit.runtime import rank_zero

ROOT = Path(__file__).parents[2]
TIMES = ("time", "tokens_per_second", "mfu")


def command(*recipes: Path, folder: Path, processes: int = 1, fault: str = "") -> list[str]:
    """Return the command line: plain `toolkit run` for one recipe without a fault."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    plain = len(recipes) == 1 and not fault
    words = (
        ["-m", "toolkit", "run"] if plain else [str(ROOT / "tests/pretrain/trainings.py"), fault or "none"]
    )
    return [
        sys.executable, *(launcher if processes > 1 else []), *words, *map(str, recipes),
        "--runs-dir", str(folder / "runs"),
    ]  # fmt: skip


def start(*recipes: Path, folder: Path, **how) -> subprocess.Popen:
    """Start in a new process group, as a shell does, so that Ctrl-C reaches all processes."""
    return subprocess.Popen(
        command(*recipes, folder=folder, **how), cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(*recipes: Path, folder: Path, **how) -> Path:
    """Run to the end; return the directory of the last recipe's run."""
    status, err = wait_for_end(start(*recipes, folder=folder, **how))
    assert status == 0, err
    return run_dir(recipes[-1], folder)


def wait_for_end(process: subprocess.Popen, timeout: float = 280) -> tuple[int, str]:
    """Wait for the process, kill what remains of its group, and return exit status and stderr."""
    try:
        _, err = process.communicate(timeout=timeout)
        return process.returncode, err
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def run_dir(recipe: Path, folder: Path) -> Path:
    return folder / "runs" / recipe.parent.name / recipe.stem


def kill_when(process: subprocess.Popen, ready: Callable[[], bool]) -> bool:
    """Send SIGKILL to the process group once `ready`; return False if the process ended before."""
    while process.poll() is None:
        if ready():
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.0005)
    return False


def wait_for(process: subprocess.Popen, ready: Callable[[], bool]) -> None:
    """Wait until `ready`; fail if the process ends before."""
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def steps_done(run: Path) -> int:
    """Return the last step in metrics.jsonl."""
    return max((row["step"] for row in metrics.read(run / "metrics.jsonl")), default=0)


def newest(run: Path) -> int:
    checkpoints = checkpoint.steps(run / "checkpoints")
    return checkpoints[-1][0] if checkpoints else 0


def result(run: Path) -> dict[str, object]:
    """Return what must be bitwise identical: weights, optimizers, steps, metrics without times."""
    last = checkpoint.steps(run / "checkpoints")[-1][1]
    lines = metrics.read(run / "metrics.jsonl")
    kept = run / "steps"
    return {
        "weights": (run / "model" / "model.safetensors").read_bytes(),
        "optimizer": (last / "optimizer.safetensors").read_bytes(),
        "steps": (run / "steps.jsonl").read_bytes(),
        "metrics": [{k: v for k, v in row.items() if k not in TIMES} for row in lines],
        "kept": {name: (kept / name).read_bytes() for name in files.list_files(kept)},
    }


def differing(first: Path, second: Path) -> list[str]:
    """Return what differs between two finished runs: weights, optimizer, steps, metrics, kept weights."""
    first_result, second_result = result(first), result(second)
    return [name for name in first_result if first_result[name] != second_result[name]]


# Planted faults that the tests must detect


def _write_in_place() -> None:
    """Fault: checkpoints are written in place without a seal, and the newest folder is trusted."""

    def save(run, step, write, keep, *, every=None):
        path = run.checkpoints / f"step-{step:08d}"
        path.mkdir(parents=True, exist_ok=True)
        write(path)

    write = training_state.ModelExporter.write

    def slowly(self, folder, weights):
        write(self, folder, weights)
        time.sleep(0.3)  # between the weights and the optimizer state

    training_state.ModelExporter.write = slowly
    checkpoint.save = save
    checkpoint.problems = lambda path: []


def _last_loss_alone() -> None:
    """At step 42 only the last process has a loss that is 100 higher, with the same gradient."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    forward_backward = step.forward_backward

    def spiked(context, number, rows):
        spike = 100.0 if number == 41 and rank == world - 1 else 0.0
        return forward_backward(context, number, rows) + spike

    step.forward_backward = spiked


def _last_loss_alone_not_shared() -> None:
    """Fault: each process checks only its own loss."""
    _last_loss_alone()
    Accelerator.reduce = lambda self, tensor, reduction="sum", scale=1.0: tensor


def _slow_steps() -> None:
    """Not a fault: each step takes 20 ms, so that signals arrive during the training."""
    batches = prefetch.Prefetcher.batches

    def slow(self, first, end):
        for item in batches(self, first, end):
            time.sleep(0.02)
            yield item

    prefetch.Prefetcher.batches = slow


FAULTS = {
    "none": lambda: None,
    "write in place": _write_in_place,
    "last loss alone": _last_loss_alone,
    "last loss alone, not shared": _last_loss_alone_not_shared,
    "slow steps": _slow_steps,
}


def run_recipes(
    words: list[str], fault_of: Callable[[str], AbstractContextManager] = lambda recipe: nullcontext()
) -> NoReturn:
    """Call `toolkit run` for each recipe of `RECIPE ... --runs-dir DIR`, and end this process.

    Args:
        fault_of: the fault that is active while a recipe runs.
    """
    end, status = words.index("--runs-dir"), 0
    if end > 1:
        rank_zero.leave = lambda: None  # the next recipe needs the process group, too
    for recipe in words[:end]:
        with fault_of(recipe):
            status = main_module.main(["run", recipe, *words[end:]])
        if status:
            break
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # as toolkit/__main__.py, for the same reason


if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    run_recipes(sys.argv[2:])
