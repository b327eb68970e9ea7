"""Read the rows of each step on one process, ahead of the step that needs them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from toolkit.data.text.batch_order import Order, read_rows
from toolkit.data.text.shards import TokenShards


class Prefetcher:
    """Reads this process's share of each batch from the memory map.

    Args:
        batch_rows: rows of one step over all processes.
        rank, processes: this process reads a contiguous share of them.
        prefetch_batches: batches that a thread keeps ready; 0 reads on demand. Reading 64 rows of 1,024 from
            the disk's cache takes 0.4 ms, of which 0.3 ms compute the permutation; a cold network file system
            takes its latency times the rows.
    """

    def __init__(
        self, shards: TokenShards, order: Order, *, batch_rows: int, rank: int = 0, processes: int = 1,
        device: torch.device | str = "cpu", prefetch_batches: int = 2,
    ):  # fmt: skip
        self.shards, self.order, self.batch_rows = shards, order, batch_rows
        self.local_rows = batch_rows // processes
        self.first_row = self.local_rows * rank
        self.device, self.prefetch_batches = torch.device(device), prefetch_batches

    def rows(self, step: int) -> Tensor:
        """Return this process's rows of a step, (rows, length + 1) int64, on the CPU; pinned for a GPU."""
        starts = self.order.starts(step, self.batch_rows)[self.first_row : self.first_row + self.local_rows]
        rows = torch.from_numpy(read_rows(self.shards, starts, self.order.sequence_length))
        return rows.pin_memory() if self.device.type == "cuda" else rows

    def batches(self, first: int, end: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (step, rows on the device) from step `first` up to `end`; raise the reader's error."""
        if self.prefetch_batches == 0:
            for step in range(first, end):
                yield step, self.rows(step).to(self.device, non_blocking=True)
            return
        ready: queue.Queue[tuple[int, Tensor | BaseException]] = queue.Queue(self.prefetch_batches)
        stop = threading.Event()
        reader = threading.Thread(target=self._read, args=(first, end, ready, stop), daemon=True)
        reader.start()
        try:
            for step in range(first, end):
                read_step, rows = ready.get()
                if isinstance(rows, BaseException):
                    raise rows
                assert read_step == step
                yield step, rows.to(self.device, non_blocking=True)
        finally:
            stop.set()

    def _read(self, first: int, end: int, ready: queue.Queue, stop: threading.Event) -> None:
        for step in range(first, end):
            item: Tensor | BaseException
            try:
                item = self.rows(step)
            except BaseException as error:
                item = error
            while not stop.is_set():
                try:
                    ready.put((step, item), timeout=1.0)
                    break
                except queue.Full:
                    continue
            if stop.is_set() or isinstance(item, BaseException):
                return


def split_rows(rows: Tensor, length: int) -> Tensor:
    """Split rows into shorter ones that predict the same tokens.

    (rows, full + 1) -> (rows * full / length, length + 1), where `length` divides the full length. A step
    keeps its batch; only the context of each token becomes shorter.
    """
    if rows.shape[1] == length + 1:
        return rows
    return rows.unfold(1, length + 1, length).flatten(0, 1)
