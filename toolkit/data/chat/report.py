"""What became of the rows of every source: used, held out, and left out for which reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from toolkit.base import ranks
from toolkit.base.console import tell
from toolkit.data.chat.split_key import FIRST_MESSAGE, SplitKey

SHARE_TO_WARN_OF = 0.1
"""Share of rows that do not fit, from which the limit should be raised."""
MEASURED_ROWS = 20
"""Fewest rows of which the held-out share is compared with the one that was asked for."""


@dataclass
class SourceReport:
    """The rows of one source; `read` is the sum of all other counts.

    Attributes:
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
        asked: the share to hold out; None for storyworld, which has parts of its own, and a whole source.
        has_other_part: whether the source has rows of the other part, too.
    """

    name: str
    part: str = "all"
    has_other_part: bool = True
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
    key: SplitKey = FIRST_MESSAGE

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
        return self.used + self.not_sampled + self.not_mixed + self.other_part

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
        if self.asked is not None and self.key.is_whole_prompt:
            sentences.append(
                f"only {self.key.first_messages:,} different first messages begin {self.key.prompts:,} "
                "different prompts: the hash of the whole prompt determines the held-out part"
            )
        if self.not_mixed > self.used:
            sentences.append(
                f"{self.used:,} of {self.used + self.not_mixed:,} rows used: another source is exhausted; "
                "give that source more rows, or this one a larger weight"
            )
        if (share := self._held_out_share()) is not None and not self.asked / 2 <= share <= 2 * self.asked:
            sentences.append(f"{share:.1%} of the rows are held out, instead of {self.asked:.1%}")
        return sentences

    def _held_out_share(self) -> float | None:
        of_part = self.used + self.not_sampled + self.not_mixed
        total = of_part + self.other_part
        if self.asked is None or total < MEASURED_ROWS:
            return None
        return (of_part if self.part == "held_out" else self.other_part) / total

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
        if self.asked is not None:
            content["held_out_by"] = str(self.key)
        return content


@dataclass
class LengthReport:
    """What the limit of tokens did to the rows of a training.

    Attributes:
        limit: `trainer.max_length`, or the model's context.
        rows: all rows.
        shortened: rows whose prompt lost its beginning.
        cut: rows whose answer lost its end, and with it the token that ends it.
        left_out: pairs that do not fit.
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

    def sentences(self) -> list[str]:
        """Return what does not fit and what is left out, one sentence each."""
        counts = {
            "prompts lost their beginning": self.shortened,
            "answers are cut, so that their end is not learned": self.cut,
            "pairs left out": self.left_out,
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
    """The rows of all sources of a setting; `lengths` are those of its rows, or of the held-out rows."""

    sources: list[SourceReport] = field(default_factory=list)
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

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "read": self.read,
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "sources": [source.as_json() for source in self.sources],
            **{key: asdict(lengths) for key, lengths in self._lengths().items()},
        }

    def _lengths(self) -> dict[str, LengthReport]:
        both = {"lengths": self.lengths, "held_out_lengths": self.held_out_lengths}
        return {key: lengths for key, lengths in both.items() if lengths is not None}

    def is_notable(self) -> bool:
        """Return whether rows were left out, or something is unexpected."""
        return bool(self.dropped) or any(source.warnings() for source in self.sources)

    def print(self) -> None:
        """Print the report on stderr, on the main process."""
        if ranks.rank() == 0:
            tell(str(self))

    def __str__(self) -> str:
        counts = [source.counts() for source in self.sources]
        shown = [
            name
            for name in (counts[0] if counts else ())
            if name in ("rows read", "used") or any(row[name] for row in counts)
        ]
        table = [("data", *shown)]
        table += [
            (source.name, *(f"{row[name]:,}" for name in shown))
            for source, row in zip(self.sources, counts, strict=True)
        ]
        lines = _aligned(table)
        for source in self.sources:
            prefix = f"{source.name}: " if len(self.sources) > 1 else ""
            reasons = sorted(source.left_out.items())
            lines += _aligned(
                [
                    (f"  {prefix}left out: {reason}", f"{count:,}", f"first: {source.first[reason]}")
                    for reason, count in reasons
                ]
            )
            lines += [f"  {prefix}{warning}" for warning in source.warnings()]
        for key, lengths in self._lengths().items():
            part = "held out, " if key == "held_out_lengths" else ""
            lines += [f"  {part}{sentence}" for sentence in lengths.sentences()]
        return "\n".join(lines)


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
