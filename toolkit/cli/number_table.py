"""Tables of numbers for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

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
