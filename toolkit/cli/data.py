"""`toolkit data`."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from toolkit.cli.parser import Parser, add_json, positive_int
from toolkit.config.data_formats import RowKind

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

    from toolkit.config.schema import DataSource
    from toolkit.data.preview import Preview, PreviewRow

SHOWN_CHARACTERS = 2000
OPEN, CLOSE = "\u27e6", "\u27e7"
"""Marks of what is learned where there are no colours."""


def main(arguments: Sequence[str]) -> int:
    """Return 0, or 2 if no row can be used."""
    parser = Parser(
        "data",
        "Show what a stage would read of your data: the format that is recognised, how many rows are used or "
        "left out and why, and a few rows with the part that is learned. Nothing is trained or written.",
        "toolkit data chats.jsonl\n"
        "toolkit data pairs.csv --as preferences --model runs/tiny/sft\n"
        "toolkit data dump.txt 'separator=<|endoftext|>'\n"
        "toolkit data rows.jsonl 'columns={prompt: frage, completion: antwort}'",
    )
    parser.add_argument(
        "name", metavar="FILE|NAME", help="a file, glob or folder, storyworld, or a Hub dataset"
    )
    parser.add_argument(
        "settings",
        metavar="key=value",
        nargs="*",
        help="further settings of the source, as in a recipe's `data:`",
    )
    parser.add_argument(
        "--as",
        dest="kind",
        choices=[kind.value for kind in RowKind],
        help="what the rows are read as; default: what the first rows hold",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="tokens and chat template of this model; default: the toolkit's template",
    )
    parser.add_argument("--rows", type=positive_int, default=3, metavar="N", help="rows to show; default: 3")
    add_json(parser)
    args = parser.parse_intermixed_args(arguments)

    from toolkit.base.console import print_json
    from toolkit.base.errors import DataError
    from toolkit.data import preview

    tokenizer, source = _tokenizer(args.model), _source(args.name, args.settings)
    kind = RowKind(args.kind) if args.kind else None
    try:
        found = preview.preview(source, tokenizer, kind=kind, count=args.rows)
    except DataError as error:
        error.exit_status = 2  # nothing of it can be used
        raise
    if args.json:
        examples = [row.as_json(tokenizer) for row in found.examples]
        print_json(
            {
                "format": found.format,
                "as": found.kind,
                "rows": found.rows,
                "used": found.used,
                "joined": found.joined,
                "left_out": found.left_out,
                "warnings": found.warnings,
                "examples": examples,
            }
        )
    else:
        _show(found, tokenizer, with_tokens=args.model is not None)
    return 0 if found.used else 2


def _source(name: str, settings: Sequence[str]) -> DataSource:
    from pydantic import ValidationError

    from toolkit.base.errors import Problem, RecipeError
    from toolkit.config.messages import explain
    from toolkit.config.overrides import COMMAND_LINE, Override
    from toolkit.config.schema import DataSource
    from toolkit.config.yaml_source import dotted

    values: dict[str, Any] = {"name": name}
    for override in map(Override.read, settings):
        *parents, key = override.key
        holder = values
        for parent in parents:
            holder = holder.setdefault(str(parent), {})
        holder[str(key)] = override.tree.value
    try:
        return DataSource.model_validate(values)
    except ValidationError as error:
        mistakes = explain(DataSource, values, error.errors(include_url=False))
        raise RecipeError(
            [Problem(COMMAND_LINE, dotted(key), what, kind) for key, what, kind in mistakes]
        ) from None


def _tokenizer(model: str | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, or one of bytes with the toolkit's chat template."""
    from toolkit.data.chat import template

    if model is None:
        from toolkit.stages.tokenizer import learn

        return learn([""], vocab_size=1)
    from toolkit.evaluate import context
    from toolkit.models.tokenizer_loading import load_tokenizer

    tokenizer = load_tokenizer(context.of_current_folder().model_reference(model))
    template.configure(tokenizer)
    return tokenizer


def _show(found: Preview, tokenizer: PreTrainedTokenizerBase, *, with_tokens: bool) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, markup=False)
    print(f"format    {found.format}")
    print(f"read as   {found.kind}")
    print(f"rows      {found.rows:,}")
    print(f"used      {found.used:,}")
    if found.joined:
        print(f"joined    {found.joined:,}: the rejected answers of other rows")
    for reason, count in found.left_out.items():
        first = f"; first: {found.first[reason]}" if reason in found.first else ""
        print(f"left out  {count:,}: {reason}{first}")
    for warning in found.warnings:
        print(f"note      {warning}")
    if not found.used:
        print("nothing of this can be used", file=sys.stderr)
        return
    for number, row in enumerate(found.examples, 1):
        learned = sum(row.is_learned) + len(row.rejected)
        tokens = len(row.ids) + len(row.rejected)
        size = f", {tokens:,} tokens, {learned:,} of them learned" if with_tokens else ""
        console.print(f"\nrow {number}{size}", style="bold")
        _print_row(console, row, tokenizer, with_tokens=with_tokens)


def _print_row(
    console: Console, row: PreviewRow, tokenizer: PreTrainedTokenizerBase, *, with_tokens: bool
) -> None:
    """Print a row; what is learned is green on a terminal, and in marks elsewhere."""
    _print_ids(console, row.ids, row.is_learned, tokenizer, with_tokens)
    if row.rejected:
        console.print("rejected answer", style="bold")
        _print_ids(console, row.rejected, [True] * len(row.rejected), tokenizer, with_tokens)


def _print_ids(
    console: Console,
    ids: Sequence[int],
    is_learned: Sequence[bool],
    tokenizer: PreTrainedTokenizerBase,
    with_tokens: bool,
) -> None:
    """Print ids as text, or as tokens with a bar after each; learned parts are marked."""
    from rich.text import Text

    from toolkit.inference.token_text import token_text, visible

    text = Text()
    for learned, group in itertools.groupby(zip(ids, is_learned, strict=True), key=lambda pair: pair[1]):
        part = [token for token, _ in group]
        if with_tokens:
            shown = "".join(f"{visible(token_text(tokenizer, token))}|" for token in part)
        else:
            shown = tokenizer.decode(part)
        if learned and not console.is_terminal:
            shown = f"{OPEN}{shown}{CLOSE}"
        text.append(shown, style="green" if learned else "")
    if len(text) > SHOWN_CHARACTERS:
        text.truncate(SHOWN_CHARACTERS)
        text.append(f" ... ({len(ids):,} tokens)")
    console.print(text)
