"""`toolkit batch`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.errors import UsageError
from toolkit.cli.parser import non_negative_int, positive_int, run_parser

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

    from toolkit.config.schema import PretrainRecipe
    from toolkit.data.text.shards import TokenShards
    from toolkit.proofs.batch import StepBatch

TEXT_CHARACTERS = 60
"""Characters of a row's beginning in the table."""


def main(arguments: Sequence[str]) -> int:
    parser = run_parser(
        "batch",
        "Show which documents and tokens an optimizer step of a pretraining read, computed from its settings "
        "and its corpus, and compare them with the run's record.",
        "toolkit batch runs/tiny/pretrain --step 100\n"
        "toolkit batch runs/tiny/pretrain --step 1 --rows 2 --text\n"
        "toolkit batch runs/tiny/pretrain --step 1 --json --tokens",
        "a pretrain run, finished or not",
    )
    parser.add_argument("--step", type=positive_int, required=True, metavar="N", help="the first step is 1")
    parser.add_argument("--rows", type=non_negative_int, default=8, metavar="K", help="rows to show; 0: all")
    parser.add_argument("--text", action="store_true", help="show the whole text of the rows")
    parser.add_argument("--tokens", action="store_true", help="with --json: the token ids too")
    args = parser.parse_intermixed_args(arguments)
    if args.tokens and not args.json:
        parser.error("--tokens has an effect only with --json")

    from toolkit.base.console import print_json
    from toolkit.data.text.shards import TokenShards
    from toolkit.proofs import batch as batches

    path = Path(args.run)
    recipe = _recipe(path, args.step)
    folder = batches.corpus_of(path)
    shards = TokenShards.open(folder / "train")
    batch = batches.planned_batch(recipe, shards, args.step)
    recorded, last = batches.recorded_digest(path, args.step)
    same = None if recorded is None else recorded == batch.digest
    if args.json:
        value = batches.as_json(batch, shards, tokens=args.tokens)
        print_json({"run": args.run, **value, "recorded_digest": recorded, "same_as_recorded": same})
    else:
        _show(batch, shards, folder, args)
    print(_comparison(batch, recorded, last), file=sys.stderr)
    return 1 if same is False else 0


def _recipe(run: Path, step: int) -> PretrainRecipe:
    """Return the settings of a pretraining that has this step."""
    from toolkit.proofs import rebuild

    stage = rebuild.content(run)["stage"]
    if stage != "pretrain":
        raise UsageError(
            f"is a run of the stage {stage}: only the batches of a pretraining can be computed",
            where=str(run), fix="name a pretrain run",
        )  # fmt: skip
    recipe = rebuild.recipe(run)
    if step > recipe.steps:
        raise UsageError(f"there is no step {step}: this training has {recipe.steps} steps", where=str(run))
    return recipe


def _show(batch: StepBatch, shards: TokenShards, corpus: Path, args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    from tokenizers import Tokenizer

    from toolkit.proofs.batch import documents_of

    tokenizer = Tokenizer.from_file(str(corpus / "tokenizer" / "tokenizer.json"))
    rows, text = args.rows or len(batch.pieces), args.text
    table = Table("row", "documents", "tokens", "text" if text else "begins with", box=None, pad_edge=False)
    for name in ("row", "documents", "tokens"):
        column = next(column for column in table.columns if column.header == name)
        column.justify, column.no_wrap = "right", True
    for number, start in enumerate(map(int, batch.pieces[:rows]), 1):
        first, last = documents_of(shards, start, batch.length)
        table.add_row(
            str(number), f"{first:,} - {last:,}" if last > first else f"{first:,}",
            f"{start:,} - {start + batch.length:,}",
            # cut here, not by the column: a narrow terminal then shortens the text, not the numbers
            Text(_row_text(shards.read(start, batch.length + 1), tokenizer, whole=text),
                 no_wrap=not text, overflow=None if text else "ellipsis"),
        )  # fmt: skip
    Console(stderr=True, highlight=False, markup=False).print(table)
    left = len(batch.pieces) - rows
    if left > 0:
        print(f"and {left} more rows (--rows 0 shows all)", file=sys.stderr)
    cut = (
        f", of {batch.row_tokens} each, shortened by length_warmup" if batch.length < batch.row_tokens else ""
    )
    print(
        f"step {batch.step}: {len(batch.pieces)} rows of {batch.length} tokens{cut}; "
        f"batch {batch.digest}\n"
        "(documents and tokens of the training part, counted from 0; a row's last token is only a target)",
        file=sys.stderr,
    )


def _row_text(ids: np.ndarray, tokenizer: Tokenizer, *, whole: bool) -> str:
    """Return the text of a row, with visible special tokens; the beginning is one line."""
    from toolkit.inference.token_text import harmless

    text = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    if whole:
        return harmless(text)
    text = harmless(text).replace("\n", "↵").replace("\t", " ")
    return text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 1] + "…"


def _comparison(batch: StepBatch, recorded: str | None, last: int) -> str:
    if recorded is None:
        return f"the run has no record of step {batch.step} (its last is {last}): nothing to compare with"
    if recorded == batch.digest:
        return "the run recorded the same batch at this step"
    return (
        f"error: the run recorded another batch at this step: {recorded}\n"
        f"  Its manifest and its corpus give {batch.digest}: the manifest, the corpus or steps.jsonl\n"
        "  changed, or another version of the toolkit trained it"
    )
