"""Named random streams: every random choice depends on (seed, names), never on a global state."""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """Return the seed of the stream `names` of `seed`, an integer in [0, 2**63).

    Streams of different names are independent; adding a stream does not change the others.
    """
    text = "/".join([str(int(seed)), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
