"""Conversations, preferences and prompts from any source, in the columns that TRL's trainers read.

A hash of the first user message determines whether a row is held out, so that no stage trains on a row that
another stage holds out. For documents of plain text see `toolkit.data.text.documents`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from toolkit.base import ranks
from toolkit.base.console import tell
from toolkit.base.errors import DataError
from toolkit.base.rng import derive
from toolkit.config import data_formats
from toolkit.config.schema import Data, DataSource
from toolkit.data import files, hub, tables
from toolkit.data.chat import formats
from toolkit.data.data_sources import (
    Part,
    as_sources,
    check_mixture,
    example_limit,
    held_out_share,
    is_held_out,
    mixture_order,
    story_rows,
    story_seed,
)

_MESSAGES = [{"role": datasets.Value("string"), "content": datasets.Value("string")}]
_STORYWORLD_COLUMNS = ("utility_chosen", "utility_rejected", "probability")
_BATCH_ROWS = 1000


@dataclass
class ReadingReport:
    """How many rows were read and kept, and how many were dropped for which reason."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        reasons = [f"{count:,} rows dropped: {reason}" for reason, count in sorted(self.dropped.items())]
        return "; ".join([f"{self.kept:,} of {self.read:,} rows", *reasons])

    def as_json(self) -> dict[str, Any]:
        return {"read": self.read, "kept": self.kept, "dropped": dict(self.dropped)}


def conversations(
    data: Data, *, part: Part, seed: int, report: ReadingReport | None = None
) -> datasets.Dataset:
    """Return columns prompt (messages) and completion (one message); the chosen answer of a preference."""

    def convert(row: Mapping[str, Any], field: str | None, location: str) -> dict[str, Any]:
        prompt, answer = formats.conversation(row, field=field, location=location)
        return {"prompt": prompt, "completion": _answer(answer)}

    columns = {"prompt": _MESSAGES, "completion": _MESSAGES}
    return _read(data, convert, _Request("conversations", columns, part, seed), report)


def preferences(
    data: Data, *, part: Part, seed: int, report: ReadingReport | None = None
) -> datasets.Dataset:
    """Return columns prompt, chosen and rejected (messages).

    If one of the sources is storyworld or a run of preferences, there are also utility_chosen,
    utility_rejected and probability (with which the noisy annotator prefers the chosen answer); None in the
    rows of other sources.
    """

    def convert(row: Mapping[str, Any], field: str | None, location: str) -> dict[str, Any]:
        prompt, chosen, rejected = formats.preference(row, location=location)
        utilities = {name: row.get(name) for name in _STORYWORLD_COLUMNS if name in columns}
        return {"prompt": prompt, "chosen": _answer(chosen), "rejected": _answer(rejected), **utilities}

    columns: dict[str, Any] = {"prompt": _MESSAGES, "chosen": _MESSAGES, "rejected": _MESSAGES}
    if any(source.name == files.STORYWORLD or files.is_in_run(source) for source in as_sources(data)):
        columns |= {name: datasets.Value("float64") for name in _STORYWORLD_COLUMNS}
    return _read(data, convert, _Request("preferences", columns, part, seed), report)


def prompts(data: Data, *, part: Part, seed: int, report: ReadingReport | None = None) -> datasets.Dataset:
    """Return column prompt (messages) of conversations, preferences or prompts."""

    def convert(row: Mapping[str, Any], field: str | None, location: str) -> dict[str, Any]:
        return {"prompt": formats.prompt_of(row, field=field, location=location)}

    return _read(data, convert, _Request("prompts", {"prompt": _MESSAGES}, part, seed), report)


SALT_OF_RUNS = "preferences of a run:"
"""Prefix of what is hashed for preferences that a run made.

Their prompts are all of the training part, so that the hash itself would hold out none of them.
"""

Convert = Callable[[Mapping[str, Any], str | None, str], dict[str, Any]]


@dataclass(frozen=True)
class _Request:
    """What to read.

    Attributes:
        config: the storyworld configuration if the source names none.
    """

    config: str
    columns: dict[str, Any]
    part: Part
    seed: int


def _read(data: Data, convert: Convert, request: _Request, report: ReadingReport | None) -> datasets.Dataset:
    sources = as_sources(data)
    counts = report if report is not None else ReadingReport()
    parts = []
    for index, source in enumerate(sources):
        rows = _converted(_rows(source, index, request), convert, source, request.part, counts)
        table = _table(rows, request.columns)
        if not table.num_rows:
            raise DataError(
                f"the {request.part.replace('_', '-')} part has no usable row ({counts})",
                where=source.name,
                fix="give more rows, or change the held_out share",
            )
        parts.append(_sample(table, source, index, request))
    table = parts[0] if len(parts) == 1 else _mixed(parts, sources, request.seed)
    counts.kept = table.num_rows
    if report is None and counts.dropped and ranks.rank() == 0:
        tell(f"{', '.join(source.name for source in sources)}: {counts}")
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=datasets.Features(request.columns)))


def _rows(source: DataSource, index: int, request: _Request) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if source.name == files.STORYWORLD:
        seed = story_seed(request.seed, index)
        yield from story_rows(source, request.config, part=request.part, seed=seed)
        return
    paths = files.resolve(source)
    if paths is None:
        yield from hub.rows(source, streaming=False)
        return
    for path in paths:
        if data_formats.suffix_of(path.name) == data_formats.TEXT:
            raise DataError(
                f"plain text has no {request.config}",
                where=str(path),
                fix=f"give {data_formats.listed(data_formats.TABLES)} with columns of messages",
            )
        yield from tables.rows(path, encoding=source.encoding)


def _converted(
    rows: Iterator[tuple[str, Mapping[str, Any]]],
    convert: Convert,
    source: DataSource,
    part: Part,
    report: ReadingReport,
) -> Iterator[dict[str, Any]]:
    """Convert the rows of a part; storyworld's rows are all of it."""
    share = held_out_share(source)
    salt = SALT_OF_RUNS if files.is_in_run(source) else ""
    part = "all" if source.name == files.STORYWORLD else part
    for location, row in rows:
        report.read += 1
        try:
            converted = convert(row, source.field, location)
        except formats.Unusable as reason:
            report.dropped[str(reason)] += 1
            continue
        if part == "all" or is_held_out(_digest(converted["prompt"], salt), share=share) == (
            part == "held_out"
        ):
            yield converted


def _digest(prompt: formats.Messages, salt: str = "") -> bytes:
    return hashlib.sha256((salt + formats.first_request(prompt)).encode()).digest()


def _table(rows: Iterator[dict[str, Any]], columns: dict[str, Any]) -> pa.Table:
    """Collect rows in batches, so that only one batch exists as Python objects."""
    schema = datasets.Features(columns).arrow_schema
    batches = []
    while batch := list(islice(rows, _BATCH_ROWS)):
        batches.append(pa.Table.from_pylist(batch, schema=schema))
    return pa.concat_tables(batches) if batches else schema.empty_table()


def _sample(table: pa.Table, source: DataSource, index: int, request: _Request) -> pa.Table:
    """Return a random sample of at most the source's number of examples, in the order of the data."""
    limit = example_limit(source, request.part)
    if limit is None or limit >= table.num_rows or source.name == files.STORYWORLD:
        return table
    generator = np.random.default_rng(derive(request.seed, "sample", index))
    return table.take(np.sort(generator.choice(table.num_rows, limit, replace=False)))


def _mixed(parts: list[pa.Table], sources: list[DataSource], seed: int) -> pa.Table:
    """Interleave by weight until a source is exhausted, so that the shares are exact to a row."""
    starts = np.cumsum([0] + [part.num_rows for part in parts])
    counts, order = [0] * len(parts), []
    for index in mixture_order([source.weight for source in sources], seed=seed):
        if counts[index] == parts[index].num_rows:
            break
        order.append(int(starts[index]) + counts[index])
        counts[index] += 1
    check_mixture(sources, counts)
    return pa.concat_tables(parts).take(np.array(order))


def _answer(text: str) -> formats.Messages:
    return [{"role": "assistant", "content": text}]
