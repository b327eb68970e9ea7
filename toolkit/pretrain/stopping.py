"""Stop a training before its end, on a signal or a time limit, on all processes at the same step."""

from __future__ import annotations

import time

from toolkit.base.console import tell
from toolkit.pretrain.async_checkpoint import CheckpointWriter
from toolkit.runtime import signals
from toolkit.runtime.agreement import Agreement

SIGNAL, TIME_LIMIT = "signal", "time limit"
CODES = {None: 0, SIGNAL: 1, TIME_LIMIT: 2}
RESERVE_SECONDS = 5.0


class StopCondition:
    """Decides after each step whether to stop.

    Args:
        limit_seconds: of this attempt, counted from `began` (seconds of `time.monotonic`).
    """

    def __init__(
        self, writer: CheckpointWriter, *, limit_seconds: float | None, began: float | None = None
    ):  # fmt: skip
        self.writer, self.limit_seconds = writer, limit_seconds
        self.began = signals.started() if began is None else began
        self._longest_step, self._last_check = 0.0, time.monotonic()
        self._agreement = Agreement()

    def check(self) -> str | None:
        """Return why to stop now (`SIGNAL` or `TIME_LIMIT`), the same on every process, or None."""
        now = time.monotonic()
        self._longest_step = max(self._longest_step, now - self._last_check)
        self._last_check = now
        reason = None
        if signals.stop_requested():
            reason = SIGNAL
        elif self._out_of_time(now):
            reason = TIME_LIMIT
        agreed = self._agreement.largest(CODES[reason])
        return next(name for name, number in CODES.items() if number == agreed)

    def _out_of_time(self, now: float) -> bool:
        if self.limit_seconds is None:
            return False
        reserve = RESERVE_SECONDS + 2 * self.writer.slowest_seconds + self._longest_step
        return now - self.began > self.limit_seconds - min(reserve, self.limit_seconds / 2)

    def report(self, reason: str, step: int) -> None:
        """Report on stderr why the training stops; its checkpoint must be sealed."""
        signals.stopped_in_order()
        if self.writer.run.is_main and reason == TIME_LIMIT:
            assert self.limit_seconds is not None
            tell(
                f"{self.writer.run.name}: the time limit of {self.limit_seconds / 60:g} minutes is near: "
                f"saved after step {step}"
            )
