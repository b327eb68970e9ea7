"""Recompute documents and tokens of a pretraining step, from its manifest and its corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.config.schema import PretrainRecipe
from toolkit.data.text import batch_order
from toolkit.data.text.shards import INDEX, TokenShards
from toolkit.proofs import rebuild
from toolkit.runs import layout, metrics, references, seal


@dataclass(frozen=True)
class StepBatch:
    """The rows that an optimizer step read."""

    step: int
    """Counted from 1."""
    starts: np.ndarray
    """Positions in the corpus at which the rows begin, (rows,)."""
    row_tokens: int
    """Inputs of a full row."""
    length: int
    """Inputs of a row as the model saw it at this step, fewer during `length_warmup`."""

    @property
    def digest(self) -> str:
        """The digest of `starts` that steps.jsonl records."""
        return batch_order.digest(self.starts)

    @property
    def pieces(self) -> np.ndarray:
        """Positions at which the rows that the model saw begin, (rows * row_tokens / length,)."""
        offsets = np.arange(0, self.row_tokens, self.length)
        return (self.starts[:, None] + offsets).reshape(-1)


def corpus_of(path: Path) -> Path:
    """Return the folder with train/ and tokenizer/ that a pretraining read.

    Raises:
        RunError: it is missing, was replaced, or its index is not what was sealed. The shards are not hashed
            here (a second for each 2 GB): `toolkit verify` does that.
    """
    rebuild.require_parents(path)
    parent = rebuild.content(path)["inputs"]["parents"]["tokens"]
    corpus = seal.parent_path(path, parent["path"])
    folder = references.corpus_folder(corpus)
    if folder is None:
        raise RunError("is not a corpus: it has no token shards", where=str(corpus))
    index = (folder / "train" / INDEX).relative_to(corpus).as_posix()
    if parent["kind"] == "run":
        sealed = files.read_json(corpus / layout.LOCK)["files"].get(index, {}).get("sha256")
        if files.sha256_file(corpus / index) != sealed:
            raise RunError(
                f"{index} is not what was sealed, so the tokens of a step cannot be determined",
                where=str(corpus), fix="restore the file, or run the corpus stage again with --fresh",
            )  # fmt: skip
    return folder


def planned_batch(recipe: PretrainRecipe, shards: TokenShards, step: int) -> StepBatch:
    """Return the batch that step `step` (from 1) of a training reads, over all processes."""
    row_tokens = recipe.row_tokens()
    order = batch_order.Order(shards.tokens, row_tokens, seed=recipe.seed, digest=shards.digest)
    starts = order.starts(step - 1, recipe.batch_tokens // row_tokens)
    return StepBatch(step, starts, row_tokens, recipe.row_tokens(step - 1))


def recorded_digest(path: Path, step: int) -> tuple[str | None, int]:
    """Return the digest that the run recorded for a step, None if it has none, and its last recorded step."""
    rows = metrics.read(path / layout.STEPS)
    digest = next((row["batch"] for row in reversed(rows) if row["step"] == step), None)
    return digest, rows[-1]["step"] if rows else 0


def documents_of(shards: TokenShards, start: int, tokens: int) -> tuple[int, int]:
    """Return the first and last document of the `tokens` + 1 ids from `start`."""
    begins = shards.document_starts
    first, last = np.searchsorted(begins, np.array([start, start + tokens], begins.dtype), side="right") - 1
    return int(first), int(last)


def as_json(batch: StepBatch, shards: TokenShards, *, tokens: bool) -> dict[str, Any]:
    """Return a batch as JSON; tokens and documents of the corpus' training part are counted from 0."""
    rows: list[dict[str, Any]] = []
    for start in map(int, batch.pieces):
        first, last = documents_of(shards, start, batch.length)
        row: dict[str, Any] = {"start": start, "end": start + batch.length + 1, "documents": [first, last]}
        if tokens:
            row["tokens"] = shards.read(start, batch.length + 1).tolist()
        rows.append(row)
    return {
        "step": batch.step, "digest": batch.digest, "corpus_digest": shards.digest,
        "row_starts": batch.starts.tolist(), "row_tokens": batch.row_tokens, "length": batch.length,
        "rows": rows,
    }  # fmt: skip
