"""Tokenizing text in several processes; a worker imports only `tokenizers` and numpy.

Results come in the order of the input, so that they do not depend on the number of processes.
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
from toolkit.runtime import signals

Item = TypeVar("Item")
Encoded = tuple[np.ndarray, np.ndarray]
"""Concatenated ids of all texts, (tokens,) uint32, and the number of ids of each text, (texts,) int64."""
_tokenizer: Tokenizer | None = None


def encode(tokenizer: Tokenizer, texts: list[str]) -> Encoded:
    """Return the ids of several texts; special tokens spelled out in them are encoded as text."""
    tokenizer.encode_special_tokens = True
    encodings = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    ids = np.fromiter((token for ids in encodings for token in ids), np.uint32, int(lengths.sum()))
    return ids, lengths


def encode_in_order(
    batches: Iterable[tuple[Item, list[str]]], *, tokenizer: Tokenizer, workers: int
) -> Iterator[tuple[Item, Encoded]]:
    """Yield (item, encoded texts) of each batch (item, texts) in order, reading a few batches ahead.

    Raises:
        ToolkitError: a process died, usually because the system ran out of memory.
    """
    if workers == 1:
        for item, texts in batches:
            yield item, encode(tokenizer, texts)
        return
    batches = iter(batches)
    first = list(islice(batches, 2))
    if len(first) < 2:  # starting processes takes half a second
        for item, texts in first:
            yield item, encode(tokenizer, texts)
        return
    # spawn, because the threads of tokenizers and torch do not survive a fork
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
                "a process that tokenizes died, perhaps for lack of memory",
                fix="reduce `workers`; the same command resumes from here",
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(tokenizer: str) -> None:
    global _tokenizer
    signals.leave_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # with which a pool ends the others when one has died
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core per process
    _tokenizer = Tokenizer.from_str(tokenizer)


def _die_with_parent() -> None:
    # a worker holds both ends of its queue and would wait forever for a killed parent
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _encode_here(texts: list[str]) -> Encoded:
    assert _tokenizer is not None
    return encode(_tokenizer, texts)
