"""`toolkit batch`: which documents and tokens a step of pretraining read, from manifest and corpus alone."""

from __future__ import annotations

import json as json_format
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tokenizers import Tokenizer

from toolkit.data import order
from toolkit.data.tokens import INDEX, TokenShards
from toolkit.recipe.errors import RunError, UsageError
from toolkit.recipe.schema import PretrainRecipe
from toolkit.runs import files, lock, metrics, references, twin
from toolkit.see.text import harmless

WORDS_CHARACTERS = 60
"""Of a row's beginning in the table."""


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
        return order.digest(self.starts)

    @property
    def pieces(self) -> np.ndarray:
        offsets = np.arange(0, self.row_tokens, self.length)
        return (self.starts[:, None] + offsets).reshape(-1)


def batch_command(
    run: str, *, step: int, rows: int = 8, text: bool = False, tokens: bool = False, json: bool = False
) -> int:
    """Show what a step read; returns 1 where the run's own record says that it read something else.

    Args:
        step: from 1 on.
        rows: so many are shown, 0 all; the JSON always has all.
        text: show the rows' whole text in place of its beginning.
        tokens: put the token ids into the JSON.

    Raises:
        ToolkitError: no pretraining, a step beyond its end, or another corpus than the run's.
    """
    path = Path(run)
    if twin.content(path)["stage"] != "pretrain":
        stage = twin.content(path)["stage"]
        raise UsageError(
            f"is a run of the stage {stage}: only a pretraining reads its text by a plan that is known",
            where=run, fix="name a pretrain run",
        )  # fmt: skip
    recipe = twin.recipe(path)
    assert isinstance(recipe, PretrainRecipe)
    if not 1 <= step <= recipe.steps:
        raise UsageError(
            f"there is no step {step}: this training has {recipe.steps} steps, the first is 1", where=run
        )
    folder = corpus_of(path)
    shards = TokenShards.open(folder / "train")
    batch = planned(recipe, shards, step)
    recorded, last = recorded_digest(path, step)
    same = None if recorded is None else recorded == batch.digest
    if json:
        value = as_json(batch, shards, tokens=tokens)
        value = {"run": run, **value, "recorded_digest": recorded, "same_as_recorded": same}
        print(json_format.dumps(value, ensure_ascii=False))
    else:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
        _show(batch, shards, tokenizer, rows=rows or len(batch.pieces), text=text)
    print(_verdict(batch, recorded, last), file=sys.stderr)
    return 1 if same is False else 0


def corpus_of(path: Path) -> Path:
    """Return the folder with train/ and tokenizer/ that a pretraining was made from.

    Raises:
        RunError: it is missing, was made again, or its index is not what was sealed. The shards themselves
            are not hashed (a second for each 2 GB): `toolkit verify` does.
    """
    twin.require_parents(path)
    parent = twin.content(path)["inputs"]["parents"]["tokens"]
    place = Path(os.path.normpath(path.resolve() / parent["path"]))
    folder = references.corpus_folder(place)
    if folder is None:
        raise RunError("is not a corpus: it has no token shards", where=str(place))
    name = (folder / "train" / INDEX).relative_to(place).as_posix()
    if parent["kind"] == "run":
        sealed = files.read_json(place / lock.LOCK)["files"].get(name, {}).get("sha256")
        if files.sha256_file(place / name) != sealed:
            raise RunError(
                f"{name} is not what was sealed: which tokens a step read cannot be told from it",
                where=str(place), fix="put the bytes back, or make the corpus again with --fresh",
            )  # fmt: skip
    return folder


def planned(recipe: PretrainRecipe, shards: TokenShards, step: int) -> Batch:
    """Return what step `step` (from 1) of a training reads, over all processes."""
    row_tokens = recipe.row_tokens()
    plan = order.Order(shards.tokens, row_tokens, seed=recipe.seed, digest=shards.digest)
    starts = plan.starts(step - 1, recipe.batch_tokens // row_tokens)
    return Batch(step, starts, row_tokens, recipe.row_tokens(step - 1))


def recorded_digest(path: Path, step: int) -> tuple[str | None, int]:
    """Return (the digest that the run wrote down for a step, None where it did not; its last step so far)."""
    rows = metrics.read(path / metrics.STEPS)
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


def _show(batch: Batch, shards: TokenShards, tokenizer: Tokenizer, *, rows: int, text: bool) -> None:
    table = Table("row", "documents", "tokens", "text" if text else "begins with", box=None, pad_edge=False)
    for name in ("row", "documents", "tokens"):
        column = next(column for column in table.columns if column.header == name)
        column.justify, column.no_wrap = "right", True
    for number, start in enumerate(map(int, batch.pieces[:rows]), 1):
        first, last = documents_of(shards, start, batch.length)
        table.add_row(
            str(number), f"{first:,} - {last:,}" if last > first else f"{first:,}",
            f"{start:,} - {start + batch.length:,}",
            # cut here, not by the column: a narrow terminal then takes from the text, not from the numbers
            Text(_words(shards.read(start, batch.length + 1), tokenizer, whole=text),
                 no_wrap=not text, overflow=None if text else "ellipsis"),
        )  # fmt: skip
    Console(stderr=True, highlight=False).print(table)
    left = len(batch.pieces) - rows
    if left > 0:
        print(f"and {left} more rows (--rows 0 shows all)", file=sys.stderr)
    cut = f", each of {batch.row_tokens} cut by length_warmup" if batch.length < batch.row_tokens else ""
    print(
        f"step {batch.step}: {len(batch.pieces)} rows of {batch.length} tokens{cut}; "
        f"batch {batch.digest}\n"
        "(documents and tokens of the training part, counted from 0; a row's last token is only a target)",
        file=sys.stderr,
    )


def _words(ids: np.ndarray, tokenizer: Tokenizer, *, whole: bool) -> str:
    """The text of a row: special tokens visible, line ends as a sign; cut characters as a sign, too."""
    text = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    if whole:
        return harmless(text)
    text = harmless(text).replace("\n", "↵").replace("\t", " ")
    return text if len(text) <= WORDS_CHARACTERS else text[: WORDS_CHARACTERS - 1] + "…"


def _verdict(batch: Batch, recorded: str | None, last: int) -> str:
    if recorded is None:
        return f"the run has not written down step {batch.step} (its last is {last}): nothing to compare with"
    if recorded == batch.digest:
        return "the run wrote down the same batch when it took this step"
    return (
        f"error: the run wrote down another batch when it took this step: {recorded}\n"
        f"  What it read is not what its manifest and its corpus say ({batch.digest}): a changed manifest, "
        "corpus or\n  steps.jsonl, or another version of the toolkit"
    )
