"""Conversations, preferences and prompts from any source, as the columns that TRL's trainers read.

Documents of plain text come from `toolkit.data.text.documents`. Training and held-out part are told apart
by a hash of the first user message: what one stage holds out no other stage trains on.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from toolkit.base import ranks
from toolkit.base.errors import DataError
from toolkit.base.rng import derive
from toolkit.config.schema import Data, DataSource
from toolkit.data import files, hub
from toolkit.data.chat import formats
from toolkit.data.text.documents import (
    DEFAULT_HELD_OUT,
    Document,
    Part,
    as_sources,
    fraction_of,
    story_rows,
    story_seed,
    texts,
    turns,
)

__all__ = ["Document", "Report", "conversations", "preferences", "prompts", "texts"]

_MESSAGES = [{"role": datasets.Value("string"), "content": datasets.Value("string")}]
_KNOWN = ("utility_chosen", "utility_rejected", "probability")
_BATCH_ROWS = 1000


@dataclass
class Report:
    """What was read: rows of all sources, those of the part, and why the others were left out."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        why = "; ".join(
            f"{count:,} rows left out: {reason}" for reason, count in sorted(self.dropped.items())
        )
        return f"{self.kept:,} of {self.read:,} rows" + (f"; {why}" if why else "")

    def as_json(self) -> dict[str, Any]:
        return {"read": self.read, "kept": self.kept, "dropped": dict(self.dropped)}


def conversations(data: Data, *, part: Part, seed: int, report: Report | None = None) -> datasets.Dataset:
    """Return columns prompt (messages) and completion (one message); of preferences the chosen answer."""

    def convert(row: Mapping[str, Any], field: str | None, place: str) -> dict[str, Any]:
        prompt, answer = formats.conversation(row, field=field, place=place)
        return {"prompt": prompt, "completion": _answer(answer)}

    columns = {"prompt": _MESSAGES, "completion": _MESSAGES}
    return _read(data, convert, _Wanted("conversations", columns, part, seed), report)


def preferences(data: Data, *, part: Part, seed: int, report: Report | None = None) -> datasets.Dataset:
    """Return columns prompt, chosen and rejected (messages).

    Where a source is storyworld also utility_chosen, utility_rejected, and probability (that the noisy
    annotator prefers what is chosen here); None in the rows of other sources.
    """

    def convert(row: Mapping[str, Any], field: str | None, place: str) -> dict[str, Any]:
        prompt, chosen, rejected = formats.preference(row, place=place)
        known = {name: row.get(name) for name in _KNOWN if name in columns}
        return {"prompt": prompt, "chosen": _answer(chosen), "rejected": _answer(rejected), **known}

    columns: dict[str, Any] = {"prompt": _MESSAGES, "chosen": _MESSAGES, "rejected": _MESSAGES}
    if any(source.name == files.STORYWORLD for source in as_sources(data)):
        columns |= {name: datasets.Value("float64") for name in _KNOWN}
    return _read(data, convert, _Wanted("preferences", columns, part, seed), report)


def prompts(data: Data, *, part: Part, seed: int, report: Report | None = None) -> datasets.Dataset:
    """Return column prompt (messages), of conversations, preferences or prompts."""

    def convert(row: Mapping[str, Any], field: str | None, place: str) -> dict[str, Any]:
        return {"prompt": formats.prompt_of(row, field=field, place=place)}

    return _read(data, convert, _Wanted("prompts", {"prompt": _MESSAGES}, part, seed), report)


Convert = Callable[[Mapping[str, Any], str | None, str], dict[str, Any]]


@dataclass(frozen=True)
class _Wanted:
    config: str
    """Of storyworld, where the source names none."""
    columns: dict[str, Any]
    part: Part
    seed: int


def _read(data: Data, convert: Convert, wanted: _Wanted, report: Report | None) -> datasets.Dataset:
    sources = as_sources(data)
    noted = report if report is not None else Report()
    parts = []
    for index, source in enumerate(sources):
        rows = _converted(_rows(source, index, wanted), convert, source, wanted.part, noted)
        table = _table(rows, wanted.columns)
        if not table.num_rows:
            raise DataError(
                f"the {wanted.part.replace('_', '-')} part has no usable row ({noted})",
                where=source.name,
                fix="give more rows, or another held_out share",
            )
        parts.append(_sample(table, source, index, wanted))
    table = parts[0] if len(parts) == 1 else _mixed(parts, sources, wanted.seed)
    noted.kept = table.num_rows
    if report is None and noted.dropped and ranks.rank() == 0:
        print(f"{', '.join(source.name for source in sources)}: {noted}", file=sys.stderr)
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=datasets.Features(wanted.columns)))


def _rows(source: DataSource, index: int, wanted: _Wanted) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if source.name == files.STORYWORLD:
        seed = story_seed(wanted.seed, index)
        yield from story_rows(source, wanted.config, part=wanted.part, seed=seed)
        return
    paths = files.resolve(source)
    if paths is None:
        yield from hub.rows(source, streaming=False)
        return
    for path in paths:
        if files.suffix_of(path) == ".txt":
            raise DataError(
                f"plain text has no {wanted.config}",
                where=str(path),
                fix="give .jsonl, .jsonl.gz or .parquet with columns of messages",
            )
        yield from files.rows(path)


def _converted(
    rows: Iterator[tuple[str, Mapping[str, Any]]],
    convert: Convert,
    source: DataSource,
    part: Part,
    report: Report,
) -> Iterator[dict[str, Any]]:
    if source.held_out is not None and source.held_out.last_characters is not None:
        raise DataError(
            "held_out.last_characters is for text, not for conversations",
            where=source.name,
            fix="give held_out: {documents: 0.1}",
        )
    share = source.held_out.documents if source.held_out else DEFAULT_HELD_OUT
    for place, row in rows:
        report.read += 1
        try:
            converted = convert(row, source.field, place)
        except formats.Unusable as reason:
            report.dropped[str(reason)] += 1
            continue
        all_rows = part == "all" or source.name == files.STORYWORLD
        if all_rows or (_place_of(converted["prompt"]) < share) == (part == "held_out"):
            yield converted


def _place_of(prompt: formats.Messages) -> float:
    return fraction_of(hashlib.sha256(formats.first_request(prompt).encode()).digest())


def _table(rows: Iterator[dict[str, Any]], columns: dict[str, Any]) -> pa.Table:
    """Gather rows in batches: Arrow holds the text once, Python's objects of a batch only."""
    schema = datasets.Features(columns).arrow_schema
    batches = []
    while batch := list(islice(rows, _BATCH_ROWS)):
        batches.append(pa.Table.from_pylist(batch, schema=schema))
    return pa.concat_tables(batches) if batches else schema.empty_table()


def _sample(table: pa.Table, source: DataSource, index: int, wanted: _Wanted) -> pa.Table:
    limit = source.held_out_examples if wanted.part == "held_out" else source.examples
    if limit is None or limit >= table.num_rows or source.name == files.STORYWORLD:
        return table
    generator = np.random.default_rng(derive(wanted.seed, "sample", index))
    return table.take(np.sort(generator.choice(table.num_rows, limit, replace=False)))


def _mixed(parts: list[pa.Table], sources: list[DataSource], seed: int) -> pa.Table:
    """Interleave by weight until the first source is used up, so that the shares are exact to a row."""
    starts = np.cumsum([0] + [part.num_rows for part in parts])
    used, order = [0] * len(parts), []
    for index in turns([source.weight for source in sources], seed=seed):
        if used[index] == parts[index].num_rows:
            break
        order.append(int(starts[index]) + used[index])
        used[index] += 1
    for source, count in zip(sources, used, strict=True):
        if not count:
            raise DataError(
                "the mixture ended before a row of this source had its turn",
                where=source.name,
                fix="give the others more rows, or this one more weight",
            )
    return pa.concat_tables(parts).take(np.array(order))


def _answer(text: str) -> formats.Messages:
    return [{"role": "assistant", "content": text}]
