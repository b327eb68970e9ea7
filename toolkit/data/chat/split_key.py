"""What determines the part of a conversation: the hash of its first user message, or of its whole prompt.

Most data sets begin every conversation with a message of its own. In one whose conversations share their
first messages ("Hello"), this hash would hold out all of them, or none, so that the whole prompt counts.
"""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from toolkit.base.errors import DataError
from toolkit.config.schema import DataSource
from toolkit.data import files, tables
from toolkit.data.chat import tools
from toolkit.data.chat.formats import RowFormat, Unusable
from toolkit.data.chat.messages import Message

MEASURED_ROWS = 10_000
"""Rows at the beginning of a source that decide; all stages read the same."""
FEWEST_PROMPTS = 20
"""Fewer prompts are split by their first messages."""


@dataclass(frozen=True)
class SplitKey:
    """The key of a source: whether its different `prompts` begin with fewer different `first_messages`."""

    first_messages: int
    prompts: int

    @property
    def is_whole_prompt(self) -> bool:
        """Whether fewer than half of the prompts begin with a message of their own."""
        return self.prompts >= FEWEST_PROMPTS and 2 * self.first_messages < self.prompts

    def of(self, prompt: Sequence[Message]) -> str:
        """Return the key of a prompt."""
        return whole_prompt(prompt) if self.is_whole_prompt else first_request(prompt)

    def __str__(self) -> str:
        return "the whole prompt" if self.is_whole_prompt else "the first user message"


FIRST_MESSAGE = SplitKey(0, 0)


def first_request(prompt: Sequence[Message]) -> str:
    """Return the first user message, normalised in case, white space and Unicode form.

    Its hash determines the part, so that a prompt is in the same part in all stages.
    """
    return normalised(
        next(
            message["content"]
            for message in prompt
            if message["role"] == "user" and message["content"].strip()
        )
    )


def whole_prompt(prompt: Sequence[Message]) -> str:
    """Return all messages without system and tools, normalised; of one message, this is `first_request`."""
    texts = (message["content"] for message in prompt if message["role"] not in ("system", tools.TOOLS))
    return normalised(" ".join(texts))


def measure(rows: Iterable[tuple[str, Mapping[str, Any]]], source: DataSource) -> SplitKey:
    """Return the key of a source, from the prompts of its rows; rows without a prompt do not count."""
    row_format = RowFormat(source)
    first, whole = set(), set()
    for location, row in islice(rows, MEASURED_ROWS):
        try:
            prompt = row_format.prompt(row, location=location)
        except (Unusable, DataError):  # it is counted, or an error, where the row is read
            continue
        first.add(_digest(first_request(prompt)))
        whole.add(_digest(whole_prompt(prompt)))
    return SplitKey(len(first), len(whole))


def of_source(source: DataSource) -> SplitKey:
    """Return the key of a source, whose first rows are read once in a process."""
    if source.name == files.STORYWORLD:
        return FIRST_MESSAGE
    return _of_source(source)


@functools.lru_cache(maxsize=64)
def _of_source(source: DataSource) -> SplitKey:
    if (paths := files.resolve(source)) is None:
        from toolkit.data import hub  # `datasets` takes 1 s

        return measure(hub.rows(source, streaming=True), source)
    return measure((row for path in paths for row in tables.rows(path, encoding=source.encoding)), source)


def fingerprint(text: str) -> int:
    """Return 8 bytes of a hash, to count texts that occur twice."""
    return int.from_bytes(_digest(text)[:8], "big")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def normalised(text: str) -> str:
    """Return a text without differences in case, white space and Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
