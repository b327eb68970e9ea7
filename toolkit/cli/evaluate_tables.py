"""Tables of `toolkit evaluate`, on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from toolkit.cli.number_table import number_table
from toolkit.evaluate import perplexity
from toolkit.report import reward_table
from toolkit.report.summary import RATES, measured_rates
from toolkit.report.wording import say
from toolkit.runs.evaluation import ModelComparison, ModelEvaluation
from toolkit.stats import estimate_text, interval_text, kl_text


def show(results: ModelComparison) -> None:
    """Print the perplexities and the win rates."""
    console = Console(stderr=True, highlight=False, markup=False)
    models, judge = results.models, results.judge
    of_text = {name: row for name, row in models.items() if row.perplexity is not None}  # not best of n
    if of_text:
        console.print(perplexity_table(of_text, rows=measured_rows(results, "documents")))
        console.print(reading(of_text), style="dim")
        for name, row in of_text.items():
            if row.lost_text is not None:
                console.print(f"{name}: {perplexity.lost_text_note(row)}", style="yellow")
    if judge is not None:
        answering = {name: row for name, row in models.items() if row.mean_length is not None}
        console.print(win_rate_table(answering, judge.baseline, rows=measured_rows(results, "prompts")))
        accuracy = "" if judge.accuracy is None else f", accuracy {estimate_text(judge.accuracy)}"
        power = judge.power or "asked until 50% was excluded; the intervals hold at any time"
        console.print(f"judge: {judge.name}{accuracy}; {power}; KL in nats per answer, length in tokens")
        if judge.position_bias is not None:
            share = interval_text(judge.position_bias, "inconsistent", percent=True)
            console.print(f"verdicts that changed with the order: {share}, counted as ties", style="dim")
        if judge.doubt:
            console.print(f"no verdict: {judge.doubt}", style="yellow")
        golds = {name: row.gold for name, row in models.items()}
        rates = rates_table({name: (gold and gold.rates) or {} for name, gold in golds.items()})
        if rates is not None:
            console.print(rates)


def measured_rows(results: ModelComparison, unit: str) -> str:
    """Return the words that follow a number of rows if a model was trained on some of them.

    Args:
        unit: of the rows, `documents`, `prompts` or `pairs`.
    """
    if results.part == "train":
        return " (training rows)"
    counts = (results.also_in_training or {}).get(unit, {})
    known = [f"{count:,} in the training data of {run}" for run, count in counts.items() if count]
    if known:
        return f" ({', '.join(known)})"
    return " (training rows among them)" if results.part == "all" and results.trained_on else ""


def perplexity_table(models: Mapping[str, ModelEvaluation], *, rows: str = "") -> Table:
    """Return one row per model, and the entropy floor where it is known: no model can be below it.

    Args:
        rows: follows the number of documents.
    """
    first = next(iter(models.values()))
    size = f"{first.documents:,} documents{rows}, {first.bytes:,} bytes"
    compared = any(row.bits_per_byte_difference is not None for row in models.values())
    columns = ["bits per byte", *(["minus baseline"] if compared else []), "perplexity", "by word"]
    table = number_table(f"{size}; 95% intervals over {first.interval_over}", ["model"], columns)
    for name, row in models.items():
        difference = [estimate_text(row.bits_per_byte_difference)] if compared else []
        words = "-" if row.word_perplexity is None else f"{row.word_perplexity:.3g}"
        table.add_row(
            name, estimate_text(row.bits_per_byte), *difference, f"{row.perplexity.estimate:.2f}", words
        )
    if first.entropy_floor_bits_per_byte is not None:
        table.add_row("entropy floor", f"{first.entropy_floor_bits_per_byte:.3f} (exact)", style="dim")
    return table


def reading(models: Mapping[str, ModelEvaluation]) -> str:
    """Return how the text was presented to the models, in words."""

    def distinct(key: str) -> str:
        return "/".join(dict.fromkeys(str(getattr(row, key)) for row in models.values()))

    first, unscored = next(iter(models.values())), distinct("unscored_tokens")
    words = [
        f"window {distinct('window')}",
        f"stride {distinct('stride')}",
        f"prefix {distinct('prefix')}",
        distinct("dtype"),
    ]
    words += [] if first.end_scored else ["end-of-text not scored"]
    words += ["packed"] if first.packed else []
    words += [] if unscored == "0" else [f"{unscored} tokens without context not scored"]
    return ", ".join(words)


def win_rate_table(models: Mapping[str, ModelEvaluation], baseline: str, *, rows: str = "") -> Table:
    """Return one row per model: its win rate against the baseline, KL divergence and answer lengths.

    Args:
        rows: follows the number of prompts.
    """
    prompts = next(iter(models.values())).prompts
    some_unjudged = any(row.win_rate.unjudged for row in models.values() if row.win_rate is not None)
    scored = any(row.score is not None for row in models.values())
    columns = ["verdict", "win rate", *(["judged"] if some_unjudged else []), "equally\nlong", "ties"]
    columns += ["KL", "length", "ended", *(["score"] if scored else [])]
    title = f"win rate against {baseline} on {prompts} prompts{rows}, 95% intervals"
    table = number_table(title, ["model"], columns)
    for name, row in models.items():
        rate = row.win_rate
        cells = ["baseline", *["-"] * (4 if some_unjudged else 3)]
        if rate is not None:
            share = f"{rate.estimate:.1%} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
            num_judged = [f"{rate.n:,}"] if some_unjudged else []
            equal = f"{rate.length_controlled.estimate:.1%}"
            cells = [rate.verdict, share, *num_judged, equal, str(rate.ties)]
        numbers = [kl_text(row.to_json()), f"{row.mean_length.estimate:.1f}", f"{row.ended.estimate:.0%}"]
        numbers += [f"{row.score.estimate:.2f}"] if scored else []
        table.add_row(name, *cells, *numbers)
    return table


def rates_table(models: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Return one row per model: what its answers do, without intervals; None if no rate was measured."""
    measured = measured_rates(models)
    if not measured:
        return None
    columns = [RATES[rate].replace(" ", "\n") for rate in measured]
    table = number_table("what the answers do, in % (intervals: --json)", ["model"], columns)
    for name, rates in models.items():
        cells = ("-" if rates.get(rate) is None else f"{100 * rates[rate]:.1f}" for rate in measured)
        table.add_row(name, *cells)
    return table


def show_reward_models(results: ModelComparison) -> None:
    """Print one table for each reward model."""
    console = Console(stderr=True, highlight=False, markup=False)
    for name, metrics in results.models.items():
        title = f"{name}: {metrics.n} pairs{measured_rows(results, 'pairs')}, 95% intervals"
        table = Table(
            title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=False, pad_edge=False
        )
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        for row in reward_table.table_rows(metrics):
            table.add_row(*(say(cell) for cell in row))
        console.print(table)


def task_table(models: Mapping[str, Mapping[str, Mapping[str, object]]]) -> Table:
    """Return one row for each metric of each task of each model."""
    title = "tasks of lm-evaluation-harness, 95% intervals from its standard errors"
    result = number_table(title, ["model", "task", "metric"], ["value", "n"])
    for name, tasks in models.items():
        for task, row in tasks.items():
            for key in row:
                if f"{key}_interval" in row:
                    count = "-" if row["n"] is None else f"{row['n']:,}"
                    result.add_row(name, task, key, interval_text(row, key), count)
    return result
