"""The report as one self-contained HTML file without scripts, fonts or network access."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from toolkit.base.files import write_atomic
from toolkit.config.registry import STAGES, Card
from toolkit.report import export, glossary
from toolkit.report.beginning import beginning
from toolkit.report.blocks import Block, Cell, Folded, PageSection, PageTable, Paragraph, TableRow
from toolkit.report.lesson import Lesson, lesson_of
from toolkit.report.sections import ReportData, sections
from toolkit.report.seeds import SeedGroup, group_names, mean_summary, seed_groups
from toolkit.report.summary import RunNames, comparisons, name_runs, summarize, win_rate_text
from toolkit.report.wording import LANGUAGES, message, of_registry
from toolkit.runs import layout, seal
from toolkit.stats import interval_of

PACKAGES = ("torch", "transformers", "trl")


def write_report(
    runs: Sequence[Path], output: Path, *, language: str = "en", export_to: Path | None = None
) -> Path:
    """Write the report of sealed runs to `output`, whole or not at all, and return the path.

    Args:
        language: a key of `LANGUAGES`.
        export_to: a folder for the plots and tables as files.

    Raises:
        UsageError: a run is given twice, or `export_to` cannot be written.
        RunError: a path is not a finished run.
    """
    data, lesson = read_runs(runs, language=language)
    if export_to is not None:
        export.export(page_sections(runs, data, lesson), export_to, language=language)
    write_atomic(output, render(runs, data, lesson))
    return output


def read_runs(runs: Sequence[Path], *, language: str = "en") -> tuple[ReportData, Lesson]:
    """Return what a report is about, and what it begins with; several seeds of one recipe are averaged.

    Raises:
        UsageError: a run is given twice.
        RunError: a path is not a finished run.
    """
    names = name_runs(runs)
    summary = summarize(runs, names)
    groups = seed_groups(names)
    shown_names, shown = names, summary
    if groups:
        shown_names, shown = group_names(names, groups), mean_summary(summary, groups)
    data = ReportData(shown, shown_names, _members(names, groups), groups, LANGUAGES[language])
    return data, lesson_of(list(shown_names.runs), names=shown_names, summary=shown)


def _members(names: RunNames, groups: Sequence[SeedGroup]) -> dict[str, dict[str, Path]]:
    """Return name of a run or of a group -> name of each of its runs -> its directory."""
    group_of = {member: group.name for group in groups for member in group.members}
    members: dict[str, dict[str, Path]] = {}
    for path, name in names.runs.items():
        members.setdefault(group_of.get(name, name), {})[name] = path
    return members


def page_sections(runs: Sequence[Path], data: ReportData, lesson: Lesson) -> list[PageSection]:
    """Return all sections of the page."""
    return [*beginning(data, lesson), *sections(data), *_seeds_section(runs, data)]


def render(runs: Sequence[Path], data: ReportData, lesson: Lesson) -> str:
    """Return the page."""
    environment = Environment(
        loader=PackageLoader("toolkit.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "kind": lambda block: type(block).__name__,
        "terms": lambda text: Markup(glossary.mark(str(text), data.wording)),
        "svg": lambda panel: Markup(panel.svg()),
        "code": _with_code,
        "unbroken": lambda text: re.sub(
            r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text
        ),
    }
    environment.globals |= {"say": lambda key, **fields: data.say(message(key, **fields))}
    language = next(code for code, wording in LANGUAGES.items() if wording is data.wording)
    return environment.get_template("page.html.j2").render(
        language=language,
        title=_title(runs, data),
        seeds=_seeds_texts(data),
        cards=[] if lesson.tables else _cards(data),
        sections=page_sections(runs, data, lesson),
        terms=[
            {
                "id": term,
                "name": data.wording[f"term.{term}"],
                "text": data.wording[f"term.{term}.definition"],
            }
            for term in glossary.TERMS
        ],
        origin=_origin(runs, data),
        made=_made(runs, data),
        numbers=json.dumps(data.summary, indent=2, ensure_ascii=False),
    )


def _title(runs: Sequence[Path], data: ReportData) -> str:
    folder = Path(os.path.commonpath([run.absolute().parent for run in runs])).name
    if len(runs) == 1:
        return f"{folder}/{runs[0].name}"
    is_aligned = any(True for _ in data.with_stage("aligned"))
    return data.say(message("page.title_aligned" if is_aligned else "page.title", folder=folder))


def _with_code(text: str) -> Markup:
    """Return a text as HTML in which `this` is code."""
    parts = str(escape(text)).split("`")
    return Markup("".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts)))


def _cards(data: ReportData) -> list[dict[str, str]]:
    """Return the large numbers at the head of a page without a table of models."""
    cards = []
    kinds = [row.get("stage") for row in data.stages.values()]
    for name, row in data.stages.items():
        prefix = f"{name}: " if kinds.count(row.get("stage")) > 1 else ""
        stage = STAGES.get(row.get("stage"))
        cards += [
            {"value": _short(row[card.key], card), "label": prefix + _card_label(data, card, row)}
            for card in (() if stage is None else stage.cards)
            if row.get(card.key) is not None
        ]
    return cards


def _short(value: float, card: Card) -> str:
    return f"{value:.1%}" if card.percent else f"{value:.3f}"


def _card_label(data: ReportData, card: Card, row: Mapping[str, Any]) -> str:
    text = data.say(of_registry(card.label))
    limit = row.get(card.limit) if card.limit else None
    return text + (data.say(of_registry(card.limit_label, limit=_short(limit, card))) if limit else "")


def _seeds_texts(data: ReportData) -> list[str]:
    """Say which runs are means over seeds, once for all that have the same seeds."""
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for group in data.groups:
        by_seeds.setdefault(tuple(group.members.values()), []).append(group.name)
    return [
        data.say(
            message("page.seeds", names=names, count=str(len(seeds)), seeds=[str(seed) for seed in seeds])
        )
        for seeds, names in by_seeds.items()
    ]


def _seeds_section(runs: Sequence[Path], data: ReportData) -> list[PageSection]:
    """Return the numbers of each seed, for the runs that are averaged."""
    if not data.groups:
        return []
    summary = summarize(runs)
    rows = {name: _seed_cells(row) for name, row in summary["stages"].items()}
    for comparison in comparisons(summary):
        for name, rate in comparison.win_rates.items():
            text = win_rate_text({"win_rate": rate}, doubt="")
            rows[name]["win_rate"] = Cell(text, rate["estimate"], rate["low"], rate["high"])
    blocks: list[Block] = []
    for group in data.groups:
        found = {member: rows[member] for member in group.members if rows.get(member)}
        headings = list(dict.fromkeys(key for cells in found.values() for key in cells))
        if headings:
            shown = [
                TableRow(member, [cells.get(key, Cell("-")) for key in headings])
                for member, cells in found.items()
            ]
            corner = data.say(message("origin.run"))
            blocks.append(PageTable(f"seeds-{group.name}", group.name, corner, headings, shown))
    folded = Folded(data.say(message("seeds.title")), [Paragraph(data.say(message("seeds.text"))), *blocks])
    return [PageSection("seeds", data.say(message("seeds.title")), [folded])] if blocks else []


def _seed_cells(row: Mapping[str, Any]) -> dict[str, Cell]:
    """Return the numbers of a run that have an interval."""
    cells = {}
    for key, value in row.items():
        bounds = interval_of(row, key)
        if bounds and isinstance(value, float):
            cells[key] = Cell(f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]", value, *bounds)
    return cells


def _manifest(path: Path) -> dict[str, Any]:
    return json.loads((path / layout.MANIFEST).read_text(encoding="utf-8"))


def _origin(runs: Sequence[Path], data: ReportData) -> PageTable:
    paths = {name: path for members in data.members.values() for name, path in members.items()}
    rows = []
    for name, path in paths.items():
        manifest = _manifest(path)
        cells = [manifest["stage"], str(manifest["seeds"]["root"]), seal.digest(path)[:16]]
        rows.append(TableRow(name, [Cell(text) for text in cells]))
    title = data.say(message("origin.title"))
    headings = [data.say(message(f"origin.{key}")) for key in ("stage", "seed", "seal")]
    return PageTable("origin", title, data.say(message("origin.run")), headings, rows)


def _made(runs: Sequence[Path], data: ReportData) -> str:
    facts = _manifest(runs[-1])
    packages = facts["versions"]
    parts = [f"{name} {packages[name]}" for name in PACKAGES if packages.get(name)]
    if facts.get("python"):
        parts.insert(0, f"Python {facts['python']}")
    return data.say(message("origin.made", versions=parts))
