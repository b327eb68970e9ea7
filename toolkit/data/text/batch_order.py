"""Which tokens at which step: a pure function of (corpus digest, seed, step), for any number of processes.

The stream is cut into rows of `sequence_length` inputs, each with the token after it as its last target.
An epoch visits the rows in a permutation of its own; where the cuts fall shifts from epoch to epoch.
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
        sequence_length: inputs of one row; a row reads one token more.
        seed, digest: of the recipe and of the corpus: both change the order.

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
                fix="train on more text, or lower sequence_length",
            )

    @property
    def rows_per_epoch(self) -> int:
        """Rows of one pass; up to two rows' tokens are left out of each, not the same ones each time."""
        return max(1, (self.total_tokens - self.sequence_length) // self.sequence_length)

    def starts(self, step: int, batch_rows: int) -> np.ndarray:
        """Return where the rows of optimizer step `step` (from 0) begin, (batch_rows,) int64."""
        places = np.arange(step * batch_rows, (step + 1) * batch_rows)  # of all rows ever visited
        epochs, places = np.divmod(places, self.rows_per_epoch)
        result = np.empty(batch_rows, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            key = derive(self.seed, "order", self.digest, int(epoch))
            slack = self.total_tokens - 1 - self.rows_per_epoch * self.sequence_length
            rows = permute(places[here], self.rows_per_epoch, key)
            result[here] = rows * self.sequence_length + key % (slack + 1)
        return result

    def epoch(self, step: int, batch_rows: int) -> float:
        """Return how many times the corpus was passed before step `step`."""
        return step * batch_rows / self.rows_per_epoch


def digest(starts: np.ndarray) -> str:
    """Return a short digest of where rows begin, (rows,): with the corpus digest it says what was read."""
    return hashlib.sha256(np.ascontiguousarray(starts, dtype="<i8").tobytes()).hexdigest()[:16]


def batch(shards: TokenShards, order: Order, *, step: int, batch_rows: int) -> np.ndarray:
    """Return the token ids of one step over all processes, (batch_rows, sequence_length + 1) int64."""
    starts = order.starts(step, batch_rows)
    return read_rows(shards, starts, order.sequence_length)


def read_rows(shards: TokenShards, starts: np.ndarray, sequence_length: int) -> np.ndarray:
    """Read rows from their starts, (rows, sequence_length + 1) int64; a process reads only its own."""
    rows = [shards.read(int(start), sequence_length + 1) for start in starts]
    return np.stack(rows).astype(np.int64)


def permute(places: np.ndarray, size: int, key: int) -> np.ndarray:
    """Return where a random permutation of range(size) sends `places`, without holding the permutation.

    A Feistel network over the next even power of two, walked until it lands inside (Black and Rogaway,
    2002, "Ciphers with Arbitrary Finite Domains", section 4). NumPy's own shuffles may change with its
    version; this never does, and needs no memory for a corpus of 10^10 tokens.
    """
    half_bits = max(1, -(-max(size - 1, 1).bit_length() // 2))
    mask = np.uint64((1 << half_bits) - 1)
    shift = np.uint64(half_bits)
    keys = [np.uint64(derive(key, "feistel", number)) for number in range(FEISTEL_ROUNDS)]
    values = np.asarray(places).astype(np.uint64)
    outside = np.ones(values.shape, dtype=bool)
    while outside.any():
        left, right = values[outside] >> shift, values[outside] & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right + round_key) & mask)
        values[outside] = (left << shift) | right
        outside = values >= size
    return values.astype(np.int64)


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014): every input bit flips half of the output bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
