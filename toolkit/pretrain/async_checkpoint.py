"""Checkpoints written from a snapshot by a thread, while training goes on."""

from __future__ import annotations

import threading
import time

from toolkit.pretrain.state import Snapshot, Template
from toolkit.runs import checkpoint
from toolkit.runs.run import Run


class Saver:
    """Seals one checkpoint at a time; the next one waits for it, and so does the end.

    A kill in the middle of a write leaves the checkpoint before it: the old one is deleted after the new is
    sealed.

    Args:
        background: False writes before `save` returns.
        keep, every: see `checkpoint.prune`.
    """

    def __init__(self, run: Run, template: Template, *, background: bool, keep: int, every: int | None):
        self.run, self.template, self.background = run, template, background
        self.keep, self.every = keep, every
        self.slowest = 0.0
        """Seconds of the slowest save so far, for a time limit."""
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, snapshot: Snapshot | None) -> None:
        """Write a snapshot, where the main process gives one; raises what the write before failed with."""
        self.wait()
        if not self.run.is_main:
            return
        assert snapshot is not None
        if not self.background:
            self._write(snapshot)
            self.wait()
            return
        self._thread = threading.Thread(target=self._write, args=(snapshot,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until what was given is sealed; raises what that failed with."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, snapshot: Snapshot) -> None:
        began = time.monotonic()
        try:
            checkpoint.save(
                self.run, snapshot.position.step, lambda folder: snapshot.write(folder, self.template),
                keep=self.keep, every=self.every,
            )  # fmt: skip
        except BaseException as error:  # of any kind: it is raised where somebody waits
            self._error = error
        self.slowest = max(self.slowest, time.monotonic() - began)
