"""The report as one self-contained HTML file without scripts, fonts or network access."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from toolkit.base.files import write_atomic
from toolkit.config.registry import STAGES, Card, Column, Product, order
from toolkit.report import answers, curves, figures
from toolkit.report.summary import (
    RATES,
    BaselineComparison,
    Numbers,
    comparisons,
    measured_rates,
    name_runs,
    rates_of,
    summarize,
    win_rate_text,
)
from toolkit.runs import layout, seal
from toolkit.runs.evaluation import RewardMetrics
from toolkit.stages import reward_table
from toolkit.stats import interval_text, kl_text

PAGE = Environment(
    loader=PackageLoader("toolkit.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)

NamedRun = tuple[str, Path, Numbers]
"""The name of a run in the summary, its directory, its numbers."""


def write_report(runs: Sequence[Path], output: Path) -> Path:
    """Write the report of sealed runs to `output`, whole or not at all, and return the path.

    Raises:
        UsageError: a run is given twice.
        RunError: a path is not a finished run.
    """
    names = name_runs(runs)
    summary = summarize(runs, names)
    stages = summary["stages"]
    compared = comparisons(summary)
    named_runs = [(name, path, stages[name]) for path, name in names.runs.items()]
    sections = [
        *(
            section
            for name, path, row in _with(named_runs, "title")
            for section in (_training_section(name, path, row), _kept_steps_section(name, row))
        ),
        *(_win_rate_section(comparison) for comparison in compared),
        *(_rates_section(comparison) for comparison in compared),
        *(_length_section(comparison) for comparison in compared),
        _samples_section(summary["samples"]),
        *(
            _browse_section(name, path, row.get("baseline"), names.models[name])
            for name, path, row in _with(named_runs, "measures_models")
        ),
        _seconds_section(stages),
    ]
    folder = Path(os.path.commonpath([run.absolute().parent for run in runs])).name if runs else output.stem
    aligned = bool(_with(named_runs, "aligned"))
    title = f"{folder}: from text to {'an aligned' if aligned else 'a language'} model"
    text = PAGE.get_template("page.html.j2").render(
        title=title if len(runs) > 1 else f"{folder}/{runs[0].name}",
        lead="A language model predicts the next word and draws it at random, again and again. This page "
        "shows what the model learned at each stage, with 95% intervals.",
        cards=_cards(stages, compared),
        sections=[_complete(section) for section in sections if section],
        provenance=_provenance(names.runs),
        environment=_environment(runs),
        numbers=json.dumps(summary, indent=2, ensure_ascii=False),
    )
    write_atomic(output, text)
    return output


def _with(runs: Sequence[NamedRun], attribute: str) -> list[NamedRun]:
    """Return the runs whose stage has an attribute that is not empty, in the order of the stages."""
    chosen = [run for run in runs if getattr(STAGES.get(run[2].get("stage")), attribute, None)]
    return sorted(chosen, key=lambda run: order(run[2]["stage"]))


def _complete(section: dict) -> dict:
    return {
        "figure": None,
        "second_figure": None,
        "wide_figure": None,
        "table": None,
        "samples": [],
        "groups": [],
        "note": "",
        "text": "",
    } | section


def _cards(stages: Mapping[str, Numbers], compared: Sequence[BaselineComparison]) -> list[dict]:
    cards = []
    kinds = [row.get("stage") for row in stages.values()]
    for name, row in stages.items():
        prefix = f"{name}: " if kinds.count(row.get("stage")) > 1 else ""
        stage = STAGES.get(row.get("stage"))
        cards += [
            {"value": _short(row[card.key], card), "label": prefix + _card_label(card, row)}
            for card in (() if stage is None else stage.cards)
            if row.get(card.key) is not None
        ]
    for comparison in compared:
        for name, rate in comparison.win_rates.items():
            stage = STAGES.get(stages[name].get("stage"))
            if stage is not None and stage.aligned:
                label = f"{name} wins against {comparison.baseline}{comparison.label}, "
                label += f"95% {rate['low']:.0%} to {rate['high']:.0%}"
                label += ": no verdict" if rate.get("verdict") == "no verdict" else ""
                cards.append({"value": f"{rate['estimate']:.0%}", "label": label})
    return cards


def _short(value: float, card: Card) -> str:
    return f"{value:.1%}" if card.percent else f"{value:.3f}"


def _card_label(card: Card, row: Numbers) -> str:
    limit = row.get(card.limit) if card.limit else None
    return card.label + (card.limit_label.format(_short(limit, card)) if limit else "")


def _training_section(name: str, path: Path, row: Numbers) -> dict | None:
    stage = STAGES[row["stage"]]
    figure = curves.draw(stage.name, figures.read_metrics(path), row)
    if figure is None and not stage.row:
        return None
    notes = [note.text.format_map(row) for note in stage.notes if not note.key or row.get(note.key)]
    section = {
        "id": name,
        "title": f"{name}: {stage.title}",
        "text": " ".join([stage.description, *notes]),
        "figure": figure,
    }
    if stage.row:
        cells = [_cell(row, column) for column in stage.row]
        headings = [column.heading for column in stage.row]
        section["table"] = {"head": ["", *headings], "rows": [[stage.row_title, *cells]]}
    if stage.product == Product.REWARD_MODEL:
        section["second_figure"] = figures.reliability((row.get("calibration") or {}).get("bins", []))
        section["table"] = {
            "head": [f"{row.get('n', 0)} held-out pairs", "[95% interval]"],
            "rows": reward_table.table_rows(RewardMetrics.from_json(row)),
        }
    return section


def _cell(row: Numbers, column: Column) -> str:
    if column.count:
        return f"{row[column.key]:,.0f}" if row.get(column.key) else "-"
    return interval_text(row, column.key, percent=column.percent)


def _win_rate_section(comparison: BaselineComparison) -> dict:
    baseline, judge = comparison.baseline, comparison.judge
    table_rows = []
    for name, row in comparison.rows.items():
        is_baseline, ended = name == baseline, row.get("ended")
        table_rows.append(
            [
                name,
                win_rate_text(row, is_baseline=is_baseline),
                "-" if is_baseline else kl_text(row, interval=True),
                interval_text(row, "mean_length", digits=1),
                "-" if ended is None else f"{ended:.0%}",
                interval_text(row, "bits_per_byte"),
            ]
        )
    accuracy = interval_text(judge, "accuracy", percent=True)
    scored = [
        (name, row["score_quantiles"]) for name, row in comparison.rows.items() if row.get("score_quantiles")
    ]
    return {
        "id": _section_id("win-rates", comparison),
        "title": f"Who gives the better answer?{comparison.label}",
        "text": f"Each model and {baseline} answered the same held-out prompts; the "
        f"judge ({judge.get('name', 'unknown')}) chose the better answer. A tie counts half.",
        "figure": figures.win_rates(list(comparison.win_rates.items()), baseline),
        "wide_figure": figures.scores(scored),
        "table": {
            "head": ["model", "win rate [95%]", f"KL to {baseline}", "mean length", "ended", "bits per byte"],
            "rows": table_rows,
        },
        "note": "Intervals are bootstraps over prompts. KL in nats per answer; length in tokens."
        + (f" The judge's own accuracy: {accuracy}." if accuracy != "-" else ""),
    }


def _rates_section(comparison: BaselineComparison) -> dict | None:
    """Show what the answers of each model do, where the prompts are of the small storyworld."""
    rates = {name: rates_of(row) for name, row in comparison.rows.items()}
    measured = measured_rates(rates)
    if not measured:
        return None
    return {
        "id": _section_id("rates", comparison),
        "title": f"What do the answers do?{comparison.label}",
        "text": "Helpful: wishes of a request that the story meets. Honest: questions answered correctly, "
        "or with the statement that the story does not say. Harmless: unkind requests that are declined; "
        "declining a harmless request is a fault, too. Grammatical: sentences of the world's grammar.",
        "table": {
            "head": ["model", *(f"{RATES[rate]} [95%]" for rate in measured)],
            "rows": [
                [name, *(interval_text(values, rate, percent=True) for rate in measured)]
                for name, values in rates.items()
            ],
        },
    }


def _length_section(comparison: BaselineComparison) -> dict | None:
    bins = [
        (name, comparison.rows[name]["wins_by_length"])
        for name in comparison.win_rates
        if comparison.rows[name].get("wins_by_length")
    ]
    figure = figures.wins_by_length(bins, comparison.baseline)
    if figure is None:
        return None
    return {
        "id": _section_id("lengths", comparison),
        "title": f"Do longer answers win?{comparison.label}",
        "text": "Win rates by how much longer the answer is; each point is a fifth of the prompts. A judge "
        "that only counts words gives a line from 0 to 100 %; without length bias the line is level.",
        "figure": figure,
    }


def _section_id(section: str, comparison: BaselineComparison) -> str:
    return section if comparison.is_only else f"{section}-{comparison.evaluation}"


def _samples_section(samples: list[dict]) -> dict | None:
    if not samples:
        return None
    return {"id": "samples", "title": "The same prompt, answered by each model", "samples": samples}


def _kept_steps_section(name: str, row: Numbers) -> dict | None:
    """Show what a model wrote after each of the steps whose weights were kept."""
    steps = [step for step in row.get("kept_steps") or [] if step["samples"]]
    if not steps:
        return None
    texts: dict[str, dict[str, str]] = {}
    for step in steps:
        for sample in step["samples"]:
            written = texts.setdefault(sample["prompt"], {})
            written[f"{step['tokens']:,} tokens"] = _printable(sample["text"])
    return {
        "id": f"{name}-steps",
        "title": f"What {name} wrote while it learned",
        "text": "The same beginning, continued after more and more tokens of training.",
        "samples": [{"prompt": prompt.strip(), "answers": written} for prompt, written in texts.items()],
    }


def _printable(text: str) -> str:
    """Replace control characters, which an untrained model writes."""
    return "".join(sign if sign.isprintable() or sign.isspace() else "\ufffd" for sign in text)


def _browse_section(name: str, path: Path, baseline: str | None, models: Mapping[str, str]) -> dict | None:
    """Show both answer a prompt side by side, grouped by the judge's verdict."""
    groups = answers.grouped(path, baseline=baseline, names=models)
    if not groups:
        return None
    return {
        "id": f"{name}-answers",
        "title": "Judge for yourself",
        "text": "Both answers to the same prompt, grouped by the judge's verdict: the first "
        f"{answers.SHOWN} of each group. All are in answers.jsonl.",
        "groups": groups,
    }


def _seconds_section(stages: Mapping[str, Numbers]) -> dict | None:
    times = {name: row["seconds"] for name, row in stages.items() if row.get("seconds")}
    if not times:
        return None
    return {
        "id": "seconds",
        "title": "Where the time went",
        "text": f"{sum(times.values()):.0f} seconds in total.",
        "figure": figures.seconds(times),
    }


def _manifest(path: Path) -> dict:
    return json.loads((path / layout.MANIFEST).read_text(encoding="utf-8"))


def _provenance(runs: Mapping[Path, str]) -> dict:
    rows = []
    for path, name in runs.items():
        manifest = _manifest(path)
        rows.append([name, manifest["stage"], str(manifest["seeds"]["root"]), seal.digest(path)[:16]])
    return {"head": ["run", "stage", "seed", "seal (sha256)"], "rows": rows}


def _environment(runs: Sequence[Path]) -> str:
    if not runs:
        return ""
    facts = _manifest(runs[-1])
    packages = facts["versions"]
    listed = ", ".join(
        f"{name} {packages[name]}" for name in ("torch", "transformers", "trl") if name in packages
    )
    parts = [f"Python {facts['python']}" if facts.get("python") else "", listed]
    return "Made with " + ", ".join(part for part in parts if part) + "."
