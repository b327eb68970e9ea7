"""What a page is made of, as data: `page` renders it as HTML, `export` writes plots and tables as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from toolkit.report.figures import Panel


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `is_note` in smaller letters."""

    text: str
    is_note: bool = False


@dataclass(frozen=True)
class TextList:
    """A list of terms with a text each, such as the columns of a table with their meaning."""

    title: str
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Cell:
    """A value of a table.

    Attributes:
        text: as it is shown.
        value, low, high: the number and its interval, for the file; None if it is a text.
        tone: `better` or `worse` if it differs clearly from the model before.
    """

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    tone: str | None = None


@dataclass(frozen=True)
class TableRow:
    """A row of a table under its name."""

    name: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class PageTable:
    """A table; on a narrow screen each row is a card.

    Attributes:
        name: of its file, without a suffix.
        title: what it shows, for a reader who does not see the page.
        corner: heading of the column of names.
    """

    name: str
    title: str
    corner: str
    headings: Sequence[str]
    rows: Sequence[TableRow]


@dataclass(frozen=True)
class Plots:
    """Plots beside each other."""

    panels: Sequence[Panel]


@dataclass(frozen=True)
class ShownAnswers:
    """What one model wrote.

    Attributes:
        label: the model, or the step of its training.
        texts: what the text does right or wrong (empty if nobody knows), and the text, of each answer.
        others: about further answers.
    """

    label: str
    texts: Sequence[tuple[str, str]]
    others: str = ""


@dataclass(frozen=True)
class AnsweredPrompt:
    """A prompt with answers to it; `is_timeline` if they are of one model at several steps."""

    prompt: str
    answers: Sequence[ShownAnswers]
    is_timeline: bool = False


@dataclass(frozen=True)
class Commands:
    """Commands with what they are for."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown on request."""

    title: str
    blocks: Sequence[Block]


Block = Paragraph | TextList | PageTable | Plots | AnsweredPrompt | Commands | Folded


@dataclass(frozen=True)
class PageSection:
    """A section of the page; `name` is unique."""

    name: str
    title: str
    blocks: Sequence[Block] = field(default=())


def unfolded(blocks: Sequence[Block]) -> Iterator[Block]:
    """Yield the blocks, and in place of folded ones what they contain."""
    for block in blocks:
        if isinstance(block, Folded):
            yield from unfolded(block.blocks)
        else:
            yield block
