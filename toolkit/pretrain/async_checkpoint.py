"""Write checkpoints and kept weights from copies in a background thread while training continues."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from toolkit.pretrain.kept_weights import KeptWeights
from toolkit.pretrain.training_state import ModelExporter, Snapshot
from toolkit.runs import checkpoint
from toolkit.runs.run import Run


class CheckpointWriter:
    """Writes one checkpoint or folder of kept weights at a time; a new write waits for the previous one.

    If the process is killed during a write, the previous checkpoint is still there: it is deleted only after
    the new one is sealed.

    Args:
        background: False makes `save` and `keep` return only after the folder is written.
        keep_newest, keep_every: `keep` and `every` of `checkpoint.prune`.
    """

    def __init__(
        self, run: Run, exporter: ModelExporter, *, background: bool, keep_newest: int, keep_every: int | None
    ):  # fmt: skip
        self.run, self.exporter, self.background = run, exporter, background
        self.keep_newest, self.keep_every = keep_newest, keep_every
        self.slowest_seconds = 0.0
        """Duration of the slowest write so far, which a time limit must leave room for."""
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, snapshot: Snapshot | None) -> None:
        """Start to write a snapshot, which the main process must give.

        Raises:
            BaseException: the error of the previous write.
        """
        self.wait()
        if self.run.is_main:
            assert snapshot is not None
            self._start(lambda: checkpoint.save(
                self.run, snapshot.state.step, lambda folder: snapshot.write(folder, self.exporter),
                keep=self.keep_newest, every=self.keep_every,
            ))  # fmt: skip

    def keep(self, weights: KeptWeights) -> None:
        """Start to write a folder of weights that is never deleted; the main process alone writes.

        Raises:
            BaseException: the error of the previous write.
        """
        self.wait()
        if self.run.is_main:
            self._start(lambda: weights.write(self.run.path, self.exporter))

    def wait(self) -> None:
        """Wait until the current write ends; raise its error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _start(self, write: Callable[[], object]) -> None:
        if not self.background:
            self._write(write)
            self.wait()
            return
        self._thread = threading.Thread(target=self._write, args=(write,), daemon=True)
        self._thread.start()

    def _write(self, write: Callable[[], object]) -> None:
        began = time.monotonic()
        try:
            write()
        except BaseException as error:  # of any kind: `wait` raises it in the main thread
            self._error = error
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
