"""Processes that do not outlive the one that started them, and signals that end a run in order."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

STATUS = "TOOLKIT_STATUS"
"""The environment variable of the file that takes the status of a launched stage, see `exit_status`."""
INTERRUPTED = 130
_PR_SET_PDEATHSIG = 1
_SAME_SIGNAL_SECONDS = 1.0
_GRACE_SECONDS = 10.0
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


def die_with_parent(parent: int | None = None) -> None:
    """Make the kernel kill this process when its parent ends, however that ends.

    Usable as the initializer of a pool of processes and as `preexec_fn`. Elsewhere than on Linux a thread
    looks once a second.

    Args:
        parent: the process id that the parent must have; if it is gone already this process ends at once.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)
    if _LIBC is None:
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


class _Interrupts:
    """Signals belong to the process, so there is one of these."""

    deferred = False  # a stage looks at `stop_requested` between steps
    requested = False
    in_order = False  # all processes stopped at the same step, their checkpoint is sealed
    started = time.monotonic()
    last = -math.inf


def started() -> float:
    """Return when this process began, as `time.monotonic` counts; loading the libraries is part of it."""
    return _Interrupts.started


def begin_anew() -> None:
    """Count this process's time from now: it was started ahead of its turn."""
    _Interrupts.started = time.monotonic()


def stop_requested(*, agreed: bool = False) -> bool:
    """Say whether SIGINT or SIGTERM arrived; from the first call on the first signal only sets this.

    A stage that calls this after each step saves a checkpoint and raises KeyboardInterrupt when it is true.
    The second signal ends the stage at once. With several processes it stays false and signals end the
    stage at once: the processes would see the signal at different steps and wait for each other.

    Args:
        agreed: the stage lets all processes agree before it acts: then several can stop in order, too.
    """
    _Interrupts.deferred = agreed or os.environ.get("WORLD_SIZE", "1") == "1"
    return _Interrupts.requested


def stopped_in_order() -> None:
    """Note that all processes agreed to stop and that what they did is saved."""
    _Interrupts.in_order = True


def exit_status(status: int) -> int:
    """Return the status to end this process with.

    A launcher turns any status but 0 into 1 and adds 40 lines of traceback. Where `toolkit run --launch`
    asks for it by STATUS, a stop in order is written to that file and every process ends with 0; anything
    else is the launcher's to see, which then ends the processes that are still there.
    """
    place = os.environ.get(STATUS)
    if place is None or status != INTERRUPTED or not _Interrupts.in_order:
        return status
    if os.environ.get("RANK", "0") == "0":
        Path(place).write_text(str(status))
    return 0


def stop_at_once() -> None:
    """Let a signal end the stage at once again: what follows the last step saves nothing in between.

    Raises:
        KeyboardInterrupt: a signal came before.
    """
    _Interrupts.deferred = False
    if _Interrupts.requested:
        _Interrupts.requested = False
        raise KeyboardInterrupt


def _stop(number: int, frame: FrameType | None) -> None:
    now, before = time.monotonic(), _Interrupts.last
    _Interrupts.last = now
    if now - before < _SAME_SIGNAL_SECONDS:
        return
    if _Interrupts.deferred and not _Interrupts.requested:
        _Interrupts.requested = True
        if os.environ.get("RANK", "0") == "0":
            print("\nstopping after this step (once more: at once)", file=sys.stderr)
        return
    raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM (a cluster's way to stop a job) end the block like Ctrl-C: with KeyboardInterrupt.

    Signals within a second count once: Ctrl-C comes from the terminal, from the folder runner and from
    torchrun.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Interrupts.deferred, _Interrupts.requested, _Interrupts.last = False, False, -math.inf
    _Interrupts.in_order = False
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def let_rank_0_speak() -> None:
    """Wait, on another rank than 0, before failing.

    A launcher ends all processes some tenths of a second after one failed. Whoever fails first silences the
    others, and it is rank 0 that prints what all know.
    """
    if os.environ.get("RANK", "0") != "0":
        with suppress(KeyboardInterrupt):
            time.sleep(_GRACE_SECONDS)


def children(pid: int) -> list[int]:
    """Return the processes that a process started and that still run; Linux only, else the process itself."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()] or [pid]
    except OSError:
        return [pid]
