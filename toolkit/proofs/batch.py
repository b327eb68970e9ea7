"""`toolkit batch`: which documents and tokens a step of pretraining read, from manifest and corpus alone."""

from __future__ import annotations

import os
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
from toolkit.runs import layout, metrics, references


@dataclass(frozen=True)
class Batch:
    """What optimizer step `step` (the first is 1) read.

    Attributes:
        starts: where the rows begin in the stream, (rows,); the digest is of these.
        row_tokens: inputs of a full row; length: of a row as the model saw it at this step (`length_warmup`).
        pieces: where the rows that the model saw begin, (rows * row_tokens / length,).
    """

    step: int
    starts: np.ndarray
    row_tokens: int
    length: int

    @property
    def digest(self) -> str:
        return batch_order.digest(self.starts)

    @property
    def pieces(self) -> np.ndarray:
        offsets = np.arange(0, self.row_tokens, self.length)
        return (self.starts[:, None] + offsets).reshape(-1)


def corpus_of(path: Path) -> Path:
    """Return the folder with train/ and tokenizer/ that a pretraining was made from.

    Raises:
        RunError: it is missing, was made again, or its index is not what was sealed. The shards themselves
            are not hashed (a second for each 2 GB): `toolkit verify` does.
    """
    rebuild.require_parents(path)
    parent = rebuild.content(path)["inputs"]["parents"]["tokens"]
    place = Path(os.path.normpath(path.resolve() / parent["path"]))
    folder = references.corpus_folder(place)
    if folder is None:
        raise RunError("is not a corpus: it has no token shards", where=str(place))
    name = (folder / "train" / INDEX).relative_to(place).as_posix()
    if parent["kind"] == "run":
        sealed = files.read_json(place / layout.LOCK)["files"].get(name, {}).get("sha256")
        if files.sha256_file(place / name) != sealed:
            raise RunError(
                f"{name} is not what was sealed: which tokens a step read cannot be told from it",
                where=str(place), fix="put the bytes back, or make the corpus again with --fresh",
            )  # fmt: skip
    return folder


def planned(recipe: PretrainRecipe, shards: TokenShards, step: int) -> Batch:
    """Return what step `step` (from 1) of a training reads, over all processes."""
    row_tokens = recipe.row_tokens()
    plan = batch_order.Order(shards.tokens, row_tokens, seed=recipe.seed, digest=shards.digest)
    starts = plan.starts(step - 1, recipe.batch_tokens // row_tokens)
    return Batch(step, starts, row_tokens, recipe.row_tokens(step - 1))


def recorded_digest(path: Path, step: int) -> tuple[str | None, int]:
    """Return (the digest that the run wrote down for a step, None where it did not; its last step so far)."""
    rows = metrics.read(path / layout.STEPS)
    found = next((row["batch"] for row in reversed(rows) if row["step"] == step), None)
    return found, rows[-1]["step"] if rows else 0


def documents_of(shards: TokenShards, start: int, tokens: int) -> tuple[int, int]:
    """Return (first, last) document of the `tokens` + 1 ids from `start`."""
    begins = shards.document_starts
    first, last = np.searchsorted(begins, np.array([start, start + tokens], begins.dtype), side="right") - 1
    return int(first), int(last)


def as_json(batch: Batch, shards: TokenShards, *, tokens: bool) -> dict[str, Any]:
    """Everything about a step; positions count tokens of the corpus' training part from 0, documents too."""
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
