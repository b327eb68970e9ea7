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
    ShownAnswers,
    TableRow,
    TextList,
)
from toolkit.report.lesson import (
    DrawnAnswer,
    Lesson,
    ModelAnswers,
    ModelTable,
    Row,
    Samples,
    TableColumn,
    counted,
    with_room,
)
from toolkit.report.sections import ReportData, run_label
from toolkit.report.wording import message
from toolkit.stats import Estimate


def beginning(data: ReportData, lesson: Lesson) -> list[PageSection]:
    """Return the sections of a lesson."""
    sections = [_samples_section(data, samples, place) for place, samples in enumerate(lesson.samples)]
    sections += [_table_section(data, table) for table in lesson.tables]
    if lesson.stages:
        items = [(stage.name, data.join(stage.sentences)) for stage in lesson.stages]
        blocks = [TextList("", items), *_seconds(data, lesson)]
        sections.append(PageSection("stages", data.say(message("stages.title")), blocks))
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


def _heading(data: ReportData, column: TableColumn) -> str:
    """Return a heading in one line; in the terminal it has two."""
    return data.say(column.heading).replace("-\n", "").replace("\n", data.wording["space"])


def _row(data: ReportData, columns: Sequence[TableColumn], row: Row) -> TableRow:
    name = data.say(row.label) if row.model is None else run_label(data, row.model)
    cells = [
        _cell(data, column, row, value, change)
        for column, value, change in zip(columns, row.values, row.changes, strict=True)
    ]
    return TableRow(name, cells)


def _cell(
    data: ReportData, column: TableColumn, row: Row, value: Estimate | None, change: str | None
) -> Cell:
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


def _samples_section(data: ReportData, samples: Samples, place: int) -> PageSection:
    blocks: list[Block] = []
    if any(model.total > 1 for prompt in samples.prompts for model in prompt.models):
        blocks.append(Paragraph(data.say(message("samples.note")), is_note=True))
    blocks += [
        AnsweredPrompt(
            _conversation(data, prompt.turns), [_answers(data, answers) for answers in prompt.models]
        )
        for prompt in samples.prompts
    ]
    name = "samples" if place == 0 else f"samples-{place + 1}"
    return PageSection(name, data.say(samples.title), blocks)


def _conversation(data: ReportData, turns: Sequence[str]) -> str:
    """Return the turns of a conversation; a single one without its speaker."""
    if len(turns) == 1:
        return turns[0].strip()
    speakers = [data.say(message(f"samples.{who}")) for who in ("user", "assistant")]
    return "\n".join(f"{speakers[index % 2]}: {turn.strip()}" for index, turn in enumerate(turns))


def _answers(data: ReportData, answers: ModelAnswers) -> ShownAnswers:
    """Return the answers of a model for which there is room, and what the others do right."""
    shown, others = with_room(answers)
    texts = [
        (_mark(data, answer), answer.text + ("" if answer.ended else " \N{HORIZONTAL ELLIPSIS}"))
        for answer in shown
    ]
    marks = [_mark(data, answer) for answer in others if answer.mark is not None]
    about = data.say(message("samples.others", marks=counted(marks))) if marks else ""
    return ShownAnswers(answers.model, texts, about)


def _mark(data: ReportData, answer: DrawnAnswer) -> str:
    times = f"{answer.count}x" if answer.count > 1 else ""
    return " ".join(part for part in (times, "" if answer.mark is None else data.say(answer.mark)) if part)


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
