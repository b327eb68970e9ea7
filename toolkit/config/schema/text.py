"""The tokenizer and corpus stages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from toolkit.config.schema.base import (
    Count,
    DataSources,
    StageRecipe,
)


class TokenizerRecipe(StageRecipe):
    """Byte-level BPE, learned from text."""

    stage: Literal["tokenizer"]
    data: DataSources
    vocab_size: Annotated[int, Field(ge=262, le=2**20)] = 4096
    """Entries, special tokens included (256 bytes and the special tokens are always there)."""
    min_frequency: Count = 2
    """A pair is merged only if it occurs at least so often."""
    max_characters: Count = 50_000_000
    """Learn from at most so many characters: memory stays bounded."""


class CorpusRecipe(StageRecipe):
    """Text to memory-mapped token shards, with a train and a held-out part."""

    stage: Literal["corpus"]
    tokenizer: str
    data: DataSources
    shard_tokens: Count = 100_000_000
    """Tokens in one shard file."""
    workers: Count | None = None
    """Processes that tokenize; default the number of cores. The shards do not depend on it."""
