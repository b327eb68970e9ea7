"""`toolkit evaluate --annotations`: judgements that exist already."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from toolkit.base.console import number_table
from toolkit.cli.parser import Parser, non_negative_int
from toolkit.data.chat.annotations import read
from toolkit.evaluate.annotations import PAIRS_SHOWN, measure
from toolkit.stats import interval_text


def annotations_command(file: str, *, baseline: str | None = None, seed: int = 0, json: bool = False) -> int:
    """Print what a file of annotations says: tables on stderr, or one JSON object on stdout.

    Raises:
        DataError: a file that cannot be read, or models that were never compared with each other.
        UsageError: no annotation names the baseline.
    """
    results = measure(read(file), file=file, baseline=baseline, seed=seed)
    if json:
        print(json_format.dumps(results, ensure_ascii=False, allow_nan=False))
    else:
        show(results)
    return 0


def show(results: dict[str, object]) -> None:
    """Print the numbers as tables on stderr."""
    console = Console(stderr=True, highlight=False)
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


def win_rate_table(rows: Sequence[dict[str, object]]) -> Table:
    """One row a pair of models."""
    columns = ["verdict", "win rate", "ties", "at equal length", "n", "p\n(Holm)"]
    table = number_table("win rates, ties half", ["model", "over"], columns)
    for row in rows:
        rate = {"rate": row["estimate"], "rate_interval": [row["low"], row["high"]]}
        shares = [interval_text(rate, "rate", percent=True), f"{row['tie_share']:.1%}"]
        shares.append(interval_text(row, "length_controlled", percent=True))
        p_value = "<0.0001" if row["p_value_holm"] < 1e-4 else f"{row['p_value_holm']:.4f}"
        table.add_row(row["model"], row["baseline"], row["verdict"], *shares, f"{row['n']:,}", p_value)
    return table


def ranking_table(ranking: dict[str, object]) -> Table:
    """One row a model, the strongest first."""
    title = "all models on one scale (Bradley-Terry, ties after Davidson)"
    table = number_table(title, ["model"], ["strength", "wins against the others"])
    for row in ranking["models"]:
        share = interval_text(row, "win_rate", percent=True)
        table.add_row(row["model"], interval_text(row, "strength", digits=2), share)
    return table


def annotator_table(rows: Sequence[dict[str, object]]) -> Table:
    """One row an annotator: what else than the answers it may listen to."""
    columns = ["items", "ties", "longer answer wins", "gain of\nstanding first", "orders contradict"]
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


def agreement_table(found: dict[str, object]) -> Table:
    """Agreement of all, and of the pairs with most items in common."""
    title = f"agreement: alpha {interval_text(found, 'alpha', digits=2)} on {found['items']:,} items"
    shown = sorted(found["pairs"], key=lambda row: -row["items"])[:PAIRS_SHOWN]
    more = f"; {PAIRS_SHOWN} of {len(found['pairs'])} pairs" if len(shown) < len(found["pairs"]) else ""
    table = number_table(title + more, ["annotators"], ["items", "agree", "Cohen's kappa"])
    for row in shown:
        same, kappa = interval_text(row, "accuracy", percent=True), interval_text(row, "kappa", digits=2)
        table.add_row(" and ".join(row["annotators"]), f"{row['items']:,}", same, kappa)
    return table


def main(arguments: Sequence[str]) -> int:
    """Read the arguments and measure what a file of judgements says; no model is run."""
    parser = Parser(
        "evaluate --annotations FILE",
        "Measure what people or judges have said of answers already: win rates, raw and at equal lengths, a "
        "ranking of more than two models, agreement, and what each annotator listens to besides the answer.",
        "toolkit evaluate --annotations annotations.json --baseline gpt4\n"
        "toolkit evaluate --annotations preferences.jsonl --json",
    )
    parser.usage = "toolkit evaluate --annotations FILE [--baseline MODEL] [--seed N] [--json]"
    parser.add_argument(
        "--annotations",
        required=True,
        metavar="FILE",
        help="AlpacaEval's annotations.json (instruction, output_1, output_2, preference from 1 to 2), the "
        "same as .jsonl or .parquet, or preferences (chosen, rejected); or a glob of such files",
    )
    parser.add_argument("--baseline", metavar="MODEL", help="a generator that others are compared with")
    parser.add_argument(
        "--seed", type=non_negative_int, default=0, metavar="N", help="of the bootstrap; default 0"
    )
    parser.add_argument("--json", action="store_true", help="exactly one JSON object on stdout")
    args = parser.parse_args(arguments)

    return annotations_command(args.annotations, baseline=args.baseline, seed=args.seed, json=args.json)
