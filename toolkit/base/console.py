"""Tables of numbers for a terminal, and stdout reserved for results."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rich import box
from rich.table import Table


def number_table(title: str, names: Sequence[str], columns: Sequence[str]) -> Table:
    """Return an empty table: names on the left, which may wrap, and numbers on the right, never truncated.

    Columns are one space apart, so that most tables fit into a terminal of 80 columns.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for name in names:
        table.add_column(name, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def tell(message: str) -> None:
    """Print a message for the user on stderr; stdout is for results."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Redirect what a stage and its libraries print to stderr, C code and child processes included."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def print_json(value: Any) -> None:
    """Print one JSON object on stdout; NaN and infinity raise ValueError, since JSON has neither."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))
