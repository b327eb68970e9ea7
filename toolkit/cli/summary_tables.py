"""What a finished folder shows, on a terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from toolkit.report.lesson import (
    DrawnAnswer,
    Lesson,
    ModelAnswers,
    ModelTable,
    NextStep,
    Row,
    SamplePrompt,
    Seconds,
    TableColumn,
    counted,
    with_room,
)
from toolkit.report.wording import Message, message, say

LONGEST_ANSWER = 400
"""Characters; a model that does not end its answer may write a page."""
COLOURS = {"better": "green", "worse": "red"}


def show(lesson: Lesson, *, console: Console | None = None) -> None:
    """Print the answers, the numbers and what they mean, the seconds, and what to do next, on stdout."""
    console = console or Console(highlight=False, markup=False)
    for samples in lesson.samples:
        _print_title(console, say(samples.title))
        if any(model.total > 1 for prompt in samples.prompts for model in prompt.models):
            console.print(Text(say(message("samples.note")), style="dim"))
        for prompt in samples.prompts:
            _print_prompt(console, prompt)
    for table in lesson.tables:
        _print_table(console, table)
    if lesson.stages:
        _print_title(console, say(message("stages.title")))
        for stage in lesson.stages:
            sentences = Text.assemble((f"{stage.name}: ", "bold"), " ".join(map(say, stage.sentences)))
            console.print(sentences)
    if lesson.seconds.stages:
        _print_title(console, say(_seconds(lesson.seconds)))
    if lesson.next_steps:
        _print_title(console, say(message("next.title")))
        for step in lesson.next_steps:
            console.print(Text(say(step.purpose) + ":"))
            # One line, however wide the terminal is, so that it can be copied.
            console.print(Text(f"  {_command(step)}", style="bold"), soft_wrap=True)


def _print_title(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, style="bold underline" if console.is_terminal else "bold"))


# Samples


def _print_prompt(console: Console, prompt: SamplePrompt) -> None:
    roles = [say(message(f"samples.{role}")) for role in ("user", "assistant")]
    console.print()
    for number, turn in enumerate(prompt.turns):
        console.print(Text.assemble((f"{roles[number % 2]}: ", "dim"), (turn.strip(), "bold cyan")))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    marked = any(answer.mark for model in prompt.models for answer in model.answers)
    if marked:
        table.add_column(no_wrap=True)
    table.add_column()
    for model in prompt.models:
        for number, (mark, text) in enumerate(_answer_rows(model)):
            table.add_row("" if number else model.model, *([mark] if marked else []), text)
    console.print(Padding(table, (0, 0, 0, 2)))


def _answer_rows(model: ModelAnswers) -> Iterator[tuple[Text, Text]]:
    """Yield mark and text of the answers of a model, and the marks of those without room."""
    shown, others = with_room(model)
    for answer in shown:
        yield _mark(answer), Text(_answer_text(answer))
    marks = [_mark(other).plain for other in others if other.mark is not None]
    if marks:
        yield Text(), Text(say(message("samples.others", marks=counted(marks))), style="dim")


def _mark(answer: DrawnAnswer) -> Text:
    mark = "" if answer.mark is None else say(answer.mark)
    times = f"{answer.count}x" if answer.count > 1 else ""
    colour = (
        "" if answer.share is None else "green" if answer.share == 1 else "red" if answer.share == 0 else ""
    )
    return Text(" ".join(word for word in (times, mark) if word), style=colour)


def _answer_text(answer: DrawnAnswer) -> str:
    """Return an answer in one paragraph, with an ellipsis where it was cut off."""
    text = " ".join(answer.text.split())
    is_whole = answer.ended and len(text) <= LONGEST_ANSWER
    return text if is_whole else text[:LONGEST_ANSWER] + " \N{HORIZONTAL ELLIPSIS}"


# The table


def _print_table(console: Console, table: ModelTable) -> None:
    _print_title(console, say(table.title))
    # One space apart, for terminals of 80 columns.
    shown = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False, header_style="")
    shown.add_column(no_wrap=True)
    for column in table.columns:
        shown.add_column(say(column.heading), justify="right", no_wrap=True)
    for row in table.rows:
        cells = (_cell(row, number, column) for number, column in enumerate(table.columns))
        name = Text(say(row.label), style="bold" if row.model else "")
        shown.add_row(name, *cells, style="" if row.model else "dim")
    console.print(shown)
    console.print()
    meanings = Table.grid(padding=(0, 2, 0, 0))
    meanings.add_column(no_wrap=True)
    meanings.add_column()
    for column in table.columns:
        meanings.add_row(say(column.name), say(column.meaning))
    console.print(meanings)
    for note in table.notes:
        console.print(Text(say(note)))


def _cell(row: Row, number: int, column: TableColumn) -> Text:
    value = row.values[number]
    if column.key != "win_rate":
        colour = COLOURS.get(row.changes[number] or "", "")
        return Text(column.text(None if value is None else value.estimate), style=colour)
    if row.is_baseline:
        return Text(say(message("cell.baseline")))
    if value is None:
        return Text("-")
    doubt = "*" if row.verdict == "no verdict" else ""
    return Text(
        f"{value.estimate:.0%} [{100 * value.low:.0f}, {100 * value.high:.0f}]{doubt}",
        style=COLOURS.get(row.verdict or "", ""),
    )


# Seconds and what to do next


def _seconds(seconds: Seconds) -> Message:
    stages = [
        message("seconds.stage", name=name, seconds=f"{value:.0f}") for name, value in seconds.stages.items()
    ]
    total = f"{seconds.total:.0f}"
    if seconds.elapsed is None:
        return message("seconds.stages", stages=stages, total=total)
    return message("seconds.elapsed", stages=stages, total=total, elapsed=f"{seconds.elapsed:.0f}")


def _command(step: NextStep) -> str:
    if step.page is None:
        return " ".join([program(), shlex.join(step.arguments)])
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    has_screen = sys.platform == "darwin" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if has_screen and shutil.which(opener):
        return shlex.join([opener, str(step.page)])
    return step.page.absolute().as_uri()


def program() -> str:
    """Return how this program was called, so that the commands it prints work where it was called."""
    called = Path(sys.argv[0])
    if called.name == "toolkit":
        return _callable(called)
    if called.parts[-2:] == ("toolkit", "__main__.py"):
        return f"{_callable(Path(sys.executable))} -m toolkit"
    return "toolkit"


def _callable(path: Path) -> str:
    """Return the name of a program if it is found by name, else its path from the current folder."""
    found = shutil.which(path.name)
    if found is not None and Path(found).absolute() == path.absolute():
        return path.name
    return shlex.quote(min(os.path.relpath(path), str(path.absolute()), key=len))
