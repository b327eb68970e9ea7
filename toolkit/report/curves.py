"""The curves of a stage, of one run or of several: for the report and for notebooks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.config.registry import STAGES, Curve
from toolkit.report import figures
from toolkit.report.figures import Axis, Level, Line, Panel
from toolkit.report.wording import Wording, message, of_registry, say
from toolkit.runs import layout
from toolkit.stats import student_mean

Row = Mapping[str, Any]
"""A line of metrics.jsonl."""
LEVEL_COLOURS = (figures.MUTED, figures.GREEN)


@dataclass(frozen=True)
class Source:
    """The metrics of a run, or of runs that differ in their seeds only.

    Attributes:
        name: of the run, for the legend.
        metrics: rows of metrics.jsonl, one sequence for each seed.
        numbers: of evaluation.json, for the levels; empty while the run is not finished.
    """

    name: str
    metrics: Sequence[Sequence[Row]]
    numbers: Mapping[str, Any]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl, an empty list where there is none."""
    path = run / layout.METRICS
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def series(rows: Sequence[Row], key: str, over: str = "step") -> tuple[list[float], list[float]]:
    """Return the (x, y) of every row that has both `over` and `key`."""
    pairs = [(row[over], row[key]) for row in rows if row.get(key) is not None and row.get(over) is not None]
    return [x for x, _ in pairs], [y for _, y in pairs]


def mean_line(name: str, metrics: Sequence[Sequence[Row]], curve: Curve) -> Line | None:
    """Return the line of one curve: of one run, or the mean of several with its Student interval.

    The mean has the points that all runs have. None without points.
    """
    runs = [dict(zip(*series(rows, curve.metric, curve.over), strict=True)) for rows in metrics]
    x = [place for place in runs[0] if all(place in run for run in runs)] if runs else []
    if not x:
        return None
    if len(runs) == 1:
        return Line(x, [runs[0][place] for place in x], name)
    means = [student_mean([run[place] for run in runs]) for place in x]
    band = ([mean.low for mean in means], [mean.high for mean in means])
    return Line(x, [mean.estimate for mean in means], name, band, is_smoothed=False)


def panels(
    stage: str, sources: Sequence[Source], *, details: bool = False, wording: Wording | None = None
) -> list[Panel]:
    """Return a panel for each curve of a stage that was logged.

    Args:
        details: the curves for experts instead of the others.
        wording: English by default.
    """
    record = STAGES.get(stage)
    curves = [curve for curve in (record.curves if record else ()) if curve.is_detail == details]
    return [
        panel
        for curve in curves
        if (panel := _panel(f"{stage}-{curve.metric}", curve, sources, wording)) is not None
    ]


def _panel(name: str, curve: Curve, sources: Sequence[Source], wording: Wording | None) -> Panel | None:
    found = {source.name: mean_line(source.name, source.metrics, curve) for source in sources}
    lines = {label: line for label, line in found.items() if line is not None}
    if not lines:
        return None
    axis = Axis(
        below=say(message(f"axis.{curve.over}"), wording),
        counts_below=curve.over != "step",
        percent=curve.percent,
        from_zero=curve.from_zero,
    )
    levels = _levels(curve, sources, wording)
    shown = [line if len(lines) > 1 else Line(line.x, line.y, "", line.band, line.is_smoothed)
             for line in lines.values()]  # fmt: skip
    ends = [
        message("panel.ends", name=label, first=_number(line.y[0], curve), last=_number(line.y[-1], curve))
        for label, line in lines.items()
    ]
    return Panel(
        name.replace("/", "-"),
        say(of_registry(curve.title), wording),
        say(message("panel.description", ends=ends), wording),
        lambda axes: figures.draw_lines(axes, shown, levels=levels, axis=axis),
    )


def _levels(curve: Curve, sources: Sequence[Source], wording: Wording | None) -> list[Level]:
    """Return the levels on which all sources agree: with several values, a line has no meaning."""
    levels = []
    for position, (key, text) in enumerate(curve.levels.items()):
        values = {source.numbers.get(key) for source in sources}
        [value] = values if len(values) == 1 else [None]
        if value is not None:
            name = f"{say(of_registry(text), wording)} {_number(value, curve)}"
            levels.append(Level(value, name, LEVEL_COLOURS[position % len(LEVEL_COLOURS)]))
    return levels


def _number(value: float, curve: Curve) -> str:
    return f"{value:.0%}" if curve.percent else f"{value:.3g}"


def draw(stage: str, rows: Sequence[Row], numbers: Mapping[str, Any] | None = None) -> str | None:
    """Return the curves of one run as HTML with `<svg>` elements, None if nothing is logged.

    Args:
        stage: of the run.
        rows: of its metrics.jsonl.
        numbers: of its evaluation.json, for the levels; empty while the run is not finished.
    """
    source = Source("", [rows], numbers or {})
    drawn = [*panels(stage, [source]), *panels(stage, [source], details=True)]
    if not drawn:
        return None
    figures_text = "".join(
        f'<figure style="margin:0;width:21em"><figcaption>{panel.title}</figcaption>{panel.svg()}</figure>'
        for panel in drawn
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:1em">{figures_text}</div>'
