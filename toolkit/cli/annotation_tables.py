"""Tables of `toolkit evaluate --annotations`, on stderr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from toolkit.cli.number_table import number_table
from toolkit.stats import interval_text

PAIRS_SHOWN = 10
"""Pairs of annotators in the table of agreement, those with most items in common."""


def show(results: Mapping[str, object]) -> None:
    """Print what annotations say of models, annotators and their agreement."""
    console = Console(stderr=True, highlight=False, markup=False)
    counts = ", ".join(f"{results[key]:,} {key}" for key in ("annotations", "items", "prompts"))
    console.print(f"{results['file']}: {counts}; 95% intervals over prompts; lengths in characters")
    for reason, count in results["left_out"].items():
        console.print(f"left out: {count:,} rows: {reason}", style="yellow")
    if results["win_rates"]:
        console.print(win_rate_table(results["win_rates"]))
        for row in results["win_rates"]:
            if row["verdict"] == "no verdict":
                console.print(f"{row['model']} against {row['baseline']}: no verdict; {row['power']}")
    if results["ranking"]:
        console.print(ranking_table(results["ranking"]))
    console.print(annotator_table(results["annotators"]))
    if results["agreement"]:
        console.print(agreement_table(results["agreement"]))


def win_rate_table(rows: Sequence[Mapping[str, object]]) -> Table:
    """Return one row per pair of models."""
    columns = ["verdict", "win rate", "ties", "at equal length", "n", "p\n(Holm)"]
    table = number_table("win rates, ties half", ["model", "over"], columns)
    for row in rows:
        rate = {"rate": row["estimate"], "rate_interval": [row["low"], row["high"]]}
        shares = [interval_text(rate, "rate", percent=True), f"{row['tie_share']:.1%}"]
        shares.append(interval_text(row, "length_controlled", percent=True))
        p_value = "<0.0001" if row["p_value_holm"] < 1e-4 else f"{row['p_value_holm']:.4f}"
        table.add_row(row["model"], row["baseline"], row["verdict"], *shares, f"{row['n']:,}", p_value)
    return table


def ranking_table(ranking: Mapping[str, object]) -> Table:
    """One row a model, the strongest first."""
    title = "all models on one scale (Bradley-Terry, ties after Davidson)"
    table = number_table(title, ["model"], ["strength", "wins against the others"])
    for row in ranking["models"]:
        share = interval_text(row, "win_rate", percent=True)
        table.add_row(row["model"], interval_text(row, "strength", digits=2), share)
    return table


def annotator_table(rows: Sequence[Mapping[str, object]]) -> Table:
    """One row an annotator: what else than the answers it may listen to."""
    columns = ["items", "ties", "longer answer wins", "gain of\nfirst position", "orders contradict"]
    table = number_table("annotators", ["annotator"], columns)
    for row in rows:
        length, position = row["length"] or {}, row["position"] or {}
        cells = [
            interval_text(length, "longer_wins", percent=True),
            interval_text(position, "bias", percent=True),
            interval_text(position, "inconsistent", percent=True),
        ]
        table.add_row(row["annotator"], f"{row['items']:,}", f"{row['tie_share']:.1%}", *cells)
    return table


def agreement_table(agreement: Mapping[str, object]) -> Table:
    """Return the agreement of all annotators, and one row per pair of annotators."""
    title = f"agreement: alpha {interval_text(agreement, 'alpha', digits=2)} on {agreement['items']:,} items"
    shown = sorted(agreement["pairs"], key=lambda row: -row["items"])[:PAIRS_SHOWN]
    more = (
        f"; {PAIRS_SHOWN} of {len(agreement['pairs'])} pairs" if len(shown) < len(agreement["pairs"]) else ""
    )
    table = number_table(title + more, ["annotators"], ["items", "agree", "Cohen's kappa"])
    for row in shown:
        accuracy, kappa = interval_text(row, "accuracy", percent=True), interval_text(row, "kappa", digits=2)
        table.add_row(" and ".join(row["annotators"]), f"{row['items']:,}", accuracy, kappa)
    return table
