"""Plots of the report, drawn by matplotlib: as SVG in a page, and as SVG and PDF files.

Each plot is one small panel, so that a page can place several beside each other on a desktop and below each
other on a phone, with text of the same size.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from matplotlib import font_manager, rc_context, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot, whose backend belongs to the caller: a notebook's

INK, MUTED, GRID = "#22303c", "#566472", "#dfe5ea"
BLUE, ORANGE, GREEN, ROSE, VIOLET = "#2a66ab", "#b4600f", "#21765d", "#b93a61", "#7153a4"
COLOURS = [BLUE, ORANGE, GREEN, VIOLET, ROSE, INK]
THEME = {
    INK: "ink", MUTED: "muted", GRID: "grid", BLUE: "blue", ORANGE: "orange", GREEN: "green", ROSE: "rose",
    VIOLET: "violet",
}  # fmt: skip
"""Colour -> the CSS variable that replaces it in a page, which has other colours on a dark background."""
DASHES = ["-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1, 1)), (0, (9, 2))]
"""Lines differ in more than their colour."""
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "svg.fonttype": "none",
    "svg.hashsalt": "toolkit",
}
WIDTH = 4.6
"""Inches of a panel: 331 units of its SVG, about one CSS pixel each on a phone."""
TEXT_SIZE = 12
MANY_POINTS = 12
"""A curve of more points is shown smoothed, over its points in a lighter line."""
JAPANESE_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "IPAexGothic",
    "IPAGothic",
    "Hiragino Sans",
    "Yu Gothic",
)


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        name: of its files, without a suffix.
        title: what it shows.
        description: what it says, for a reader who does not see it.
        draw: draws it.
        height: inches.
    """

    name: str
    title: str
    description: str
    draw: Callable[[Axes], None]
    height: float = 3.0

    def svg(self) -> str:
        """Return an `<svg>` element whose colours are CSS variables; the same bytes for the same numbers.

        The title is not part of it.
        """
        with self._figure(salt=self.name) as figure:
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        return _for_page(buffer.getvalue(), f"{self.title}. {self.description}")

    def file(self, kind: Literal["svg", "pdf"]) -> bytes:
        """Return the plot with its title as a file; a PDF embeds its fonts. No date is written."""
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"CreationDate": None}
        with self._figure(salt=self.name, title=True) as figure:
            figure.savefig(buffer, format=kind, metadata=metadata)
        return buffer.getvalue()

    @contextmanager
    def _figure(self, *, salt: str, title: bool = False):
        style: dict[str, Any] = STYLE | {"font.size": TEXT_SIZE, "svg.hashsalt": salt, "pdf.fonttype": 42}
        if title and not self.title.isascii():
            style["font.family"] = ["DejaVu Sans", *filter(None, [japanese_font()])]
            style["pdf.fonttype"] = 3  # type 42 declares outlines of OpenType fonts wrongly
        with rc_context(style), warnings.catch_warnings():
            # The page's fonts have the Japanese glyphs that matplotlib's own does not have.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            height = self.height + (0.3 if title else 0.0)
            figure = Figure(figsize=(WIDTH, height))
            axes = figure.subplots()
            self.draw(axes)
            if title:
                axes.set_title(self.title)
            _set_margins(figure, axes, top=0.4 if title else 0.1)
            yield figure


def japanese_font() -> str | None:
    """Return an installed font with Japanese glyphs, None if there is none of those that are known."""
    installed = set(font_manager.get_font_names())
    return next((name for name in JAPANESE_FONTS if name in installed), None)


def _set_margins(figure: Figure, axes: Axes, *, top: float) -> None:
    """Leave room for the labels, in inches; a layout engine of matplotlib would draw every plot twice."""
    width, height = figure.get_size_inches()
    bottom = (0.3 if axes.get_xticks().size else 0.1) + 0.22 * bool(axes.get_xlabel())
    # First the height, on which the ticks depend.
    figure.subplots_adjust(bottom=bottom / height, top=1 - top / height, right=1 - 0.22 / width)
    labels = axes.yaxis.get_major_formatter().format_ticks(axes.get_yticks())
    left = 0.14 + 0.108 * max(map(len, labels), default=0) + 0.3 * bool(axes.get_ylabel())
    figure.subplots_adjust(left=left / width)


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes:
        label: in the legend; empty without one.
        band: lower and upper end of an interval at every point.
        is_smoothed: whether a line of many points is smoothed.
    """

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    band: tuple[Sequence[float], Sequence[float]] | None = None
    is_smoothed: bool = True


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line; its name is in the legend."""

    value: float
    name: str
    colour: str = MUTED


@dataclass(frozen=True)
class Axis:
    """How the axes of a plot are labelled and scaled."""

    below: str = ""
    side: str = ""
    counts_below: bool = False
    """Large numbers below have an SI prefix: 400k."""
    log_from: float | None = None
    """The scale below is linear up to this value and logarithmic from it on."""
    percent: bool = False
    from_zero: bool = False


def smooth(values: Sequence[float], reach: int = 5) -> list[float]:
    """Return at each position the parabola that fits the value and up to `reach` neighbors on both sides.

    A moving mean lies above a falling loss where the fall slows down; a parabola follows it (Savitzky and
    Golay, 1964, with degree 2). Both sides always have as many values, so that the curve does not lag, and
    the result stays within them, so that a share stays one.
    """
    points = np.asarray(values, dtype=float)
    smoothed = []
    for position in range(len(points)):
        side = min(reach, position, len(points) - 1 - position)
        window = points[position - side : position + side + 1]
        value = window @ _parabola_weights(side)
        smoothed.append(float(np.clip(value, window.min(), window.max())))
    return smoothed


@cache
def _parabola_weights(side: int) -> np.ndarray:
    """Return the weights of 2 * side + 1 values in the parabola that fits them, at its middle."""
    if side < 2:  # a parabola goes through three values
        return np.eye(2 * side + 1)[side]
    return np.linalg.pinv(np.vander(np.arange(-side, side + 1), 3))[2]


def draw_lines(axes: Axes, lines: Sequence[Line], *, levels: Sequence[Level] = (), axis: Axis) -> None:
    """Draw lines, their intervals, and levels to compare them with."""
    for position, line in enumerate(lines):
        colour, dash = COLOURS[position % len(COLOURS)], DASHES[position % len(DASHES)]
        label = {"label": line.label} if line.label else {}
        if line.band is not None:
            axes.fill_between(line.x, *line.band, color=colour, alpha=0.2, linewidth=0)
        if line.is_smoothed and len(line.x) > MANY_POINTS:
            if len(lines) == 1:
                axes.plot(line.x, line.y, color=colour, alpha=0.35, linewidth=1)
            axes.plot(line.x, smooth(line.y), color=colour, linestyle=dash, **label)
        else:
            marker = {"marker": "o", "markersize": 4} if len(line.x) <= 4 * MANY_POINTS else {}
            axes.plot(line.x, line.y, color=colour, linestyle=dash, **marker, **label)
    for level in levels:
        axes.axhline(level.value, color=level.colour, linestyle="--", linewidth=1.5, label=level.name)
    _scale(axes, axis)
    if levels or any(line.label for line in lines):
        axes.legend(fontsize=TEXT_SIZE - 1)


def _scale(axes: Axes, axis: Axis) -> None:
    axes.set_xlabel(axis.below)
    axes.set_ylabel(axis.side)
    if axis.log_from is not None:
        axes.set_xscale("symlog", linthresh=axis.log_from)
    else:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    if axis.counts_below:
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    if axis.percent:
        axes.yaxis.set_major_formatter(_percent)
    if axis.from_zero:
        axes.set_ylim(bottom=0)


def _percent(share: float, _: int | None = None) -> str:
    return f"{round(100 * share, 3):g}%"


def draw_shares(axes: Axes, rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Draw an estimate with its interval for each row, and the line of one half: win rates."""
    for row, (_, rate) in enumerate(rows):
        low, high = rate.get("low"), rate.get("high")
        has_interval = low is not None and high is not None
        colour = MUTED
        if has_interval:
            colour = MUTED if low <= 0.5 <= high else GREEN if low > 0.5 else ROSE
            axes.plot([low, high], [row, row], color=colour, linewidth=5, alpha=0.4)
        axes.plot(rate["estimate"], row, "o", color=colour, markersize=8)
        axes.annotate(
            f"{rate['estimate']:.0%}",
            (max(0.0, high if has_interval else rate["estimate"]), row),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight="bold",
        )
    axes.axvline(0.5, color=INK, linewidth=1)
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(_percent)
    _name_rows(axes, [name for name, _ in rows])


def draw_wins_by_length(axes: Axes, bins: Sequence[dict[str, Any]], *, below: str) -> None:
    """Draw a win rate by how many tokens longer the answers are, with 95% intervals."""
    x, y = [row["mean_longer"] for row in bins], [row["win_rate"] for row in bins]
    low, high = zip(*(row["win_rate_interval"] for row in bins), strict=True)
    axes.vlines(x, low, high, color=BLUE, linewidth=4, alpha=0.35)
    axes.plot(x, y, "o-", color=BLUE, linewidth=1.2)
    axes.axhline(0.5, color=INK, linewidth=1)
    axes.set_ylim(0, 1)
    _scale(axes, Axis(below=below, percent=True))


def draw_reliability(axes: Axes, bins: Sequence[dict[str, Any]], *, below: str, side: str) -> None:
    """Draw the reliability diagram of a judge with 95% intervals."""
    x, y = [row["stated"] for row in bins], [row["happened"] for row in bins]
    low, high = zip(*(row["happened_interval"] for row in bins), strict=True)
    axes.plot([0.5, 1], [0.5, 1], color=MUTED, linestyle="--", linewidth=1.5)
    axes.vlines(x, low, high, color=BLUE, linewidth=4, alpha=0.35)
    axes.plot(x, y, "o", color=BLUE)
    axes.xaxis.set_major_formatter(_percent)
    axes.yaxis.set_major_formatter(_percent)
    axes.set_xlim(0.48, 1.02)
    axes.set_ylim(min(0.4, *low), 1.02)
    axes.set_xlabel(below)
    axes.set_ylabel(side)


def draw_quantiles(axes: Axes, models: Sequence[tuple[str, dict[str, float]]]) -> None:
    """Draw the distribution of each model's scores: 5 to 95 %, the middle half, the median."""
    for row, (_, parts) in enumerate(models):
        axes.plot([parts["0.05"], parts["0.95"]], [row, row], color=BLUE, linewidth=2, alpha=0.4)
        axes.plot([parts["0.25"], parts["0.75"]], [row, row], color=BLUE, linewidth=9, alpha=0.5)
        axes.plot(parts["0.5"], row, "o", color=INK, markersize=6)
    _name_rows(axes, [name for name, _ in models])


def draw_seconds(axes: Axes, stages: dict[str, float]) -> None:
    """Draw the seconds of each stage as bars."""
    bars = axes.barh(range(len(stages)), list(stages.values()), color=BLUE, height=0.6)
    axes.bar_label(bars, labels=[f"{seconds:,.0f} s" for seconds in stages.values()], padding=4, color=INK)
    axes.margins(x=0.18)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    _name_rows(axes, list(stages))


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="y", visible=False)


def row_height(rows: int) -> float:
    """Return the inches of a plot with named rows."""
    return 0.7 + 0.36 * rows


def _for_page(text: str, label: str) -> str:
    """Return matplotlib's SVG for a page: scales with its place, themed, with a text alternative."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # the names of another panel's groups are the same
    text = re.sub(r">\s+<", "><", text).replace("<defs></defs>", "")
    for colour, name in THEME.items():
        text = text.replace(colour, f"var(--{name}, {colour})")
    escaped = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    return f'<svg role="img" aria-label="{escaped}" {box[0]}>' + text[text.index(">") + 1 :].strip()
