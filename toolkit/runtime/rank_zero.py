"""Several processes act as one: rank 0 decides, all follow, and one message is printed."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

from toolkit.base import ranks
from toolkit.base.errors import ToolkitError
from toolkit.runtime import devices

Value = TypeVar("Value")

# Longer than PyTorch's ten minutes, because rank 0 may hash a large corpus while the others wait.
_TIMEOUT = timedelta(hours=2)


class RankZeroFailed(Exception):
    """Rank 0 failed and prints why; this process ends with the same status and prints nothing."""

    def __init__(self, status: int):
        self.status = status
        super().__init__(status)


def join(device: str = "auto") -> None:
    """Join the process group of the launcher.

    Args:
        device: the recipe's setting.

    Raises:
        ToolkitError: on rank 0, Accelerate sees another number of processes than the launcher started.
        RankZeroFailed: the same, on the others.
    """
    if not os.environ.get("MASTER_ADDR"):
        raise ToolkitError(
            "WORLD_SIZE is set without a launcher (MASTER_ADDR is missing)",
            where="environment",
            fix="use torchrun or accelerate launch, or unset WORLD_SIZE",
        )
    # torchrun on a machine without GPUs means CPU processes; without this variable Accelerate would start
    # unconnected copies. Under its own launcher, its configuration has decided already.
    if device == "cpu" or not (torch.cuda.is_available() or "ACCELERATE_MIXED_PRECISION" in os.environ):
        os.environ["ACCELERATE_USE_CPU"] = "true"
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=_TIMEOUT)
    try:
        devices.require_agreement(state.num_processes)
    except ToolkitError as error:
        if ranks.rank() == 0:
            raise
        raise RankZeroFailed(error.exit_status) from None


def decide(action: Callable[[], Value]) -> Value:
    """Call `action` on rank 0 and return its value, which must be picklable, on every rank.

    Raises:
        ToolkitError: on rank 0, the error of the action.
        RankZeroFailed: on the others, when it did.
    """
    message: list[Value | None] = [None]
    failure: BaseException | None = None
    if ranks.rank() == 0:
        try:
            message = [{"value": action()}]
        except (ToolkitError, KeyboardInterrupt) as error:
            failure = error
            message = [{"status": getattr(error, "exit_status", 130)}]
    broadcast_object_list(message, from_process=0)
    if failure is not None:
        raise failure
    if "status" in message[0]:
        raise RankZeroFailed(message[0]["status"])
    return message[0]["value"]


def wait() -> None:
    """Wait for all processes."""
    PartialState().wait_for_everyone()


def leave() -> None:
    """Leave the process group: NCCL warns about processes that end without it."""
    PartialState().destroy_process_group()
