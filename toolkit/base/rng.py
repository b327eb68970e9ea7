"""Named random streams: every random choice comes from (seed, names), never from a global state."""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """Return the seed of the stream `names` of `seed`, an integer in [0, 2**63).

    Streams of different names are independent, and adding one leaves the others as they were.
    """
    text = "/".join([str(int(seed)), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
