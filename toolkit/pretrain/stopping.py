"""When a training stops before its end: a signal or a time limit, on all processes at the same step."""

from __future__ import annotations

import sys
import time

import torch
import torch.distributed as dist

from toolkit.pretrain.async_checkpoint import Saver
from toolkit.runtime import signals

SIGNAL, TIME = 1, 2
RESERVE_SECONDS = 5.0


class Stopping:
    """Asked after each step.

    Processes see a signal at different steps. They agree by an all-reduce of one number over gloo, which
    leaves a GPU's queue alone: 0.2 ms a step between two processes of one machine, 0.4 to 0.8 ms where
    other programs want its cores, too.

    Args:
        limit_seconds: of this attempt, from `began`.
    """

    def __init__(self, saver: Saver, *, limit_seconds: float | None, began: float | None = None):
        self.saver, self.limit = saver, limit_seconds
        self.began = signals.started() if began is None else began
        self._longest_step, self._last = 0.0, time.monotonic()
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._group = dist.new_group(backend="gloo") if several else None

    def asked(self) -> str | None:
        """Return why to stop now, the same on every process, or None."""
        now = time.monotonic()
        self._longest_step, self._last = max(self._longest_step, now - self._last), now
        reason = SIGNAL if signals.stop_requested(agreed=True) else TIME if self._out_of_time(now) else 0
        if self._group is not None:
            shared = torch.tensor([reason])
            dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=self._group)
            reason = int(shared)
        return {0: None, SIGNAL: "signal", TIME: "time limit"}[reason]

    def _out_of_time(self, now: float) -> bool:
        if self.limit is None:
            return False
        reserve = RESERVE_SECONDS + 2 * self.saver.slowest + self._longest_step
        return now - self.began > self.limit - min(reserve, self.limit / 2)

    def say(self, reason: str, step: int) -> None:
        """Say on stderr why the training stops; its checkpoint is sealed."""
        signals.stopped_in_order()
        if self.saver.run.is_main and reason == "time limit":
            assert self.limit is not None
            print(
                f"{self.saver.run.name}: the time limit of {self.limit / 60:g} minutes is near: "
                f"saved after step {step}",
                file=sys.stderr,
            )
