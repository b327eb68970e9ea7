"""Tokenized training rows and their order, which is determined before training starts.

sft, reward and dpo tokenize with `data.chat.fitting`. TRL renders conversations to text and tokenizes the
text, so that `<|assistant|>` typed by a user would become a turn.

The order is a pure function of row lengths, steps, batch size and seed. It has exactly `steps * batch` rows,
so that every optimizer step has a full batch on any number of processes and after any resumption: process p
of W takes every W-th micro-batch, and the W micro-batches of one step are consecutive.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import datasets
import numpy as np
import pyarrow
from datasets.table import InMemoryTable
from transformers import PreTrainedTokenizerBase

from toolkit.base.errors import DataError, ToolkitError
from toolkit.base.rng import derive
from toolkit.data.chat.fitting import fitted_example, learned_spans
from toolkit.data.chat.report import LengthReport
from toolkit.data.chat.template import Message

IGNORED = -100
"""The label of a token without loss."""

WINDOW_BATCHES = 50
"""Batches in a window of sorting by length, as in transformers' LengthGroupedSampler."""


_REPORT = "this is an error of the toolkit: please report it with the chat template of the model"


class RowTable:
    """Columns of integer lists with four bytes per token (Python lists take up to 36), and of numbers."""

    def __init__(self, columns: Sequence[str], numbers: Sequence[str] = ()):
        self._values = {name: array("i") for name in columns}
        self._offsets = {name: array("q", [0]) for name in columns}
        self._numbers = {name: array("d") for name in numbers}

    def append(self, row: Mapping[str, Sequence[int]], **numbers: float) -> None:
        """Append a row, which must have exactly the table's columns.

        Raises:
            ToolkitError: a label is another token than the one at its position.
        """
        if row.keys() != self._values.keys() or numbers.keys() != self._numbers.keys():
            known = sorted([*self._values, *self._numbers])
            raise KeyError(f"a row of {sorted([*row, *numbers])} in a table of {known}")
        if "labels" in row:
            require_labels_are_inputs(row["input_ids"], row["labels"], where=f"row {len(self) + 1}")
        for name, values in row.items():
            self._values[name].extend(values)
            self._offsets[name].append(len(self._values[name]))
        for name, number in numbers.items():
            self._numbers[name].append(number)

    def __len__(self) -> int:
        return len(next(iter(self._offsets.values()))) - 1

    def lengths(self) -> np.ndarray:
        """Return the tokens of each row summed over all columns, (rows,)."""
        return sum(np.diff(np.frombuffer(offsets, dtype=np.int64)) for offsets in self._offsets.values())

    def dataset(self) -> datasets.Dataset:
        """Return the rows as a `datasets.Dataset` in memory, without copying tokens.

        Columns whose lists are all empty are left out.
        """
        columns = {
            name: pyarrow.LargeListArray.from_arrays(
                pyarrow.array(np.frombuffer(self._offsets[name], dtype=np.int64)),
                pyarrow.array(np.frombuffer(values, dtype=np.int32)),
            )
            for name, values in self._values.items()
            if values
        }
        columns |= {name: pyarrow.array(values, pyarrow.float64()) for name, values in self._numbers.items()}
        return datasets.Dataset(InMemoryTable(pyarrow.table(columns)))


def require_labels_are_inputs(ids: Sequence[int], labels: Sequence[int], *, where: str) -> None:
    """Raise ToolkitError unless each label, (length,), is the token at its position or IGNORED.

    Models shift the labels themselves: a label that is another token would teach a text that nobody wrote.
    """
    if len(ids) != len(labels):
        raise ToolkitError(f"{len(labels)} labels for {len(ids)} tokens", where=where, fix=_REPORT)
    wrong = [i for i, label in enumerate(labels) if label not in (ids[i], IGNORED)]
    if wrong:
        first = wrong[0]
        raise ToolkitError(
            f"{len(wrong)} of {len(labels)} labels differ from the token at their position; the first, at "
            f"position {first}, is {labels[first]} instead of {ids[first]}",
            where=where,
            fix=_REPORT,
        )


def training_order(
    lengths: np.ndarray, *, steps: int, batch: int, seed: int, strategy: str = "random"
) -> np.ndarray:
    """Return the indices of the rows in training order, (steps * batch,).

    Each epoch takes each row once, in a new permutation; the last one may be partial. Within a batch, longer
    rows come first, so that micro-batches need little padding (6 % instead of 31 % of the tokens for 32
    conversations in micro-batches of 8).

    Args:
        lengths: tokens of each row.
        strategy: `random`; `group_by_length`, which puts rows of similar length into a batch (within windows
            of 50 batches, whose order is shuffled); or `sequential`, the order of the data.

    Raises:
        DataError: there is no row.
    """
    total, rows = steps * batch, len(lengths)
    if not rows:
        raise DataError("no example to train on", fix="check the data's name, split and held_out")
    epochs = []
    for number in range(-(-total // rows)):
        if strategy == "sequential":
            epochs.append(np.arange(rows))
        else:
            generator = np.random.default_rng(derive(seed, "order of rows", number))
            epochs.append(generator.permutation(rows))
    order = np.concatenate(epochs)[:total]
    if strategy == "sequential":
        return order
    if strategy == "group_by_length":
        return _group_by_length(order, lengths, batch, seed)
    batches = (order[start : start + batch] for start in range(0, total, batch))
    return np.concatenate([_longest_first(rows_of_batch, lengths) for rows_of_batch in batches])


def _longest_first(rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return rows[np.argsort(-lengths[rows], kind="stable")]


def _group_by_length(order: np.ndarray, lengths: np.ndarray, batch: int, seed: int) -> np.ndarray:
    grouped = []
    for start in range(0, len(order), WINDOW_BATCHES * batch):
        window = order[start : start + WINDOW_BATCHES * batch]
        by_length = _longest_first(window, lengths).reshape(-1, batch)
        generator = np.random.default_rng(derive(seed, "order of batches", start))
        grouped.append(by_length[generator.permutation(len(by_length))].reshape(-1))
    return np.concatenate(grouped)


def labelled(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    answer: str | Message,
    *,
    max_length: int,
    loss_on: str = "last",
    lengths: LengthReport | None = None,
) -> dict[str, list[int]]:
    """Return `input_ids` and `labels` of a conversation, both (length,), with labels not shifted.

    A label is the token at its position, or IGNORED. A conversation that is too long loses the oldest turns
    of its prompt first, then the end of its answer.

    Args:
        answer: text, or a message; without `learned: False` it is learned.
        loss_on: `last`, the last answer and the token that ends it; `all` answers; or all `tokens`.
        lengths: counts what is removed.

    Raises:
        RenderedDifferently: the prompt, or with `loss_on` all an earlier answer, is not in the rendered text.
    """
    example = fitted_example(tokenizer, prompt, answer, max_tokens=max_length)
    prompt_ids, answer_ids = example.prompt, example.answer
    ids = prompt_ids + answer_ids
    labels = list(ids) if loss_on == "tokens" else [IGNORED] * len(ids)
    if isinstance(answer, str) or answer.get("learned") is not False:
        labels[len(prompt_ids) :] = answer_ids
    if loss_on == "all" and any(message["role"] == "assistant" for message in prompt):
        for span in learned_spans(tokenizer, example.messages, ids):
            labels[span] = ids[span]
    if lengths is not None:
        lengths.add(shortened=example.is_shortened, cut=example.is_cut)
    return {"input_ids": ids, "labels": labels}
