"""Plots of a report as SVG and PDF files, and its tables as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from toolkit.base.errors import UsageError
from toolkit.base.files import write_atomic
from toolkit.report import figures
from toolkit.report.blocks import PageSection, PageTable, Plots, unfolded

KINDS: tuple[Literal["svg", "pdf"], ...] = ("svg", "pdf")


def export(sections: Sequence[PageSection], folder: Path, *, language: str = "en") -> list[Path]:
    """Write every plot and every table of a page to `folder`, and return the files.

    The bytes depend on the numbers, the language and the version of matplotlib only.

    Raises:
        UsageError: the folder cannot be written, or no font has the glyphs of a Japanese page.
    """
    if language == "ja" and figures.japanese_font() is None:
        raise UsageError(
            "no font for Japanese plots is installed",
            where="--export",
            fix=f"install one of {', '.join(figures.JAPANESE_FONTS)}, or export with --language en",
        )
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for section in sections:
            for block in unfolded(section.blocks):
                if isinstance(block, Plots):
                    for panel in block.panels:
                        for kind in KINDS:
                            written.append(folder / f"{file_name(panel.name)}.{kind}")
                            write_atomic(written[-1], panel.file(kind))
                elif isinstance(block, PageTable):
                    written.append(folder / f"{file_name(block.name)}.csv")
                    write_atomic(written[-1], csv_text(block))
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"cannot write there: {reason}", where=str(folder), fix="name a folder that you may write to"
        ) from error
    return written


def csv_text(table: PageTable) -> str:
    """Return a table as CSV: numbers with all digits, and columns for the ends of intervals."""
    has_interval = [
        any(row.cells[place].low is not None for row in table.rows) for place in range(len(table.headings))
    ]
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    head = [table.corner]
    for heading, ends in zip(table.headings, has_interval, strict=True):
        head += [heading, f"{heading} (low)", f"{heading} (high)"] if ends else [heading]
    writer.writerow(head)
    for row in table.rows:
        values: list[object] = [row.name]
        for cell, ends in zip(row.cells, has_interval, strict=True):
            text = "" if cell.text == "-" else cell.text
            values.append(text if cell.value is None else cell.value)
            values += [cell.low, cell.high] if ends else []
        writer.writerow(values)
    return output.getvalue()


def file_name(name: str) -> str:
    """Return a name without signs that a file system or a shell treats specially."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")
