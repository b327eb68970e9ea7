"""The rates of the small storyworld in the terminal and on the page."""

from __future__ import annotations

import io

from rich.console import Console

from tests.report.conftest import edit
from tests.report.test_run_names import STAGES
from toolkit.cli import summary_tables
from toolkit.cli.evaluate_tables import rates_table
from toolkit.report.lesson import lesson_of
from toolkit.report.page import write_report
from toolkit.report.summary import RATES


def show(runs) -> str:
    text = io.StringIO()
    summary_tables.show(lesson_of(runs), console=Console(file=text, width=80))
    return text.getvalue()


def test_rates_are_shown_where_they_were_measured(seeds):
    runs = [seeds / "s1" / stage for stage in STAGES]
    assert "refused" not in show(runs)
    assert "What do the answers do?" not in write_report(runs, seeds / "report.html").read_text()

    def with_rates(numbers: dict) -> dict:
        for name, share in (("sft", 0.25), ("dpo", 0.875)):
            rates = {"refusal_rate": share, "refusal_rate_interval": [share - 0.125, share + 0.125]}
            numbers["models"][name]["gold"]["rates"] = rates
        return numbers

    edit(seeds / "s1" / "evaluate", with_rates)
    table = show(runs)
    assert "unkind requests refused 25% \N{RIGHTWARDS ARROW} 88%" in " ".join(table.split())
    assert "wishes met" not in table  # not measured
    page = write_report(runs, seeds / "report.html").read_text(encoding="utf-8")
    assert "What do the answers do?" in page and "87.5% [75.0,\N{NO-BREAK SPACE}100.0]</td>" in page


def test_headings_of_the_rates_fit_a_terminal_of_80_columns():
    text = io.StringIO()
    table = rates_table({"tiny-second-round/dpo-2": dict.fromkeys(RATES, 0.5)})
    Console(file=text, width=80).print(table)
    assert "…" not in text.getvalue() and "tiny-second-round/dpo-2" in text.getvalue()
    assert {word for heading in RATES.values() for word in heading.split()} <= set(text.getvalue().split())
