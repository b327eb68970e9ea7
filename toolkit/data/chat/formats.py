"""Rows of a dataset as messages; the format is recognised by the names and types of the columns.

`toolkit.data.chat.columns` lists the columns, and docs/DATA.md shows a row of every format. An unusable row
raises Unusable with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from toolkit.base.errors import DataError
from toolkit.config.schema import DataSource
from toolkit.data.chat import columns
from toolkit.data.chat.columns import ColumnError
from toolkit.data.chat.messages import Messages
from toolkit.data.chat.row_reader import Labelled, PreferencePair, RowReader
from toolkit.data.chat.unusable import Unusable

__all__ = ["Labelled", "Messages", "PreferencePair", "RowFormat", "Unusable"]

Row = Mapping[str, Any]
Result = TypeVar("Result")


@dataclass
class RowFormat:
    """Reads rows of one source.

    Attributes:
        source: for the settings `field`, `columns` and `on_bad_row`.
        unread: number of rows that have a column, or `column.key` of a message, that is not read.
        notes: number of rows of which something was left out, by what that was.
        forms: number of rows by the columns that were read, such as `prompt + completion`.
    """

    source: DataSource | None = None
    unread: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)

    def conversation(self, row: Row, *, location: str) -> Messages:
        """Return the messages of a conversation; the last one is an answer that is learned.

        Of two answers, it is the better one.

        Raises:
            Unusable: there is no answer, or none that is good.
            DataError: no known column, or a column of another type.
        """
        return self._read(row, location, RowReader.conversation)

    def preference(self, row: Row, *, location: str) -> PreferencePair | Labelled:
        """Return two answers to a prompt, or one answer with a label.

        Raises:
            Unusable: the prompts differ, an answer is empty, the answers or their scores are equal, or the
                chosen answer has the lower score.
            DataError: no known column, or a column of another type.
        """
        return self._read(row, location, RowReader.preference)

    def preference_pair(self, row: Row, *, location: str) -> PreferencePair:
        """Return two answers to a prompt; raises Unusable for one answer with a label, too."""
        found = self.preference(row, location=location)
        if isinstance(found, Labelled):
            raise Unusable("one answer with a label")
        return found

    def prompt(self, row: Row, *, location: str) -> Messages:
        """Return the prompt of a conversation, of a preference, or of a row without an answer."""
        return self._read(row, location, RowReader.prompt, counts_all=False)

    def holds_conversation(self, row: Row, *, location: str) -> bool:
        """Return whether a row has an answer, and not only text or a prompt."""
        return RowReader(columns.mapped(row, self.source, location=location)).holds_answer()

    def holds_prompt(self, row: Row, *, location: str) -> bool:
        """Return whether a row has a prompt, alone or with answers."""
        reader = RowReader(columns.mapped(row, self.source, location=location))
        return reader.holds_answer() or any(name in reader.row for name in columns.PROMPTS)

    @property
    def skips_bad_rows(self) -> bool:
        """Whether rows that would be an error are left out."""
        return self.source is not None and self.source.on_bad_row == "skip"

    def _read(
        self, row: Row, location: str, read: Callable[[RowReader], Result], *, counts_all: bool = True
    ) -> Result:
        reader = RowReader(columns.mapped(row, self.source, location=location), location)
        conditional = frozenset() if counts_all else columns.CONDITIONAL - {"prompt"}
        try:
            columns.refuse(reader.row)
            return read(reader)
        except Unusable:
            conditional = columns.CONDITIONAL  # they were perhaps not reached
            raise
        except ColumnError:
            raise
        except DataError as error:
            conditional = columns.CONDITIONAL
            if self.skips_bad_rows:
                raise Unusable(error.what) from None
            raise
        finally:
            known = reader.used | columns.QUIET | conditional
            self.unread.update(name for name in reader.row if name not in known)
            self.unread.update(reader.unread_keys)
            self.notes.update(reader.notes)
            self.forms[" + ".join(sorted(reader.used & reader.row.keys()))] += 1
