"""Several processes act as one: rank 0 decides, all follow, and one message is printed."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from torch.distributed import Store, TCPStore

from toolkit.base import ranks
from toolkit.base.errors import ToolkitError
from toolkit.runtime import devices

Value = TypeVar("Value")

# Longer than PyTorch's ten minutes, because rank 0 may hash a large corpus while the others wait.
_TIMEOUT = timedelta(hours=2)
JOIN_SECONDS = 45.0
"""How long a process waits for the others to begin: a launcher starts all of them together."""
_FAIL_SECONDS = 10.0
"""Processes that fail at the same place reach it within this time; see `failed_together`."""
_POLL_SECONDS = 0.05
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed")
"""Words of gloo's errors, which are RuntimeErrors, when another process has ended."""
_TOGETHER = "start all processes with one torchrun or accelerate launch, or unset RANK and WORLD_SIZE"


class _Meeting:
    """The launcher's key-value store, through which processes find each other before they are a group."""

    store: Store | None = None


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
        ToolkitError: on rank 0, another process does not come, or Accelerate sees another number of processes
            than the launcher started; on the others, rank 0 cannot be reached.
        RankZeroFailed: on the others, when rank 0 raises.
    """
    _meet()
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


def _meet() -> None:
    """Wait until every process has begun.

    The process group would wait for hours, and name nobody.

    Raises:
        ToolkitError: on rank 0, a process did not begin; on the others, rank 0 cannot be reached.
        RankZeroFailed: on the others, when rank 0 misses a process.
    """
    own, keys = ranks.rank(), [f"toolkit/began/{rank}" for rank in range(ranks.world_size())]
    store = _Meeting.store = _store()
    store.set(keys[own], "")
    if _are_set(store, keys, JOIN_SECONDS):
        return
    if own != 0:
        raise RankZeroFailed(ToolkitError.exit_status)
    missing = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
    raise _nobody(f"process with RANK {' or '.join(missing)} began")


def _are_set(store: Store, keys: list[str], seconds: float) -> bool:
    """Return whether all keys are set in time; `Store.wait` would print C++ tracebacks where they are not."""
    deadline = time.monotonic() + seconds
    try:
        while not store.check(keys):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
    except RuntimeError:  # the process that holds the store has ended
        return False
    return True


def _store() -> Store:
    """Return the store of the launcher; without torchrun, rank 0 opens it."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    opens = ranks.rank() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not opens:
        _wait_for_server(host, port)
    try:
        return TCPStore(
            host, port, is_master=opens, multi_tenant=opens, wait_for_workers=False,
            timeout=timedelta(seconds=JOIN_SECONDS),
        )  # fmt: skip
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ToolkitError(f"the processes cannot meet at {host}:{port}: {reason}", where="environment",
                           fix="set another MASTER_PORT") from None  # fmt: skip


def _wait_for_server(host: str, port: int) -> None:
    """Wait until something answers at an address; torch would wait longer, and print C++ tracebacks."""
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=JOIN_SECONDS).close()
            return
        except socket.gaierror as error:
            raise ToolkitError(f"MASTER_ADDR is {host!r}, which cannot be found: {error.strerror}",
                               where="environment", fix=_TOGETHER) from None  # fmt: skip
        except OSError:
            if time.monotonic() > deadline:
                raise _nobody(f"process with RANK 0 answered at {host}:{port}") from None
            time.sleep(_POLL_SECONDS)


def _nobody(what: str) -> ToolkitError:
    return ToolkitError(f"WORLD_SIZE is {ranks.world_size()}, but within {JOIN_SECONDS:g} s no {what}",
                        where="environment", fix=_TOGETHER)  # fmt: skip


def failed_together() -> bool:
    """Return whether all processes fail at the same place: each calls this when it has failed.

    Then none of them waits for another in a collective operation, and they can end in order.
    """
    if _Meeting.store is None:
        return False
    keys = [f"toolkit/failed/{rank}" for rank in range(ranks.world_size())]
    try:
        _Meeting.store.set(keys[ranks.rank()], "")
    except RuntimeError:
        return False
    return _are_set(_Meeting.store, keys, _FAIL_SECONDS)


def lost_process(error: BaseException) -> bool:
    """Return whether an error means that another process of the group has ended, and not in order."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST)


def is_first_to_tell() -> bool:
    """Return whether this process is the first that noticed that another one ended; it prints that."""
    try:
        return _Meeting.store is None or _Meeting.store.add("toolkit/lost", 1) == 1
    except RuntimeError:  # the process that holds the store is the one that ended
        return True


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
