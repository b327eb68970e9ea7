"""What became of the rows or documents of every source: used, held out, and left out for which reason.

Every stage that reads data prints one `ReadingReport` and writes it to `evaluation.json`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from toolkit.base import ranks
from toolkit.base.console import tell
from toolkit.base.errors import DataError
from toolkit.data.chat.split_key import FIRST_MESSAGE, SplitKey

SHARE_TO_WARN_OF = 0.1
"""Share of rows that do not fit, from which the limit should be raised."""
COLUMNS = ("rows read", "used", "held out", "training part", "joined in pairs", "not sampled", "not mixed",
           "left out")  # fmt: skip
"""Of the table; the first two are always there, the others if they are not 0."""
MEASURED_ROWS = 20
"""Fewest rows of which the held-out share is compared with the one that was asked for."""


@dataclass
class SourceReport:
    """The rows, or documents of text, of one source; `read` is the sum of all other counts.

    Attributes:
        part: the part that was asked for.
        has_other_part: whether the source has rows of the other part, too.
        is_complete: whether all rows were read; of a Hub dataset in a mixture, the rest is not.
        weight: of the source in its mixture.
        used: rows of the part that was asked for, without those of the next two.
        not_sampled: rows above the source's number of examples.
        not_mixed: rows after the end of the mixture, at which another source was exhausted.
        other_part: rows of the other part: held out, or of the training part if that is held out.
        paired: rows with a bad answer that became part of a pair with another row.
        left_out: unusable rows by reason.
        first: the location of the first row of every reason.
        notes: rows of which something is not used, by what that is.
        unread: rows that have a column that is not read, by column.
        forms: rows by the columns that were read.
        asked: the share to hold out; None for storyworld, which has parts of its own, a whole source, and the
            last characters of a text.
        key: what was hashed for the held-out part; None for the text of a document.
        held_out_characters: (number of the characters that are held out, all characters) of a text whose end
            is held out; None for other data.
        in_training: held-out rows of another source whose prompt is also trained on; None if not counted.
    """

    name: str
    part: str = "all"
    has_other_part: bool = True
    is_complete: bool = True
    weight: float = 1.0
    read: int = 0
    used: int = 0
    not_sampled: int = 0
    not_mixed: int = 0
    other_part: int = 0
    paired: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    asked: float | None = None
    key: SplitKey | None = FIRST_MESSAGE
    held_out_characters: tuple[int, int] | None = None
    in_training: int | None = None

    def leave_out(self, reason: str, location: str) -> None:
        """Count a row that is not used."""
        self.left_out[reason] += 1
        self.first.setdefault(reason, location)

    def counts(self) -> dict[str, int]:
        """Return the columns of the table."""
        other = "training part" if self.part == "held_out" else "held out"
        return {
            "rows read": self.read,
            "used": self.used,
            other: self.other_part,
            "joined in pairs": self.paired,
            "not sampled": self.not_sampled,
            "not mixed": self.not_mixed,
            "left out": self.left_out.total(),
        }

    @property
    def usable(self) -> int:
        """Rows, or pairs of two rows, of both parts that could be used."""
        return self.of_part + self.other_part

    def reasons(self) -> str:
        """Return the reasons of unusable rows in one line."""
        return "; ".join(
            f"{count:,} rows: {reason} (first {self.first[reason]})"
            for reason, count in sorted(self.left_out.items())
        )

    def warnings(self) -> list[str]:
        """Return what is unexpected, one sentence each."""
        sentences = [f"{count:,} rows: {note}" for note, count in sorted(self.notes.items())]
        sentences += [
            f"not read: column {name!r} ({count:,} rows)" for name, count in sorted(self.unread.items())
        ]
        if self.asked is not None and self.key is not None and self.key.is_whole_prompt:
            sentences.append(
                f"only {self.key.first_messages:,} different first messages begin {self.key.prompts:,} "
                "different prompts: the hash of the whole prompt determines the held-out part"
            )
        if (share := self._held_out_share()) is not None and not self.asked / 2 <= share <= 2 * self.asked:
            sentences.append(f"{share:.1%} of the rows are held out, instead of {self.asked:.1%}")
        return sentences

    @property
    def of_part(self) -> int:
        """Usable rows of the part, used or not."""
        return self.used + self.not_sampled + self.not_mixed

    def _held_out_share(self) -> float | None:
        if self.asked is None or self.usable < MEASURED_ROWS:
            return None
        return (self.of_part if self.part == "held_out" else self.other_part) / self.usable

    def as_json(self) -> dict[str, Any]:
        """Return the counts that are not 0."""
        counts = {
            "read": self.read,
            "used": self.used,
            "other_part": self.other_part,
            "joined_in_pairs": self.paired,
            "not_sampled": self.not_sampled,
            "not_mixed": self.not_mixed,
        }
        content = {
            "name": self.name,
            **{name: count for name, count in counts.items() if count or name in ("read", "used")},
            "left_out": {
                reason: {"rows": count, "first": self.first[reason]}
                for reason, count in self.left_out.items()
            },
            "notes": dict(self.notes),
            "unread_columns": dict(self.unread),
        }
        if self.asked is not None and self.key is not None:
            content["held_out_by"] = str(self.key)
        if self.held_out_characters is not None:
            content["held_out_characters"], content["characters"] = self.held_out_characters
        if self.in_training is not None:
            content["in_training"] = self.in_training
        return content


@dataclass
class LengthReport:
    """What the limit of tokens did to the rows of a training.

    Attributes:
        limit: `trainer.max_length`, or the model's context.
        rows: all rows.
        shortened: rows whose prompt lost its beginning.
        cut: rows whose answer lost its end, and with it the token that ends it.
        left_out: pairs, and conversations with tools, that do not fit.
        rendered_differently: rows left out because the chat template renders their beginning differently once
            more turns follow it.
    """

    limit: int
    rows: int = 0
    shortened: int = 0
    cut: int = 0
    left_out: int = 0
    rendered_differently: int = 0

    def add(
        self,
        *,
        shortened: bool = False,
        cut: bool = False,
        left_out: bool = False,
        rendered_differently: bool = False,
    ) -> None:
        """Count a row."""
        self.rendered_differently += rendered_differently
        self.rows += 1
        self.shortened += shortened
        self.cut += cut
        self.left_out += left_out

    def require_ends(self) -> None:
        """Raise DataError if every answer is cut, so that a model would never learn to end one."""
        if self.rows and self.cut == self.rows:
            raise DataError(
                f"all {self.rows:,} answers are cut, because none fits in {self.limit:,} tokens with its end",
                fix="raise trainer.max_length, or use a model with a longer context",
            )

    def sentences(self) -> list[str]:
        """Return what does not fit and what is left out, one sentence each."""
        counts = {
            "prompts lost their beginning": self.shortened,
            "answers are cut, so that their end is not learned": self.cut,
            "rows left out": self.left_out,
        }
        sentences = [
            f"longer than {self.limit:,} tokens: {count:,} of {self.rows:,} {what}"
            + ("; raise trainer.max_length" if count > SHARE_TO_WARN_OF * self.rows else "")
            for what, count in counts.items()
            if count
        ]
        if self.rendered_differently:
            sentences.append(
                f"left out: {self.rendered_differently:,} of {self.rows:,} rows, whose turns the chat "
                "template renders differently once more turns follow"
            )
        return sentences


@dataclass
class ReadingReport:
    """The rows of all sources of a setting.

    Attributes:
        held_out: the held-out rows that `sources` do not count: those of other sources, and samples.
        lengths, held_out_lengths: what the limit of tokens did to the rows, and to the held-out rows.
    """

    sources: list[SourceReport] = field(default_factory=list)
    held_out: list[SourceReport] = field(default_factory=list)
    lengths: LengthReport | None = None
    held_out_lengths: LengthReport | None = None

    @property
    def read(self) -> int:
        """Rows read."""
        return sum(source.read for source in self.sources)

    @property
    def kept(self) -> int:
        """Rows used."""
        return sum(source.used for source in self.sources)

    @property
    def dropped(self) -> Counter[str]:
        """Unusable rows by reason."""
        return sum((source.left_out for source in self.sources), Counter())

    def in_brackets(self) -> str:
        """Return the reasons of unusable rows, to be appended to an error; empty if there are none."""
        reasons = "; ".join(source.reasons() for source in self.sources if source.left_out)
        return f" ({reasons})" if reasons else ""

    def add_held_out(self, other: ReadingReport) -> None:
        """Add the report of the held-out part, but for sources whose held-out rows are counted already."""
        counted = {(source.name, source.other_part) for source in self.sources}
        self.held_out += [source for source in other.sources if (source.name, source.used) not in counted]

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON; of a mixture, with the share that each source has of the used rows."""
        held_out = {"held_out": [source.as_json() for source in self.held_out]} if self.held_out else {}
        return {
            "read": self.read,
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "sources": [
                source.as_json() | ({"share": self._share(source)} if len(self.sources) > 1 else {})
                for source in self.sources
            ],
            **held_out,
            **{key: asdict(lengths) for key, lengths in self._lengths().items()},
        }

    def _share(self, source: SourceReport) -> float:
        return source.used / max(self.kept, 1)

    def _lengths(self) -> dict[str, LengthReport]:
        both = {"lengths": self.lengths, "held_out_lengths": self.held_out_lengths}
        return {key: lengths for key, lengths in both.items() if lengths is not None}

    def is_notable(self) -> bool:
        """Return whether rows were left out, or something is unexpected."""
        return (
            bool(self.dropped)
            or any(source.warnings() for source in self.sources)
            or self._mixture_warning() is not None
        )

    def _mixture_warning(self) -> str | None:
        """Return how few rows a mixture uses, and why, if more than half of a source are not used."""
        ended = next((source for source in self.sources if source.is_complete and not source.not_mixed), None)
        if ended is None or not any(source.not_mixed > source.used for source in self.sources):
            return None
        available = [source.used + source.not_mixed for source in self.sources]
        weight = ended.weight / sum(source.weight for source in self.sources)
        all_rows = f"; weights {' : '.join(map(str, available))} would use all rows"
        return (
            f"the mixture uses {self.kept:,} of {sum(available):,} rows: it ends after the {ended.used:,} "
            f"rows of {ended.name}, whose weight is {weight:.1%}"
            + (all_rows if all(source.is_complete for source in self.sources) else "")
        )

    def print(self) -> None:
        """Print the report on stderr, on the main process."""
        if ranks.rank() == 0:
            tell(str(self))

    def __str__(self) -> str:
        named = [(source.name, source) for source in self.sources]
        held_out = [(f"{source.name} (held out)", source) for source in self.held_out]
        lines = _aligned(self._table([*named, *held_out]))
        unsaid = [(name, source) for name, source in held_out if not self._is_said(source)]
        for name, source in [*named, *unsaid]:
            prefix = f"{name}: " if len(named) + len(held_out) > 1 else ""
            lines += _aligned(
                [
                    (f"  {prefix}left out: {reason}", f"{count:,}", f"first: {source.first[reason]}")
                    for reason, count in sorted(source.left_out.items())
                ]
            )
            if source.held_out_characters is not None:
                last, characters = source.held_out_characters
                lines.append(f"  {prefix}the last {last:,} of {characters:,} characters are held out")
            lines += [f"  {prefix}{warning}" for warning in source.warnings()]
        if (warning := self._mixture_warning()) is not None:
            lines.append(f"  {warning}")
        for key, lengths in self._lengths().items():
            part = "held out, " if key == "held_out_lengths" else ""
            lines += [f"  {part}{sentence}" for sentence in lengths.sentences()]
        return "\n".join(lines)

    def _is_said(self, held_out: SourceReport) -> bool:
        """Return whether the training part says the same, because both are of one file."""
        return any(
            (source.name, source.left_out, source.first) == (held_out.name, held_out.left_out, held_out.first)
            for source in self.sources
        )

    def _table(self, named: list[tuple[str, SourceReport]]) -> list[tuple[str, ...]]:
        """Return a head and a row for each source, without the columns that are 0 everywhere."""
        counts = [source.counts() for _, source in named]
        shown = [name for name in COLUMNS if name in COLUMNS[:2] or any(row.get(name) for row in counts)]
        shares = [f"{self._share(source):.1%}" for source in self.sources] if len(self.sources) > 1 else []
        table = [("data", *shown, *(["share"] if shares else []))]
        for number, ((name, _), row) in enumerate(zip(named, counts, strict=True)):
            cells = [f"{row[key]:,}" if key in row else "-" for key in shown]
            share = [shares[number] if number < len(shares) else "-"] if shares else []
            table.append((name, *cells, *share))
        return table


def _aligned(table: list[tuple[str, ...]]) -> list[str]:
    """Return rows as lines, the first column on the left and numbers on the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 or cell.startswith("first:") else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
