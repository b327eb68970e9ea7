"""The tables that `toolkit evaluate` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table


def number_table(title: str, names: Sequence[str], columns: Sequence[str]) -> Table:
    """An empty table: names to the left, which may fold, and numbers to the right, which are never cut.

    One space stands between columns: most tables then fit into the 80 columns of a small terminal.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for name in names:
        table.add_column(name, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
