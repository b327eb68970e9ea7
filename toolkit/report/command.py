"""`toolkit report`: write the page of finished runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from toolkit.base.errors import RunError
from toolkit.report.page import write_report
from toolkit.runs import layout, seal


def report_command(runs: Sequence[str], *, output: str | None = None) -> int:
    """Write the report of runs, or of all finished runs below a folder; its path goes to stdout."""
    paths = [path for name in runs for path in _finished(Path(name))]
    place = Path(output) if output else _default_place(Path(runs[0]), paths)
    write_report(paths, place)
    print(place)
    return 0


def _finished(path: Path) -> list[Path]:
    if seal.is_sealed(path):
        return [path]
    children = sorted(path.iterdir()) if path.is_dir() else []
    found = [child for child in children if child.is_dir() and seal.is_sealed(child)]
    if not found:
        raise RunError(
            "no finished run is here", where=str(path), fix="run its recipe first: toolkit run RECIPE"
        )
    skipped = [child.name for child in children if (child / layout.MANIFEST).exists() and child not in found]
    if skipped:
        print(f"left out, not finished: {', '.join(skipped)}", file=sys.stderr)
    order = {
        "tokenizer": 0,
        "corpus": 1,
        "pretrain": 2,
        "sft": 3,
        "reward": 4,
        "dpo": 5,
        "ppo": 6,
        "evaluate": 7,
    }
    return sorted(found, key=lambda child: (order.get(child.name, 9), child.name))


def _default_place(first: Path, paths: Sequence[Path]) -> Path:
    folder = first if first not in paths else first.parent
    return folder / ("report.html" if len(paths) > 1 else f"{first.name}-report.html")
