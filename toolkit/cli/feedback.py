"""`toolkit feedback`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from toolkit.base.console import print_json, tell
from toolkit.base.errors import UsageError
from toolkit.cli.number_table import number_table
from toolkit.cli.parser import Parser, add_json


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        "feedback",
        "Summarise the votes of a file: who wins, whether people agree, whether there are enough votes. With "
        "`export`, write the pairs with a preferred answer as TRL reads them (prompt, chosen, rejected), and "
        "every vote beside them, in OUTPUT with .votes before the suffix.",
        "toolkit feedback feedback.sqlite\ntoolkit feedback export feedback.sqlite --output pairs.jsonl",
    )
    parser.add_argument("words", metavar="[export] FILE", nargs="+", help="votes: SQLite, or lines of JSON")
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="with export: where the pairs go")
    add_json(parser)
    args = parser.parse_intermixed_args(arguments)
    is_export = len(args.words) == 2 and args.words[0] == "export"
    if not is_export and len(args.words) > 1:
        raise UsageError(f"unrecognized arguments: {' '.join(args.words[1:])}", where=parser.prog,
                         fix=f"`{parser.prog} --help` lists what it takes")  # fmt: skip
    if is_export != (args.output is not None):
        parser.error("export and --output go together")
    file = Path(args.words[-1])
    return export(file, args.output, json=args.json) if is_export else show(file, json=args.json)


def export(file: Path, output: Path, *, json: bool) -> int:
    """Write the pairs of a file of votes, and print how many there are."""
    from toolkit.data import vote_export

    if output.suffix != ".jsonl":
        raise UsageError("must end in .jsonl", where=f"--output {output}", fix="write pairs.jsonl")
    found = vote_export.export(file, output)
    if json:
        print_json({"output": str(output), "votes_beside": str(vote_export.side_file(output)), **found})
        return 0
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in found["left_out"].items())
    preferences, votes, pairs = (f"{found[name]:,}" for name in ("preferences", "votes", "pairs"))
    print(f"{output}: {preferences} preferences from {votes} votes on {pairs} pairs")
    print(f"left out: {found['ties']:,} pairs with a tie, {found['bad']:,} with two bad answers")
    tell(
        f"{vote_export.side_file(output)}: all votes" + (f"; votes left out: {left_out}" if left_out else "")
    )
    return 0


def show(file: Path, *, json: bool) -> int:
    """Print the statistics of a file of votes."""
    from toolkit.evaluate import vote_statistics
    from toolkit.stats import interval_text

    found = vote_statistics.statistics(vote_statistics.read(file))
    if json:
        print_json({"file": str(file), **found})
        return 0
    print(f"{found['votes']:,} votes on {found['pairs']:,} pairs by {found['voters']:,} people; "
          f"{found['ties']:,} ties, {found['bad']:,} with two bad answers")  # fmt: skip
    agreement = found["agreement"]
    if agreement and agreement["alpha"] is not None:
        interval = interval_text(agreement, "alpha")
        print(f"agreement      {interval} (Krippendorff's alpha, {agreement['pairs']:,} pairs)")
    for name, words in (("consistent", "same again"), ("checks_passed", "checks passed"),
                        ("first_preferred", "left preferred")):  # fmt: skip
        if found[name]:
            print(
                f"{words:<14} {interval_text(found[name], 'share', percent=True)}, n = {found[name]['n']:,}"
            )
    console = Console(highlight=False, markup=False)
    if found["comparisons"]:
        table = number_table(
            "win rates", ["model", "against", "verdict"], ["prompts", "win rate", "more votes"]
        )
        for row in found["comparisons"]:
            more = row["power"]["more_for_observed"]
            table.add_row(*row["models"], f"{row['verdict']} is better" if row["verdict"] else "not decided",
                          f"{row['prompts']:,}", interval_text(row["anytime"], "win_rate", percent=True),
                          "-" if more is None or row["verdict"] else f"{more:,}")  # fmt: skip
        console.print(table)
        print("The intervals hold at all times: you may look after every vote.")
    if len(found["by_voter"]) > 1:
        table = number_table("people", ["name"], ["votes", "same again", "checks passed"])
        for row in found["by_voter"]:
            same = f"{row['same']} of {row['repeats']}" if row["repeats"] else "-"
            passed = f"{row['passed']} of {row['checks']}" if row["checks"] else "-"
            table.add_row(row["voter"] or "-", f"{row['votes']:,}", same, passed)
        console.print(table)
    return 0
