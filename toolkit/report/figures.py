"""Figures of the report, drawn by matplotlib as SVG."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot, whose backend belongs to the caller: a notebook's

from toolkit.runs import layout

INK, MUTED, GRID = "#22303c", "#6b7a88", "#dfe5ea"
BLUE, ORANGE, GREEN, ROSE, VIOLET = "#2f6db3", "#d9822b", "#2e8b6f", "#c2476b", "#7a5aa8"
COLOURS = [BLUE, ORANGE, GREEN, VIOLET, ROSE, INK]
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
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


def read_metrics(run: Path) -> list[dict]:
    """Return the rows of a run's metrics.jsonl, an empty list where there is none."""
    path = run / layout.METRICS
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def series(rows: Sequence[dict], key: str, over: str = "step") -> tuple[list[float], list[float]]:
    """Return the (x, y) of every row that has both `over` and `key`."""
    pairs = [(row[over], row[key]) for row in rows if row.get(key) is not None and row.get(over) is not None]
    return [x for x, _ in pairs], [y for _, y in pairs]


def smooth(values: Sequence[float], reach: int = 5) -> list[float]:
    """Return the mean of each value and its neighbors, up to `reach` on both sides.

    Both sides always have as many, so that the curve does not lag behind a falling loss; the first and the
    last value stay as they are.
    """
    smoothed = []
    for position in range(len(values)):
        side = min(reach, position, len(values) - 1 - position)
        window = values[position - side : position + side + 1]
        smoothed.append(sum(window) / len(window))
    return smoothed


def pretraining(rows: Sequence[dict], numbers: dict) -> str | None:
    """Draw training loss and held-out bits per byte over tokens, the entropy floor and the start."""
    tokens, loss = series(rows, "loss", "tokens")
    held_tokens, held = series(rows, "bits_per_byte", "tokens")
    if not tokens and not held_tokens:
        return None
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(tokens, loss, color=BLUE, alpha=0.3, linewidth=1)
        left.plot(tokens, smooth(loss), color=BLUE)
        _label(left, "Training loss", "tokens seen", "nats per token")
        right.plot(held_tokens, held, color=BLUE, marker="o", markersize=4, label="held-out text")
        for key, colour, words, above in (
            ("untrained_bits_per_byte", MUTED, "untrained", True),
            ("entropy_floor_bits_per_byte", GREEN, "exact entropy floor", False),  # the curve ends above it
        ):
            if numbers.get(key) is not None:
                right.axhline(numbers[key], color=colour, linestyle="--", linewidth=1.5)
                right.annotate(
                    f"{words} {numbers[key]:.2f}",
                    (1, numbers[key]),
                    xycoords=("axes fraction", "data"),
                    xytext=(0, 4 if above else -4),
                    textcoords="offset points",
                    ha="right",
                    va="bottom" if above else "top",
                    color=colour,
                )
        right.set_ylim(bottom=0)
        _label(right, "Bits per byte, held out", "tokens seen", "")
        for axes in (left, right):
            axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        return _svg(figure)


def tuning(curves: Sequence[tuple[str, Sequence[dict], str, float | None]]) -> str | None:
    """Draw small multiples: (title, rows, key, level to compare with or None) each."""
    drawn = [(title, series(rows, key), level) for title, rows, key, level in curves]
    drawn = [entry for entry in drawn if entry[1][0]]
    if not drawn:
        return None
    columns = min(3, len(drawn))
    count = -(-len(drawn) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 2.9 * count), layout="constrained")
        grid = figure.subplots(count, columns, squeeze=False)
        for axes in grid.flat[len(drawn) :]:
            axes.set_visible(False)
        for axes, (title, (steps, values), level), colour in zip(
            grid.flat, drawn, COLOURS * count, strict=False
        ):
            if len(values) > 12:
                axes.plot(steps, values, color=colour, alpha=0.3, linewidth=1)
                axes.plot(steps, smooth(values), color=colour)
            else:
                axes.plot(steps, values, color=colour, marker="o", markersize=4)
            if level is not None:
                axes.axhline(level, color=MUTED, linestyle="--", linewidth=1.5)
            _label(axes, title, "step", "")
        return _svg(figure)


def win_rates(rows: Sequence[tuple[str, dict]], baseline: str) -> str | None:
    """Draw each model's win rate with its 95% interval, and the line of one half."""
    if not rows:
        return None
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 0.9 + 0.55 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for row, (_, rate) in enumerate(rows):
            colour = MUTED if rate["low"] <= 0.5 <= rate["high"] else GREEN if rate["low"] > 0.5 else ROSE
            axes.plot([rate["low"], rate["high"]], [row, row], color=colour, linewidth=5, alpha=0.4)
            axes.plot(rate["estimate"], row, "o", color=colour, markersize=9)
            axes.annotate(
                f"{rate['estimate']:.0%}",
                (rate["high"], row),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                color=colour,
                fontweight="bold",
            )
        axes.axvline(0.5, color=INK, linewidth=1)
        axes.set_xlim(0, 1.06)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.xaxis.set_major_formatter(ticker.PercentFormatter(1.0))
        axes.grid(axis="y", visible=False)
        _label(axes, f"Win rate against {baseline}, 95% interval", "", "")
        return _svg(figure)


def wins_by_length(models: Sequence[tuple[str, Sequence[dict]]], baseline: str) -> str | None:
    """Draw each model's win rate by how many tokens longer its answers are, with 95% intervals."""
    models = [(name, bins) for name, bins in models if len(bins) > 1]
    if not models:
        return None
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 3.1), layout="constrained")
        grid = figure.subplots(1, len(models), squeeze=False, sharey=True)
        for axes, (name, bins), colour in zip(grid.flat, models, COLOURS * len(models), strict=False):
            x, y = [row["mean_longer"] for row in bins], [row["win_rate"] for row in bins]
            low, high = zip(*(row["win_rate_interval"] for row in bins), strict=True)
            axes.vlines(x, low, high, color=colour, linewidth=4, alpha=0.35)
            axes.plot(x, y, "o-", color=colour, linewidth=1.2)
            axes.axhline(0.5, color=INK, linewidth=1)
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
            _label(axes, name, f"tokens longer than {baseline}", "")
        return _svg(figure)


def reliability(bins: Sequence[dict]) -> str | None:
    """Draw the reliability diagram of a judge with 95% intervals."""
    if len(bins) < 2:
        return None
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.4), layout="constrained")
        axes = figure.subplots()
        x, y = [row["stated"] for row in bins], [row["happened"] for row in bins]
        low, high = zip(*(row["happened_interval"] for row in bins), strict=True)
        axes.plot([0.5, 1], [0.5, 1], color=MUTED, linestyle="--", linewidth=1.5)
        axes.vlines(x, low, high, color=BLUE, linewidth=4, alpha=0.35)
        axes.plot(x, y, "o", color=BLUE)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(ticker.PercentFormatter(1.0))
        axes.set_xlim(0.48, 1.02)
        axes.set_ylim(min(0.4, *low), 1.02)
        _label(axes, "Calibration of the reward model", "stated probability", "share of correct verdicts")
        return _svg(figure)


def scores(models: Sequence[tuple[str, dict[str, float]]]) -> str | None:
    """Draw the distribution of each model's scores: 5 to 95 %, the middle half, the median."""
    if len(models) < 2:
        return None
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 0.9 + 0.45 * len(models)), layout="constrained")
        axes = figure.subplots()
        for row, (_, parts) in enumerate(models):
            axes.plot([parts["0.05"], parts["0.95"]], [row, row], color=BLUE, linewidth=2, alpha=0.4)
            axes.plot([parts["0.25"], parts["0.75"]], [row, row], color=BLUE, linewidth=9, alpha=0.5)
            axes.plot(parts["0.5"], row, "o", color=INK, markersize=6)
        axes.set_ylim(len(models) - 0.5, -0.5)
        axes.set_yticks(range(len(models)), [name for name, _ in models])
        axes.grid(axis="y", visible=False)
        _label(axes, "Scores of the answers: median, middle half, 5 to 95 %", "", "")
        return _svg(figure)


def seconds(stages: dict[str, float]) -> str | None:
    """Draw the seconds of each stage as bars."""
    if not stages:
        return None
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 0.7 + 0.32 * len(stages)), layout="constrained")
        axes = figure.subplots()
        bars = axes.barh(list(stages), list(stages.values()), color=BLUE, height=0.6)
        axes.bar_label(bars, fmt="%.0f s", padding=4, color=INK)
        axes.invert_yaxis()
        axes.margins(x=0.08)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        return _svg(figure)


def _label(axes: Axes, title: str, below: str, side: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(below)
    axes.set_ylabel(side)


def _svg(figure: Figure) -> str:
    """Return the drawing as an `<svg>` element (no XML head), the same bytes for the same numbers."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
