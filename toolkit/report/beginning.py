"""The beginning of the page, as a run of a folder ends in the terminal: what each stage changed."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence

from toolkit.report.blocks import (
    AnsweredPrompt,
    Block,
    Cell,
    Commands,
    PageSection,
    PageTable,
    Paragraph,
    ShownAnswer,
    TableRow,
    TextList,
)
from toolkit.report.lesson import Column, Lesson, ModelAnswers, ModelTable, Row, Samples
from toolkit.report.sections import ReportData, run_label
from toolkit.report.wording import message
from toolkit.stats import Estimate


def beginning(data: ReportData, lesson: Lesson) -> list[PageSection]:
    """Return the sections of a lesson."""
    sections = [_table_section(data, table) for table in lesson.tables]
    if lesson.stages:
        items = [(stage.name, data.join(stage.sentences)) for stage in lesson.stages]
        blocks = [TextList("", items), *_seconds(data, lesson)]
        sections.append(PageSection("stages", data.say(message("beginning.stages")), blocks))
    sections += [_samples_section(data, samples, position) for position, samples in enumerate(lesson.samples)]
    steps = list(_commands(data, lesson))
    if steps:
        sections.append(PageSection("next", data.say(message("next.title")), [Commands(steps)]))
    return sections


def _table_section(data: ReportData, table: ModelTable) -> PageSection:
    title = data.say(table.title)
    name = "models" if data.is_only_evaluation else f"models-{table.evaluation}"
    headings = [_heading(data, column) for column in table.columns]
    shown = PageTable(
        name,
        title,
        data.say(message("column.model")),
        headings,
        [_row(data, table.columns, row) for row in table.rows],
    )
    meanings = [
        (heading, data.say(column.meaning)) for heading, column in zip(headings, table.columns, strict=True)
    ]
    notes = [Paragraph(data.say(note), is_note=True) for note in table.notes]
    return PageSection(
        name, title, [shown, *notes, TextList(data.say(message("beginning.columns")), meanings)]
    )


def _heading(data: ReportData, column: Column) -> str:
    """Return a heading in one line; in the terminal it has two."""
    return data.say(column.heading).replace("-\n", "").replace("\n", data.wording["space"])


def _row(data: ReportData, columns: Sequence[Column], row: Row) -> TableRow:
    name = data.say(row.label) if row.model is None else run_label(data, row.model)
    cells = [
        _cell(data, column, row, value, change)
        for column, value, change in zip(columns, row.values, row.changes, strict=True)
    ]
    return TableRow(name, cells)


def _cell(data: ReportData, column: Column, row: Row, value: Estimate | None, change: str | None) -> Cell:
    if column.key == "win_rate" and row.is_baseline:
        return Cell(data.say(message("cell.baseline")))
    if value is None:
        return Cell("-")
    has_interval = math.isfinite(value.low)
    text = column.text(value.estimate)
    if column.key == "win_rate" and has_interval:
        text += f" [{100 * value.low:.0f}, {100 * value.high:.0f}]"
        change = row.verdict
        if change == "no verdict":
            text, change = data.say(message("wins.no_verdict", rate=text)), None
    low, high = (value.low, value.high) if has_interval else (None, None)
    return Cell(text, value.estimate, low, high, change)


def _samples_section(data: ReportData, samples: Samples, position: int) -> PageSection:
    prompts: list[Block] = [
        AnsweredPrompt(
            _conversation(data, prompt.turns), [_answer(data, answers) for answers in prompt.models]
        )
        for prompt in samples.prompts
    ]
    name = "samples" if position == 0 else f"samples-{position + 1}"
    return PageSection(name, data.say(samples.title), prompts)


def _conversation(data: ReportData, turns: Sequence[str]) -> str:
    """Return the turns of a conversation; a single one without its speaker."""
    if len(turns) == 1:
        return turns[0].strip()
    speakers = [data.say(message(f"samples.{who}")) for who in ("user", "assistant")]
    return "\n".join(f"{speakers[index % 2]}: {turn.strip()}" for index, turn in enumerate(turns))


def _answer(data: ReportData, answers: ModelAnswers) -> ShownAnswer:
    """Return the most typical answer of a model, and what the others do right."""
    first, *others = answers.answers
    mark = "" if first.mark is None else data.say(first.mark)
    marks = [other.mark for other in others for _ in range(other.count) if other.mark is not None]
    text = first.text + ("" if first.ended else " \N{HORIZONTAL ELLIPSIS}")
    count = message("samples.count", count=str(first.count), total=str(answers.total))
    about = data.say(count) if first.count > 1 else ""
    rest = data.say(message("samples.others", marks=marks)) if marks else ""
    return ShownAnswer(answers.model, text, mark, "; ".join(part for part in (about, rest) if part))


def _seconds(data: ReportData, lesson: Lesson) -> Iterator[Block]:
    seconds = lesson.seconds
    if seconds.stages:
        stages = [
            message("seconds.stage", name=name, seconds=f"{value:,.0f}")
            for name, value in seconds.stages.items()
        ]
        text = message("seconds.stages", stages=stages, total=f"{seconds.total:,.0f}")
        yield Paragraph(data.say(text), is_note=True)


def _commands(data: ReportData, lesson: Lesson) -> Iterator[tuple[str, str]]:
    for step in lesson.next_steps:
        if step.arguments:
            yield data.say(step.purpose), shlex.join(["toolkit", *step.arguments])
