"""The interval of one long text by a block bootstrap over tiles of its bytes.

Neighbouring tokens depend on each other, so runs of tiles are drawn together (stats.block_ratio). Tiles are
cut by bytes of the original text, not by tokens: two models with different tokenizers can be compared tile
by tile. The loss of a token is spread evenly over its bytes; that of tokens without bytes (end-of-text)
counts for the token before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from toolkit.stats import Estimate, block_ratio

FEW_DOCUMENTS = 10
"""With fewer documents the interval is over blocks: resampling 3 documents is uninformative."""
FEWEST_BLOCKS = 20
TILES_OF_A_BLOCK = 8
"""Tiles in a block of a short text: blocks start at every eighth of their length."""
LONGEST_TILE = 128
MOST_TILES = 20_000
"""A very long text has longer tiles instead, because tiles are saved as JSON."""


@dataclass(frozen=True)
class Tiles:
    """Sums over each tile of a text, in lists, which are serialised as JSON.

    Attributes:
        nats, tokens, bytes: of each tile, (tiles,).
        block_tiles: tiles of one block.
        tile_bytes: length of a tile.
    """

    nats: list[float]
    tokens: list[float]
    bytes: list[float]
    block_tiles: int
    tile_bytes: int

    @property
    def block_name(self) -> str:
        """What the interval resamples, in words."""
        return f"blocks of {self.block_tiles * self.tile_bytes} bytes"


def token_bytes(tokenizer: PreTrainedTokenizerBase, document: Sequence[int], total: float) -> np.ndarray:
    """Return the number of bytes of each token of a document of `total` bytes, (tokens,) float64.

    Exact for byte-level tokenizers, whose pieces have one character per byte; for others in proportion to
    the lengths of the pieces.
    """
    unique, inverse = np.unique(np.asarray(document, dtype=np.int64), return_inverse=True)
    pieces = tokenizer.convert_ids_to_tokens(unique.tolist())
    sizes = np.array([len(piece) for piece in pieces], dtype=np.float64)[inverse]
    return sizes * (total / sizes.sum()) if sizes.sum() else sizes


def tiles(nats: np.ndarray, sizes: np.ndarray, scored: np.ndarray, *, window: int) -> Tiles:
    """Return the sums over each tile of a text.

    Args:
        nats: -log p of consecutive tokens, 0 for tokens that are not scored, (tokens,).
        sizes: bytes of each token, (tokens,); only their sum decides where tiles are cut.
        scored: 1 for scored tokens, else 0, (tokens,).
        window: window length in tokens, which is the block length if this gives enough blocks.
    """
    total = round(float(sizes.sum()))
    tile = max(1, -(-total // MOST_TILES), min(LONGEST_TILE, total // (FEWEST_BLOCKS * TILES_OF_A_BLOCK)))
    edges = np.append(np.arange(0, total, tile, dtype=np.float64), float(total))
    block = max(1, min(round(window * total / len(nats)), total // FEWEST_BLOCKS))
    ends = np.cumsum(sizes)
    return Tiles(
        nats=_spread(nats, ends, edges).tolist(),
        tokens=_spread(scored, ends, edges).tolist(),
        bytes=np.diff(edges).tolist(),
        block_tiles=max(1, round(block / tile)),
        tile_bytes=tile,
    )


def _spread(values: np.ndarray, ends: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Sum values that are spread over the bytes up to their ends between the edges, (tiles,)."""
    last = np.append(ends[1:] > ends[:-1], True)  # the last of the tokens that end at the same byte
    positions = np.append(0.0, ends[last])
    sums = np.append(0.0, np.cumsum(values)[last])
    if len(positions) > 1 and positions[1] == 0:  # an empty document at the beginning
        positions, sums = np.delete(positions, 1), np.delete(sums, 1)
    positions[-1] = edges[-1]  # removes the rounding error of the sum
    return np.diff(np.interp(edges, positions, sums))


def bits_per(unit: Literal["bytes", "tokens"], tiled: Tiles, *, seed: int) -> Estimate:
    """Estimate bits per unit of a text in tiles."""
    bits = np.asarray(tiled.nats) / math.log(2)
    units = tiled.bytes if unit == "bytes" else tiled.tokens
    return block_ratio(bits, units, block=tiled.block_tiles, seed=seed)


def difference(first: Tiles, second: Tiles, *, seed: int) -> Estimate:
    """Estimate bits per byte minus those of another model on the same text, tile by tile.

    Blocks have the length of the longer blocks of the two.
    """
    bits = (np.asarray(first.nats) - np.asarray(second.nats)) / math.log(2)
    block = max(first.block_tiles, second.block_tiles)
    return block_ratio(bits, first.bytes, block=block, seed=seed)
