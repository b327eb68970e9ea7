"""What `toolkit verify RUN --replay N` shows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from toolkit.pretrain import step_log
from toolkit.proofs.replay import Replay, as_json, replay_run

ENDS = 5
"""Rows at the beginning and at the end of a long table; those that differ are shown besides, so many."""


def replayed(path: Path, steps: int) -> dict[str, Any]:
    """Replay steps, show what came out on stderr, and return it for the JSON: {"same", "replay"}."""
    result = replay_run(path, steps)
    _show(result)
    found = result.differences
    if found:
        print(f"error: not what the run wrote down, first of all {found[0]}", file=sys.stderr)
        if len(found) > 1:
            print(f"  and {len(found) - 1} more differences", file=sys.stderr)
    else:
        kept = sorted({state.name.rpartition(" ")[0] for state in result.states if state.num_tensors})
        print(
            f"{len(result.recorded)} steps made again: batch, loss and gradient norm have the same bits"
            + (f"; so have weights and optimizer of {', '.join(kept)}" if kept else ""),
            file=sys.stderr,
        )
    return {"same": not found, "replay": as_json(result)}


def _show(result: Replay) -> None:
    console = Console(stderr=True, highlight=False)
    table = Table("step", "batch", "loss", "gradient norm", "", box=None, pad_edge=False)
    rows = list(zip(result.recorded, result.replayed, strict=True))
    wrong = [bool(step_log.differences([old], [new])) for old, new in rows]
    shown = set(range(ENDS)) | set(range(len(rows) - ENDS, len(rows)))
    shown |= set([place for place, differs in enumerate(wrong) if differs][:ENDS])
    before = -1
    for place in sorted(shown & set(range(len(rows)))):
        if place > before + 1:
            table.add_row("...")
        before = place
        old, new = rows[place]
        cells = [_beside(getattr(old, name), getattr(new, name)) for name in ("batch", "loss", "norm")]
        table.add_row(str(old.step), *cells, "[red]differs" if wrong[place] else "same")
    console.print(table)
    if result.states:
        kept = Table("state", "tensors", "", box=None, pad_edge=False)
        for state in result.states:
            word = f"[red]differs: {'; '.join(state.differences[:3])}" if state.differences else "same"
            kept.add_row(state.name, str(state.num_tensors or "-"), word)
        console.print(kept)


def _beside(old: Any, new: Any) -> str:
    """One number where both are the same, else `recorded -> now` with every digit."""
    if old == new or (old != old and new != new):
        return f"{old:.6g}" if isinstance(old, float) else str(old)
    return f"{old!r} -> {new!r}"
