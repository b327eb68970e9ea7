"""Several processes as one: rank 0 decides, all go the same way, and one message is printed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from toolkit.recipe.errors import ToolkitError
from toolkit.runs import environment, facts

# Longer than the ten minutes of PyTorch: rank 0 may hash a large corpus while the others wait.
_TIMEOUT = timedelta(hours=2)
# A launcher ends the other processes some tenths of a second after the first one failed.
_GRACE_SECONDS = 10.0


class Told(Exception):
    """Rank 0 failed and prints why: this process ends with the same status and says nothing."""

    def __init__(self, status: int):
        self.status = status
        super().__init__(status)


def join() -> None:
    """Join the process group of the launcher.

    Raises:
        ToolkitError: on rank 0, Accelerate sees another number of processes than the launcher started.
        Told: the same, on the others.
    """
    if not os.environ.get("MASTER_ADDR"):
        raise ToolkitError("WORLD_SIZE is set, but there is no launcher behind it (MASTER_ADDR is missing)",
                           where="environment", fix="use torchrun or accelerate launch, or unset WORLD_SIZE")
    state = PartialState(timeout=_TIMEOUT)
    try:
        environment.require_agreement(state.num_processes)
    except ToolkitError as error:
        if facts.rank() == 0:
            raise
        raise Told(error.exit_status) from None


def decide(action: Callable[[], Any]) -> Any:
    """Do something on rank 0 and return what it returned on every rank; it must be JSON-like.

    Raises:
        ToolkitError: on rank 0, what the action raised.
        Told: on the others, when it did.
    """
    message: list[Any] = [None]
    failure: BaseException | None = None
    if facts.rank() == 0:
        try:
            message = [{"value": action()}]
        except (ToolkitError, KeyboardInterrupt) as error:
            failure = error
            message = [{"status": getattr(error, "exit_status", 130)}]
    broadcast_object_list(message, from_process=0)
    if failure is not None:
        raise failure
    if "status" in message[0]:
        raise Told(message[0]["status"])
    return message[0]["value"]


def wait() -> None:
    """Wait until all processes are here."""
    PartialState().wait_for_everyone()


def let_rank_0_speak() -> None:
    """On another rank, wait before failing: if rank 0 fails too, its launcher ends us first."""
    if facts.rank() != 0:
        time.sleep(_GRACE_SECONDS)
