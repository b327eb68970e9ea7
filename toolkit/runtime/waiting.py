"""How long the waiting threads of OpenMP spin before they sleep.

A thread that has finished its part of a sum waits for the others. GNU's OpenMP, which is part of PyTorch's
Linux wheels, lets it poll 300,000 times (some milliseconds) by default. On a quiet machine that is fastest.
Beside another program the spinning thread takes the core of the thread that it waits for; see
docs/BENCHMARKS.md.
"""

from __future__ import annotations

import os
import sys

from toolkit.base import ranks

WAIT_POLICY = "OMP_WAIT_POLICY"
SPIN_COUNT = "GOMP_SPINCOUNT"
SHORT = "1000"
"""Polls beside other programs. With 0, which is OMP_WAIT_POLICY=PASSIVE, the threads of small models sleep
and wake all the time; 10,000 to 100,000 are slower on a busy machine than the default."""
LONG = "300000"
"""Polls on a quiet machine, the default of GNU's OpenMP."""
_BUSY = 0.25
"""How many cores the other programs of a busy machine use at least."""
_SECONDS = 0.2


def spin_briefly() -> None:
    """Let waiting threads of this process and its children sleep soon; has no effect once torch is loaded."""
    if not _is_chosen():
        os.environ[SPIN_COUNT] = SHORT


def spin_by_load() -> None:
    """Let waiting threads spin long if no other program uses the cores of this process; takes 0.2 s.

    The children inherit the choice: a stage whose libraries load beside the stage before it cannot measure,
    nor can the processes of a launch, which start together.
    """
    if not _is_chosen() and "torch" not in sys.modules:
        alone = ranks.world_size() == 1 and other_load() < _BUSY
        os.environ[SPIN_COUNT] = LONG if alone else SHORT


def other_load() -> float:
    """Return how many of this process's cores other programs use, measured while this thread sleeps."""
    import psutil  # `toolkit --help` does without it

    percentages = psutil.cpu_percent(_SECONDS, percpu=True)
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(percentages))
    return sum(percentages[core] for core in own if core < len(percentages)) / 100


def _is_chosen() -> bool:
    """Return whether the user, or the process that started this one, has set one of the two variables."""
    return WAIT_POLICY in os.environ or SPIN_COUNT in os.environ
