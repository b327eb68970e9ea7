"""Text to ids in several processes; a worker imports only `tokenizers` and numpy.

The order of the results is the order of the input, so that what is written does not depend on how many
processes there are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait
from typing import TypeVar

import numpy as np
from tokenizers import Tokenizer

from toolkit.base.errors import ToolkitError

Item = TypeVar("Item")
Encoded = tuple[np.ndarray, np.ndarray]
"""(tokens,) uint32: the ids of all texts in a row; (texts,) int64: how many each has."""
_tokenizer: Tokenizer | None = None


def encode(tokenizer: Tokenizer, texts: list[str]) -> Encoded:
    """Return the ids of several texts; special tokens that are spelled out in them stay text."""
    tokenizer.encode_special_tokens = True
    found = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    lengths = np.fromiter(map(len, found), np.int64, len(found))
    ids = np.fromiter((number for ids in found for number in ids), np.uint32, int(lengths.sum()))
    return ids, lengths


def encode_in_order(
    batches: Iterable[tuple[Item, list[str]]], *, tokenizer: Tokenizer, workers: int
) -> Iterator[tuple[Item, Encoded]]:
    """Yield (item, encoded texts) of each batch (item, texts), in order, at most a few batches ahead.

    Raises:
        ToolkitError: a process died, most often killed for want of memory.
    """
    if workers == 1:
        for item, texts in batches:
            yield item, encode(tokenizer, texts)
        return
    batches = iter(batches)
    first = list(islice(batches, 2))
    if len(first) < 2:  # starting processes takes half a second: not for one batch
        for item, texts in first:
            yield item, encode(tokenizer, texts)
        return
    # Spawned, not forked: the tokenizer's and torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (tokenizer.to_str(),)) as pool:
        waiting: deque[tuple[Item, Future[Encoded]]] = deque()
        try:
            for batch in (first, batches):
                for item, texts in batch:
                    waiting.append((item, pool.submit(_encode_here, texts)))
                    if len(waiting) > 2 * workers:
                        item, future = waiting.popleft()
                        yield item, future.result()
            while waiting:
                item, future = waiting.popleft()
                yield item, future.result()
        except BrokenProcessPool:
            raise ToolkitError(
                "a process that tokenizes died, perhaps for want of memory",
                fix="give fewer `workers`; the same command goes on from here",
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(tokenizer: str) -> None:
    global _tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the work and says so once
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core a process
    _tokenizer = Tokenizer.from_str(tokenizer)


def _die_with_parent() -> None:
    # A worker holds both ends of its queue and would wait for ever on a parent that was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _encode_here(texts: list[str]) -> Encoded:
    assert _tokenizer is not None
    return encode(_tokenizer, texts)
