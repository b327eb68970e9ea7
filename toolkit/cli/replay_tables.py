"""Tables of `toolkit verify --replay` and `--incident`, on stderr."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolkit.pretrain import step_log
from toolkit.proofs.incident_replay import IncidentReplay
from toolkit.proofs.replay import Replay

ENDS = 5
"""Rows shown at the beginning and at the end of a long table; as many rows that differ are shown besides."""


def show_replay(replay: Replay) -> None:
    """Print every step with its record, then the checkpoints, then the verdict."""
    _console().print(_step_table(replay))
    if replay.states:
        _console().print(_state_table(replay))
    differences = replay.differences
    if differences:
        more = f"\n  and {len(differences) - 1} more differences" if len(differences) > 1 else ""
        print(f"error: differs from what the run recorded, first: {differences[0]}{more}", file=sys.stderr)
        return
    states = sorted({state.name.rpartition(" ")[0] for state in replay.states if state.num_tensors})
    print(
        f"{len(replay.recorded)} steps replayed: batch, loss and gradient norm have the same bits"
        + (f"; so have weights and optimizer of {', '.join(states)}" if states else ""),
        file=sys.stderr,
    )


def _step_table(replay: Replay) -> Table:
    table = Table("step", "batch", "loss", "gradient norm", "", box=None, pad_edge=False)
    rows = list(zip(replay.recorded, replay.replayed, strict=True))
    differs = [bool(step_log.differences([old], [new])) for old, new in rows]
    shown = {*range(ENDS), *range(len(rows) - ENDS, len(rows))}
    shown |= {*[index for index, value in enumerate(differs) if value][:ENDS]}
    previous = -1
    for index in sorted(shown & {*range(len(rows))}):
        if index > previous + 1:
            table.add_row("...")
        previous = index
        old, new = rows[index]
        cells = [_compared(getattr(old, name), getattr(new, name)) for name in ("batch", "loss", "norm")]
        table.add_row(str(old.step), *cells, Text("differs", style="red") if differs[index] else "same")
    return table


def _state_table(replay: Replay) -> Table:
    table = Table("state", "tensors", "", box=None, pad_edge=False)
    for state in replay.states:
        result = (
            Text(f"differs: {'; '.join(state.differences[:3])}", style="red") if state.differences else "same"
        )
        table.add_row(state.name, str(state.num_tensors or "-"), result)
    return table


def show_incident(incident: IncidentReplay) -> None:
    """Print loss and gradient norm with the recorded ones, then the verdict."""
    table = Table("", "recorded", "now", "", box=None, pad_edge=False)
    for name, (recorded, value) in incident.values.items():
        same = repr(value) == recorded
        table.add_row(name, recorded, repr(value), "same" if same else Text("differs", style="red"))
    _console().print(table)
    if incident.differences_before:
        print(f"error: a step before it differs: {incident.differences_before[0]}", file=sys.stderr)
    result = "reproduced, bit for bit" if incident.reproduced else "error: not reproduced"
    command = f"toolkit batch {incident.run} --step {incident.step}"
    print(f"{result}; `{command}` shows what the step read", file=sys.stderr)


def _compared(old: float | str, new: float | str) -> str:
    """Return one number where both are the same, else `recorded -> now` with every digit."""
    if old == new or (old != old and new != new):
        return f"{old:.6g}" if isinstance(old, float) else str(old)
    return f"{old!r} -> {new!r}"


def _console() -> Console:
    return Console(stderr=True, highlight=False, markup=False)
