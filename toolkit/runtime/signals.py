"""Child processes that end with their parent, and signals that stop a run cleanly."""

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

from toolkit.base.console import tell

STATUS = "TOOLKIT_STATUS"
"""Environment variable: path of the file for the exit status of a launched stage, see `exit_status`."""
INTERRUPTED = 130
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals at which a run saves what it can and ends."""
_PR_SET_PDEATHSIG = 1
_SAME_SIGNAL_SECONDS = 1.0
_GRACE_SECONDS = 10.0
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


def die_with_parent(parent: int | None = None) -> None:
    """Make the kernel kill this process when its parent ends for any reason.

    Can be the initializer of a process pool, or `preexec_fn`. On other systems than Linux a thread polls once
    a second.

    Args:
        parent: the expected process id of the parent; if it has already ended, this process exits.
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
    """The state of signals, of which a process has one."""

    deferred = False  # a stage polls `stop_requested` between steps
    requested = False
    clean = False  # all processes stopped or failed at the same place, and none waits for another
    started = time.monotonic()
    last = -math.inf


def started() -> float:
    """Return when this process began, by `time.monotonic`; it includes importing the libraries."""
    return _Interrupts.started


def begin_anew() -> None:
    """Restart the clock of this process, which was started before its turn."""
    _Interrupts.started = time.monotonic()


def stop_requested() -> bool:
    """Return whether a signal to stop arrived; after the first call, the first signal only sets this flag.

    A stage that calls this after each step saves a checkpoint and raises KeyboardInterrupt when it is true.
    The second signal ends the stage immediately. Several processes see the signal at different steps, so they
    agree before they act (`agreement.Agreement`).
    """
    _Interrupts.deferred = True
    return _Interrupts.requested


def stopped_in_order() -> None:
    """Record that all processes end at the same place: their checkpoint is saved, or all of them failed."""
    _Interrupts.clean = True


def exit_status(status: int) -> int:
    """Return the status with which this process must exit.

    A launcher turns any status but 0 into 1 and prints 40 lines of traceback. If `toolkit run --launch` sets
    STATUS, the status with which all processes stop or fail together is written to that file and every
    process exits with 0; any other status goes to the launcher, which then ends the remaining processes.
    """
    path = os.environ.get(STATUS)
    if path is None or status == 0 or not _Interrupts.clean:
        return status
    if os.environ.get("RANK", "0") == "0":
        Path(path).write_text(str(status))
    return 0


def stop_at_once() -> None:
    """Let signals end the stage immediately again, because nothing is saved after the last step.

    Raises:
        KeyboardInterrupt: a signal arrived before.
    """
    _Interrupts.deferred = False
    if _Interrupts.requested:
        _Interrupts.requested = False
        raise KeyboardInterrupt


def _stop(number: int, frame: FrameType | None) -> None:
    now, before = time.monotonic(), _Interrupts.last
    _Interrupts.last = now
    if number == signal.SIGHUP:
        _leave_lost_terminal()
    if now - before < _SAME_SIGNAL_SECONDS:
        return
    if _Interrupts.deferred and not _Interrupts.requested:
        _Interrupts.requested = True
        if os.environ.get("RANK", "0") == "0":
            tell("\nstopping after this step (again: immediately)")
        return
    raise KeyboardInterrupt


def _leave_lost_terminal() -> None:
    """Send output nowhere if the terminal is closed: every write to it would raise an error."""
    try:
        os.write(2, b"\n")
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)


@contextmanager
def interruptible() -> Iterator[None]:
    """Make SIGTERM, SIGUSR1 and SIGHUP raise KeyboardInterrupt in the block, like Ctrl-C.

    Clusters stop jobs with SIGTERM, and some warn with SIGUSR1 before they do; a terminal that closes sends
    SIGHUP, which `nohup` ignores. Signals within a second count as one: Ctrl-C arrives from the terminal,
    the folder runner and torchrun. A request to stop ends with the block: later trainings go on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Interrupts.deferred, _Interrupts.requested, _Interrupts.last = False, False, -math.inf
    _Interrupts.clean = False
    numbers = [number for number in STOPPING if number != signal.SIGHUP or not _is_ignored(number)]
    before = {number: signal.signal(number, _stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _Interrupts.deferred, _Interrupts.requested = False, False


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


def leave_to_parent() -> None:
    """Ignore the signals that stop a run, in a worker process: the parent ends it when its own work is saved.

    Signals reach every process of a terminal or of a job.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def wait_for_rank_0() -> None:
    """Wait, on another rank than 0, before failing.

    A launcher ends all processes some tenths of a second after one failed, and rank 0 must print the error
    before that.
    """
    if os.environ.get("RANK", "0") != "0":
        with suppress(KeyboardInterrupt):
            time.sleep(_GRACE_SECONDS)


def children(pid: int) -> list[int]:
    """Return the running children of a process; the process itself without children or without /proc."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()] or [pid]
    except OSError:
        return [pid]
