"""Tables of a summary for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from toolkit.config.registry import STAGES, Stage
from toolkit.report.summary import (
    RATES,
    BaselineComparison,
    comparisons,
    measured_rates,
    rates_of,
    win_rate_text,
)
from toolkit.stats import interval_text, kl_text


def show(summary: dict, *, console: Console | None = None) -> None:
    """Print the summary as tables on stderr."""
    console = console or Console(stderr=True, highlight=False)
    stages = summary["stages"]
    for name, row in stages.items():
        stage = STAGES.get(row.get("stage"))
        if stage is not None and stage.headline:
            console.print(_headline_table(name, row, stage))
    for comparison in comparisons(summary):
        console.print(_win_rate_table(comparison))
        console.print(_judge_text(comparison))
        rates = rates_table({name: rates_of(row) for name, row in comparison.rows.items()})
        if rates is not None:
            console.print(rates)
    for sample in summary["samples"][:1]:
        console.print(_sample_panel(sample))
    times = ", ".join(f"{name} {row['seconds']:.0f}" for name, row in stages.items() if row.get("seconds"))
    total = sum(row.get("seconds") or 0 for row in stages.values())
    if times:
        console.print(Text(f"seconds: {times}; together {total:.0f}", style="dim"))


def _headline_table(name: str, row: dict, stage: Stage) -> Table:
    table = Table(title=f"{name}: {stage.headline_title}", title_justify="left")
    for column in stage.headline:
        table.add_column(column.heading, justify="right")
    table.add_row(
        *(
            str(row.get(column.key, "-"))
            if column.count
            else interval_text(row, column.key, percent=column.percent)
            for column in stage.headline
        )
    )
    return table


def _win_rate_table(comparison: BaselineComparison) -> Table:
    baseline = comparison.baseline
    counts = sorted({rate["n"] for rate in comparison.win_rates.values()})
    prompts = "/".join(str(count) for count in counts)
    title = f"win rate against {baseline} on {prompts} unseen prompts{comparison.label}"
    table = Table(title=title, title_justify="left")
    columns = ("model", "win rate [95%]", f"KL to {baseline}", "length", "ended", "bits/byte")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for name, row in comparison.rows.items():
        is_baseline, ended = name == baseline, row.get("ended")
        table.add_row(
            name,
            win_rate_text(row, is_baseline=is_baseline, doubt="*"),
            "-" if is_baseline else kl_text(row),
            _number(row, "mean_length", 1),
            "-" if ended is None else f"{ended:.0%}",
            _number(row, "bits_per_byte", 3),
        )
    return table


def rates_table(models: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Return one row per model: what its answers do, without intervals; None if no rate was measured."""
    measured = measured_rates(models)
    if not measured:
        return None
    table = Table(title="what the answers do, in % (intervals: --json)", title_justify="left")
    table.add_column("model", no_wrap=True)
    for rate in measured:
        table.add_column(RATES[rate], justify="right", no_wrap=True)
    for name, rates in models.items():
        cells = ("-" if rates.get(rate) is None else f"{100 * rates[rate]:.1f}" for rate in measured)
        table.add_row(name, *cells)
    return table


def _number(row: dict, key: str, digits: int) -> str:
    """Format a number without its interval, for which a terminal has no room."""
    return "-" if row.get(key) is None else f"{row[key]:.{digits}f}"


def _judge_text(comparison: BaselineComparison) -> Text:
    judge = comparison.judge
    accuracy = interval_text(judge, "accuracy", percent=True)
    text = f"judge: {judge.get('name', '?')}" + (f", accuracy {accuracy}" if accuracy != "-" else "")
    if any(rate.get("verdict") == "no verdict" for rate in comparison.win_rates.values()):
        reason = judge.get("doubt") or "the interval includes one half, or the sign test is not clear"
        text = f"* no verdict: {reason}\n{text}"
    return Text(f"{text}; KL in nats per answer, length in tokens (intervals: --json)", style="dim")


def _sample_panel(sample: dict) -> Panel:
    body = Text()
    for name, answer in sample["answers"].items():
        body.append(f"{name}: ", style="bold")
        body.append(answer.strip() + "\n")
    return Panel(body, title=Text(sample["prompt"].strip()), title_align="left")
