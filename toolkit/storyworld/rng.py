"""Seeded random streams: every draw is a pure function of the stream's names."""

import struct
from bisect import bisect_right
from hashlib import shake_256

_DRAWS_PER_BLOCK = 96  # one block covers nearly every story; hashing it takes about 4 microseconds
_BLOCK = struct.Struct(f"<{_DRAWS_PER_BLOCK}Q")
_SCALE = 2.0**-53


class RandomStream:
    """Counter-based random numbers: block b of a stream is SHAKE-256 of "name/name/.../b".

    The same names give the same numbers in any process, in any order of calls and on any platform.
    """

    __slots__ = ("_block", "_name", "_values")

    def __init__(self, *names: object) -> None:
        self._name = "/".join(map(str, names))
        self._block = 0
        self._values: list[int] = []

    def uniform(self) -> float:
        """Return a float in [0, 1) with 53 random bits."""
        if not self._values:
            digest = shake_256(f"{self._name}/{self._block}".encode()).digest(_BLOCK.size)
            self._values = list(_BLOCK.unpack(digest))
            self._block += 1
        return (self._values.pop() >> 11) * _SCALE

    def index(self, count: int) -> int:
        """Return a uniform integer in [0, count)."""
        return int(self.uniform() * count)

    def weighted(self, cumulative: list[float]) -> int:
        """Return an index drawn by cumulative weights (ascending; the last is the total)."""
        return min(bisect_right(cumulative, self.uniform() * cumulative[-1]), len(cumulative) - 1)

    def choose(self, items):
        """Return a uniformly drawn item of a sequence."""
        return items[self.index(len(items))]

    def child(self, name: object) -> "RandomStream":
        """Return an independent stream below this one."""
        return RandomStream(self._name, name)
