"""Tokenized training rows and their order: what a trainer sees at each step, decided before it starts.

All of sft, reward and dpo tokenize here, through `data.chat`: TRL's own way renders the conversation to
text and tokenizes that, in which a person's `<|assistant|>` would become a turn.

The order is a pure function of the number of rows and the seed. A row table holds exactly
`steps * batch` rows in the order of training, so that every optimizer step has a whole batch, on any
number of processes and from any point of resumption: process p of W takes every W-th micro-batch, and
the W of one step are consecutive.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence

import datasets
import numpy as np
import pyarrow
from datasets.table import InMemoryTable
from transformers import PreTrainedTokenizerBase

from toolkit.base.errors import DataError
from toolkit.base.rng import derive
from toolkit.data.chat.template import Message, example_ids, shorten

IGNORED = -100
"""The label of a token without loss."""

WINDOW_BATCHES = 50
"""Batches that are sorted by length together, as in transformers' LengthGroupedSampler."""


class RowTable:
    """Columns of integer lists, four bytes a token (Python's own lists take up to 36)."""

    def __init__(self, columns: Sequence[str]):
        self._values = {name: array("i") for name in columns}
        self._offsets = {name: array("q", [0]) for name in columns}

    def append(self, row: Mapping[str, Iterable[int]]) -> None:
        """Add one row: every column, no other."""
        if row.keys() != self._values.keys():
            raise KeyError(f"a row of {sorted(row)} in a table of {sorted(self._values)}")
        for name, values in row.items():
            self._values[name].extend(values)
            self._offsets[name].append(len(self._values[name]))

    def __len__(self) -> int:
        return len(next(iter(self._offsets.values()))) - 1

    def lengths(self) -> np.ndarray:
        """Tokens of each row over all columns, (rows,)."""
        return sum(np.diff(np.frombuffer(offsets, dtype=np.int64)) for offsets in self._offsets.values())

    def dataset(self) -> datasets.Dataset:
        """The rows as a `datasets.Dataset` in memory, without copying a token."""
        columns = {
            name: pyarrow.LargeListArray.from_arrays(
                pyarrow.array(np.frombuffer(self._offsets[name], dtype=np.int64)),
                pyarrow.array(np.frombuffer(values, dtype=np.int32)),
            )
            for name, values in self._values.items()
        }
        return datasets.Dataset(InMemoryTable(pyarrow.table(columns)))


def training_order(
    lengths: np.ndarray, *, steps: int, batch: int, seed: int, strategy: str = "random"
) -> np.ndarray:
    """Return the row of every place of training, (steps * batch,).

    Every pass takes each row once, in a new shuffle; the last pass ends where the training does. Within
    a batch the longest rows come first: it is the same batch, and its micro-batches need little padding
    (of 32 conversations 31 % of the tokens, in micro-batches of 8 so sorted 6 %).

    Args:
        lengths: tokens of each row.
        strategy: `random`; `group_by_length` puts rows of like length into one batch (within windows of
            50 batches, whose batches are shuffled again); `sequential` keeps the order of the data.
    """
    total, rows = steps * batch, len(lengths)
    if not rows:
        raise DataError("there is no example to train on", fix="check the data's name, split and held_out")
    passes = []
    for number in range(-(-total // rows)):
        if strategy == "sequential":
            passes.append(np.arange(rows))
        else:
            generator = np.random.default_rng(derive(seed, "order of rows", number))
            passes.append(generator.permutation(rows))
    places = np.concatenate(passes)[:total]
    if strategy == "sequential":
        return places
    if strategy == "group_by_length":
        return _group_by_length(places, lengths, batch, seed)
    return np.concatenate([_longest_first(places[at : at + batch], lengths) for at in range(0, total, batch)])


def _longest_first(places: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return places[np.argsort(-lengths[places], kind="stable")]


def _group_by_length(places: np.ndarray, lengths: np.ndarray, batch: int, seed: int) -> np.ndarray:
    grouped = []
    for start in range(0, len(places), WINDOW_BATCHES * batch):
        window = places[start : start + WINDOW_BATCHES * batch]
        by_length = _longest_first(window, lengths).reshape(-1, batch)
        generator = np.random.default_rng(derive(seed, "order of batches", start))
        grouped.append(by_length[generator.permutation(len(by_length))].reshape(-1))
    return np.concatenate(grouped)


def labelled(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    answer: str,
    *,
    max_length: int,
    loss_on: str = "answer",
) -> dict[str, list[int]]:
    """Return `input_ids` and `labels` of a conversation, both (length,), labels not shifted.

    Where it is too long the prompt loses its oldest turns first, then the answer its end.

    Args:
        loss_on: `answer`, the last answer and its end-of-text; `assistant`, all answers; `all` tokens.
    """  # fmt: skip
    head, tail = example_ids(tokenizer, prompt, answer, max_tokens=max_length)
    labels = [IGNORED] * len(head) + tail
    if loss_on == "all":
        labels = head + tail
    elif loss_on == "assistant":
        kept = shorten(tokenizer, prompt, max_tokens=len(head))
        for index, message in enumerate(kept):
            if message["role"] == "assistant":
                before, turn = example_ids(tokenizer, kept[:index], message["content"])
                labels[len(before) : len(before) + len(turn)] = turn
    return {"input_ids": head + tail, "labels": labels}
