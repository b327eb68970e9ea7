"""The tokenizer and corpus stages."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from toolkit.config.schema.base import (
    Count,
    DataSources,
    ProcessCount,
    StageRecipe,
)


class TokenizerRecipe(StageRecipe):
    """A byte-level BPE tokenizer, trained on text."""

    stage: Literal["tokenizer"]
    data: DataSources
    vocab_size: Annotated[int, Field(ge=262, le=2**20)] = 4096
    """Number of entries, special tokens included. The 256 bytes and the special tokens are always entries."""
    min_frequency: Count = 2
    """Minimum number of occurrences of a pair that is merged."""
    max_characters: Count = 50_000_000
    """Maximum number of characters to train on, which bounds the memory."""


class CorpusRecipe(StageRecipe):
    """Memory-mapped token shards from text, with a train and a held-out part."""

    operational: ClassVar[frozenset[str]] = StageRecipe.operational | {"workers"}

    stage: Literal["corpus"]
    tokenizer: str
    data: DataSources
    shard_tokens: Count = 100_000_000
    """Tokens in one shard file."""
    workers: ProcessCount | None = None
    """Number of tokenizing processes; the default is the number of cores. The shards do not depend on it."""
