"""The order of training rows: a pure function of (corpus digest, seed, step), for any number of processes.

The token stream is divided into rows of `sequence_length` inputs; the token after a row is its last target.
Each epoch visits the rows in its own permutation, with its own offset of the row boundaries.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from toolkit.base.errors import DataError
from toolkit.base.rng import derive
from toolkit.data.text.shards import TokenShards

FEISTEL_ROUNDS = 6


@dataclass(frozen=True)
class Order:
    """The order of training rows.

    Args:
        total_tokens: length of the stream.
        sequence_length: inputs of a row, which reads one more token.
        seed: of the recipe.
        digest: of the corpus.

    Raises:
        DataError: the stream is shorter than one row.
    """

    total_tokens: int
    sequence_length: int
    seed: int
    digest: str = ""

    def __post_init__(self) -> None:
        if self.total_tokens < self.sequence_length + 1:
            raise DataError(
                f"the corpus has {self.total_tokens} tokens, less than one row of {self.sequence_length + 1}",
                fix="use more text, or reduce sequence_length",
            )

    @property
    def rows_per_epoch(self) -> int:
        """Rows of one epoch, which omits the tokens of up to two rows, different ones in each epoch."""
        return max(1, (self.total_tokens - self.sequence_length) // self.sequence_length)

    def starts(self, step: int, batch_rows: int) -> np.ndarray:
        """Return the first tokens of the rows of optimizer step `step` (from 0), (batch_rows,) int64."""
        visits = np.arange(step * batch_rows, (step + 1) * batch_rows)  # counted over all epochs
        epochs, indices = np.divmod(visits, self.rows_per_epoch)
        result = np.empty(batch_rows, dtype=np.int64)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            key = derive(self.seed, "order", self.digest, int(epoch))
            slack = self.total_tokens - 1 - self.rows_per_epoch * self.sequence_length
            rows = permute(indices[in_epoch], self.rows_per_epoch, key)
            result[in_epoch] = rows * self.sequence_length + key % (slack + 1)
        return result

    def epoch(self, step: int, batch_rows: int) -> float:
        """Return the number of epochs before step `step`."""
        return step * batch_rows / self.rows_per_epoch


def digest(starts: np.ndarray) -> str:
    """Return a short digest of the rows' first tokens; with the corpus digest it identifies the batch."""
    return hashlib.sha256(np.ascontiguousarray(starts, dtype="<i8").tobytes()).hexdigest()[:16]


def batch(shards: TokenShards, order: Order, *, step: int, batch_rows: int) -> np.ndarray:
    """Return the token ids of one step over all processes, (batch_rows, sequence_length + 1) int64."""
    starts = order.starts(step, batch_rows)
    return read_rows(shards, starts, order.sequence_length)


def read_rows(shards: TokenShards, starts: np.ndarray, sequence_length: int) -> np.ndarray:
    """Return the token ids of rows given by their first tokens, (rows, sequence_length + 1) int64."""
    rows = [shards.read(int(start), sequence_length + 1) for start in starts]
    return np.stack(rows).astype(np.int64)


def permute(indices: np.ndarray, size: int, key: int) -> np.ndarray:
    """Return the images of `indices` under a random permutation of range(size), in constant memory.

    A Feistel network over the next even power of two, iterated until the value is in range (Black and
    Rogaway, 2002, "Ciphers with Arbitrary Finite Domains", section 4). NumPy's shuffles may change with its
    version, this does not, and it needs no memory for a corpus of 10^10 tokens.
    """
    half_bits = max(1, -(-max(size - 1, 1).bit_length() // 2))
    mask = np.uint64((1 << half_bits) - 1)
    shift = np.uint64(half_bits)
    keys = [np.uint64(derive(key, "feistel", number)) for number in range(FEISTEL_ROUNDS)]
    values = np.asarray(indices).astype(np.uint64)
    outside = np.ones(values.shape, dtype=bool)
    while outside.any():
        left, right = values[outside] >> shift, values[outside] & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right + round_key) & mask)
        values[outside] = (left << shift) | right
        outside = values >= size
    return values.astype(np.int64)


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014): each input bit affects all output bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
