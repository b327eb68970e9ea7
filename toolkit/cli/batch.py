"""`toolkit batch`."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tokenizers import Tokenizer

from toolkit.base.errors import UsageError
from toolkit.cli.parser import non_negative_int, positive_int, run_parser
from toolkit.config.schema import PretrainRecipe
from toolkit.data.text.shards import TokenShards
from toolkit.inference.token_text import harmless
from toolkit.proofs import rebuild
from toolkit.proofs.batch import StepBatch, as_json, corpus_of, documents_of, planned_batch, recorded_digest


def main(arguments: Sequence[str]) -> int:
    parser = run_parser(
        "batch",
        "Show which documents and tokens an optimizer step of a pretraining read: from its settings and its "
        "corpus alone, compared with what the run wrote down.",
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

    given = vars(args)
    return batch_command(given.pop("run"), **given)


WORDS_CHARACTERS = 60
"""Of a row's beginning in the table."""


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
    if rebuild.content(path)["stage"] != "pretrain":
        stage = rebuild.content(path)["stage"]
        raise UsageError(
            f"is a run of the stage {stage}: only a pretraining reads its text by a plan that is known",
            where=run, fix="name a pretrain run",
        )  # fmt: skip
    recipe = rebuild.recipe(path)
    assert isinstance(recipe, PretrainRecipe)
    if not 1 <= step <= recipe.steps:
        raise UsageError(
            f"there is no step {step}: this training has {recipe.steps} steps, the first is 1", where=run
        )
    folder = corpus_of(path)
    shards = TokenShards.open(folder / "train")
    batch = planned_batch(recipe, shards, step)
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


def _show(batch: StepBatch, shards: TokenShards, tokenizer: Tokenizer, *, rows: int, text: bool) -> None:
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


def _verdict(batch: StepBatch, recorded: str | None, last: int) -> str:
    if recorded is None:
        return f"the run has not written down step {batch.step} (its last is {last}): nothing to compare with"
    if recorded == batch.digest:
        return "the run wrote down the same batch when it took this step"
    return (
        f"error: the run wrote down another batch when it took this step: {recorded}\n"
        f"  What it read is not what its manifest and its corpus say ({batch.digest}): a changed manifest, "
        "corpus or\n  steps.jsonl, or another version of the toolkit"
    )
