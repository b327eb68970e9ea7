"""Conversations, preferences and prompts from any source, in the columns that TRL's trainers read.

A hash of the first user message determines whether a row is held out (see `toolkit.data.chat.split_key`), so
that no stage trains on a row that another stage holds out. For documents of plain text see
`toolkit.data.text.documents`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa

from toolkit.base.console import tell_once
from toolkit.base.errors import DataError
from toolkit.base.progress import slow_pass
from toolkit.base.rng import derive
from toolkit.config import data_formats
from toolkit.config.inputs import has_separate_held_out
from toolkit.config.schema import Data, DataSource
from toolkit.data import files, hub, tables
from toolkit.data.chat import rendered, split_key, template, tools
from toolkit.data.chat.formats import Labelled, Messages, PreferencePair, RowFormat, Unusable
from toolkit.data.chat.report import ReadingReport, SourceReport
from toolkit.data.chat.row_reader import SAME_ANSWERS
from toolkit.data.data_sources import (
    Part,
    as_sources,
    check_mixture,
    example_limit,
    has_held_out,
    held_out_share,
    is_held_out,
    mixture_order,
    rows_of,
    story_rows,
    story_seed,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MESSAGE = {"role": datasets.Value("string"), "content": datasets.Value("string")}
_OPTIONAL_KEYS = {
    "learned": datasets.Value("bool"),
    **dict.fromkeys(("reasoning_content", tools.CALLS, *tools.RESULT_KEYS), datasets.Value("string")),
}
"""Keys of messages that are nullable columns of the table, if any message has them."""
_OPTIONAL_COLUMNS = {"margin": datasets.Value("float64")}
_STORYWORLD_COLUMNS = ("utility_chosen", "utility_rejected", "probability")
_BATCH_ROWS = 1000
UNPAIRED = "a label, and no row with the same prompt and the other label"

Example = dict[str, Any]


class _Reader:
    """Reads the rows of one source as examples.

    Attributes:
        config: the storyworld configuration if the source names none.
        columns: of messages, in every example.
    """

    config: str
    columns: tuple[str, ...]

    def __init__(
        self, source: DataSource, report: SourceReport, tokenizers: Sequence[PreTrainedTokenizerBase]
    ):
        self.report, self.tokenizers = report, tokenizers
        self.format = RowFormat(source, report.unread, report.notes, report.forms)

    def example(self, row: Mapping[str, Any], location: str) -> Example | None:
        """Return the example of a row, None if it is part of one of `rest`.

        Raises:
            Unusable: the row is left out.
            DataError: see `RowFormat`.
        """
        raise NotImplementedError

    def rest(self) -> Iterator[Example]:
        """Yield the examples of several rows, after the last row."""
        yield from ()

    def require_rendered(self, messages: Messages, location: str) -> Messages:
        """Return a conversation that the chat templates render.

        Raises:
            Unusable: it has tools, which a template does not render; or `on_bad_row` is skip.
            DataError: a template refuses it.
        """
        try:
            notes = rendered.require_rendered(messages, self.tokenizers)
        except template.Refused as error:
            if self.format.skips_bad_rows:
                raise Unusable(f"the chat template refuses it: {error.reason}") from None
            raise DataError(error.what, where=location, fix=error.fix) from None
        self.report.notes.update(notes)
        return messages


class _Conversations(_Reader):
    config, columns = "conversations", ("prompt", "completion")

    def example(self, row: Mapping[str, Any], location: str) -> Example:
        messages = self.require_rendered(self.format.conversation(row, location=location), location)
        return {"prompt": messages[:-1], "completion": messages[-1:]}


class _Preferences(_Reader):
    config, columns = "preferences", ("prompt", "chosen", "rejected")

    def __init__(
        self, source: DataSource, report: SourceReport, tokenizers: Sequence[PreTrainedTokenizerBase]
    ):
        super().__init__(source, report, tokenizers)
        if source.field is not None:
            raise DataError(
                "`field` names the column of a conversation, and has no effect on preferences",
                where=source.name,
                fix="name the columns with columns: {prompt: ..., chosen: ..., rejected: ...}",
            )
        self._labelled: dict[str, list[tuple[Labelled, str]]] = {}

    def example(self, row: Mapping[str, Any], location: str) -> Example | None:
        found = self.format.preference(row, location=location)
        if isinstance(found, Labelled):
            self.require_rendered(found.messages, location)
            key = json.dumps(found.messages[:-1])
            self._labelled.setdefault(key, []).append((found, location))
            return None
        for side in (found.chosen, found.rejected):
            self.require_rendered(found.prompt + side, location)
        if rendered.are_alike(found.prompt, (found.chosen, found.rejected), self.tokenizers):
            raise Unusable(SAME_ANSWERS)
        numbers = {name: row[name] for name in _STORYWORLD_COLUMNS if row.get(name) is not None}
        return _preference(found) | numbers

    def rest(self) -> Iterator[Example]:
        """Yield good with bad answers of the same prompt, in the order of the rows."""
        for rows in self._labelled.values():
            good = [row for row in rows if row[0].is_good]
            bad = [row for row in rows if not row[0].is_good]
            pairs = list(zip(good, bad, strict=False))
            for (chosen, location), (rejected, _) in pairs:
                prompt, answers = chosen.messages[:-1], (chosen.messages[-1:], rejected.messages[-1:])
                is_same = answers[0] == answers[1] or rendered.are_alike(prompt, answers, self.tokenizers)
                if is_same:
                    self.report.leave_out(SAME_ANSWERS, location)
                else:
                    yield _preference(PreferencePair(prompt, *answers))
                self.report.paired += 1
            for _, location in good[len(pairs) :] + bad[len(pairs) :]:
                self.report.leave_out(UNPAIRED, location)


class _Prompts(_Reader):
    config, columns = "prompts", ("prompt",)

    def example(self, row: Mapping[str, Any], location: str) -> Example:
        prompt = self.format.prompt(row, location=location)
        return {"prompt": self.require_rendered(prompt, location)}


def _preference(found: PreferencePair) -> Example:
    margin = {} if found.margin is None else {"margin": found.margin}
    sides = {"prompt": found.prompt, "chosen": found.chosen, "rejected": found.rejected}
    return {name: [_without_loss(message) for message in side] for name, side in sides.items()} | margin


def measured_while_training(
    read: Callable[..., datasets.Dataset],
    data: Data,
    *,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
    report: ReadingReport,
) -> Sequence[Mapping[str, Any]]:
    """Return the held-out rows of a training; none, which is said, with `held_out: none`.

    Args:
        read: `conversations` or `preferences`.
        tokenizer: of the model that is trained.
        report: of the training rows; receives the counts of the held-out rows.
    """
    if not has_held_out(data):
        tell_once("no held-out rows (held_out: none): the training measures nothing")
        return []
    held_out = ReadingReport()
    rows = read(data, part="held_out", seed=seed, report=held_out, tokenizers=[tokenizer])
    report.add_held_out(held_out)
    return rows


def conversations(
    data: Data,
    *,
    part: Part,
    seed: int,
    report: ReadingReport | None = None,
    tokenizers: Sequence[PreTrainedTokenizerBase] = (),
) -> datasets.Dataset:
    """Return columns prompt (messages) and completion (one message); the chosen answer of a preference.

    Args:
        report: receives the counts; without it, they are printed if rows are left out.
        tokenizers: their chat templates have to render the rows.

    Raises:
        DataError: a row of no known format, a part without a usable row, or see `toolkit.data.files`.
    """
    return _read(data, _Conversations, _Request(part, seed, tokenizers=tokenizers), report)


def preferences(
    data: Data,
    *,
    part: Part,
    seed: int,
    report: ReadingReport | None = None,
    tokenizers: Sequence[PreTrainedTokenizerBase] = (),
) -> datasets.Dataset:
    """Return columns prompt, chosen and rejected (messages), and margin (float) if a row has one.

    If one of the sources is storyworld or a run of preferences, there are also utility_chosen,
    utility_rejected and probability (with which the noisy annotator prefers the chosen answer); None in the
    rows of other sources.
    """
    has_truth = any(source.name == files.STORYWORLD or files.is_in_run(source) for source in as_sources(data))
    numbers = _STORYWORLD_COLUMNS if has_truth else ()
    return _read(data, _Preferences, _Request(part, seed, numbers, tokenizers), report)


def prompts(
    data: Data,
    *,
    part: Part,
    seed: int,
    report: ReadingReport | None = None,
    tokenizers: Sequence[PreTrainedTokenizerBase] = (),
) -> datasets.Dataset:
    """Return column prompt (messages) of conversations, preferences or prompts."""
    return _read(data, _Prompts, _Request(part, seed, tokenizers=tokenizers), report)


FIRST_ROWS = 20
"""Rows among which `require_readable` looks for one that is used."""


def require_readable(
    source: DataSource, config: str, *, tokenizers: Sequence[PreTrainedTokenizerBase] = ()
) -> None:
    """Read the first row that is used of a local source, as the training would.

    Args:
        config: `conversations`, `preferences` or `prompts`.
        tokenizers: their chat templates have to render the row.

    Raises:
        DataError: of the row, or the file, that the training would stop at.
    """
    readers: dict[str, type[_Reader]] = {
        reader.config: reader for reader in (_Conversations, _Preferences, _Prompts)
    }
    reader = readers[config](source, SourceReport(source.name), tokenizers)
    rows = _rows(source, 0, config, _Request("all", 0))
    next(_converted(islice(rows, FIRST_ROWS), reader, reader.report), None)


SALT_OF_RUNS = "preferences of a run:"
"""Prefix of what is hashed for preferences that a run made, and for people's votes.

Their prompts are all of the training part, so that the hash itself would hold out none of them.
"""


@dataclass(frozen=True)
class _Request:
    """What to read; `numbers` are columns of float64, the templates of `tokenizers` have to render rows."""

    part: Part
    seed: int
    numbers: tuple[str, ...] = ()
    tokenizers: Sequence[PreTrainedTokenizerBase] = ()


def _read(
    data: Data, reader: type[_Reader], request: _Request, report: ReadingReport | None
) -> datasets.Dataset:
    counts = report if report is not None else ReadingReport()
    given = [(index, source, *rows_of(source, request.part)) for index, source in enumerate(as_sources(data))]
    given = [entry for entry in given if entry[2] is not None]
    if not given:
        raise DataError(
            "held_out: none leaves no held-out rows, and they are needed here",
            where=", ".join(source.name for source in as_sources(data)),
            fix="hold out a share, held_out: {documents: 0.1}, or name a file, held_out: {name: FILE}",
        )
    sources, tables = [source for _, source, _, _ in given], []
    for index, limits, source, part in given:
        found = SourceReport(source.name, request.part, has_other_part=part != "all", weight=limits.weight)
        counts.sources.append(found)
        rows = _rows(source, index, reader.config, request)
        table = _Table(reader.columns, request.numbers)
        table.extend(_examples(rows, reader(source, found, request.tokenizers), source, found))
        if not len(table):
            raise _no_row(source, request.part, found)
        found.used = len(table)
        if (sample := _sampled(len(table), limits, index, request)) is not None:
            table.take(sample)
            found.used, found.not_sampled = len(table), found.used - len(table)
        tables.append(table)
    if request.part == "held_out":
        held_out = list(zip(sources, tables, counts.sources, strict=True))
        _count_trained_prompts(held_out, data, reader, request)
    merged = _Table.merged(tables)
    if len(tables) > 1:
        order = _mixed([len(table) for table in tables], sources, counts.sources, request.seed)
        merged.take(order)
    if report is None and counts.is_notable():
        counts.print()
    return merged.dataset()


def _no_row(source: DataSource, part: Part, report: SourceReport) -> DataError:
    """Return the error for a source of which no row can be used."""
    if not report.read:
        return DataError("there is no row", where=source.name, fix="name another file")
    reasons = report.reasons()
    if report.other_part:
        other = "training" if part == "held_out" else "held-out"
        reasons = "; ".join([f"{report.other_part:,} rows: of the {other} part", *filter(None, [reasons])])
    return DataError(
        ("there is" if part == "all" else f"the {part.replace('_', '-')} part has")
        + f" no usable row of {report.read:,}"
        + (f" ({reasons})" if reasons else ""),
        where=source.name,
        fix="give other data" if part == "all" else "give more rows, or change the held_out share",
    )


def _count_trained_prompts(
    held_out: Sequence[tuple[DataSource, _Table, SourceReport]],
    data: Data,
    reader: type[_Reader],
    request: _Request,
) -> None:
    """Count held-out rows of another file or split whose prompt is trained on, and warn; a share has none."""
    separate = [entry for entry in held_out if has_separate_held_out(entry[0])]
    if not separate or any(source.held_out == "all" for source in as_sources(data)):
        return  # with `all` no stage trains on these data
    trained = _read(data, reader, replace(request, part="train"), ReadingReport())
    for source, table, report in separate:
        key = split_key.of_source(source)
        # 8 bytes instead of a prompt: 10 million prompts take 1 GB as a set of integers.
        known = {split_key.fingerprint(key.of(row["prompt"])) for row in trained}
        count = sum(split_key.fingerprint(key.of(prompt)) in known for prompt in table.prompts())
        report.in_training = count
        if count:
            tell_once(
                f"warning: {source.held_out.name or source.held_out.split}: {count:,} of {len(table):,} "
                "held-out rows have a prompt that is also trained on"
            )


def _rows(
    source: DataSource, index: int, config: str, request: _Request
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if source.name == files.STORYWORLD:
        seed = story_seed(request.seed, index)
        yield from story_rows(source, config, part=request.part, seed=seed)
        return
    paths = files.resolve(source)
    if paths is None:
        yield from hub.rows(source, streaming=False)
        return
    for path in paths:
        if data_formats.suffix_of(path.name) == data_formats.TEXT:
            raise DataError(
                f"plain text has no {config}",
                where=str(path),
                fix=f"give {data_formats.listed(data_formats.TABLES)} with columns of messages",
            )
    with slow_pass(f"reading {source.name}", files.size_bytes(paths), "byte") as progress:
        done = 0

        def position(read: int) -> None:
            nonlocal done
            done += read
            progress(done)

        for path in paths:
            yield from tables.rows(path, position, encoding=source.encoding)


def _examples(
    rows: Iterator[tuple[str, Mapping[str, Any]]], reader: _Reader, source: DataSource, report: SourceReport
) -> Iterator[Example]:
    """Yield the examples of a part; storyworld's rows are all of it."""
    share = 0.0
    if source.name != files.STORYWORLD and report.has_other_part:
        report.asked = share = held_out_share(source)
        head = list(islice(rows, split_key.MEASURED_ROWS))
        report.key = split_key.measure(head, source)
        rows = chain(head, rows)
    salt = SALT_OF_RUNS if files.is_in_run(source) or files.is_votes(source) else ""
    for example in _converted(rows, reader, report):
        # of a preference, as in sft and ppo, the turns before the last answer of the chosen conversation
        before = [*example["prompt"], *example.get("chosen", [])[:-1]]
        digest = hashlib.sha256((salt + report.key.of(before)).encode()).digest()
        if report.asked is None or is_held_out(digest, share=share) == (report.part == "held_out"):
            yield example
        else:
            report.other_part += 1


def _converted(
    rows: Iterable[tuple[str, Mapping[str, Any]]], reader: _Reader, report: SourceReport
) -> Iterator[Example]:
    for location, row in rows:
        report.read += 1
        try:
            example = reader.example(row, location)
        except Unusable as reason:
            report.leave_out(str(reason), location)
            continue
        if example is not None:
            yield example
    yield from reader.rest()


class _Table:
    """Examples in Arrow batches, so that only one batch exists as Python objects.

    Keys of messages and columns that few data have are columns only if an example has them.
    """

    def __init__(self, columns: tuple[str, ...], numbers: tuple[str, ...]):
        self.columns, self.numbers = columns, numbers
        self.optional: set[str] = set()
        self.table = self._features(set()).arrow_schema.empty_table()

    def __len__(self) -> int:
        return self.table.num_rows

    def extend(self, examples: Iterator[Example]) -> None:
        batches: list[tuple[set[str], pa.Table]] = []
        while batch := list(islice(examples, _BATCH_ROWS)):
            optional = {name for example in batch for name in self._optional_names(example)}
            batches.append((optional, pa.Table.from_pylist(batch, self._features(optional).arrow_schema)))
        self.optional = {name for optional, _ in batches for name in optional}
        if batches:
            schema = self._features(self.optional).arrow_schema
            self.table = pa.concat_tables(
                table if optional == self.optional else _rewritten(table, schema)
                for optional, table in batches
            )

    def prompts(self) -> Iterator[list[dict[str, str]]]:
        """Yield the prompt of every row."""
        for batch in self.table.select(["prompt"]).to_batches(_BATCH_ROWS):
            yield from batch.column("prompt").to_pylist()

    def take(self, indices: np.ndarray) -> None:
        self.table = self.table.take(indices)

    @classmethod
    def merged(cls, tables: list[_Table]) -> _Table:
        """Return the rows of tables of the same kind."""
        result = cls(tables[0].columns, tables[0].numbers)
        result.optional = {name for table in tables for name in table.optional}
        schema = result._features(result.optional).arrow_schema
        result.table = pa.concat_tables(
            table.table if table.optional == result.optional else _rewritten(table.table, schema)
            for table in tables
        )
        return result

    def dataset(self) -> datasets.Dataset:
        info = datasets.DatasetInfo(features=self._features(self.optional))
        dataset = datasets.Dataset(self.table, info=info)
        if not self.optional & _OPTIONAL_KEYS.keys():
            return dataset
        return dataset.with_transform(_without_nulls)

    def _features(self, optional: set[str]) -> datasets.Features:
        message = _MESSAGE | {name: kind for name, kind in _OPTIONAL_KEYS.items() if name in optional}
        further = {name: kind for name, kind in _OPTIONAL_COLUMNS.items() if name in optional}
        numbers = {name: datasets.Value("float64") for name in self.numbers}
        return datasets.Features({name: [message] for name in self.columns} | numbers | further)

    def _optional_names(self, example: Example) -> Iterator[str]:
        yield from (name for name in _OPTIONAL_COLUMNS if name in example)
        for column in self.columns:
            for message in example[column]:
                if len(message) > len(_MESSAGE):
                    yield from message.keys() - _MESSAGE.keys()


def _rewritten(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with further nullable columns, at every depth."""
    batches = [
        pa.Table.from_pylist(table.slice(start, _BATCH_ROWS).to_pylist(), schema)
        for start in range(0, table.num_rows, _BATCH_ROWS)
    ]
    return pa.concat_tables(batches) if batches else schema.empty_table()


def _without_nulls(columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Remove the keys of messages that the table has for other messages."""
    return {name: [_clean(value) for value in values] for name, values in columns.items()}


def _clean(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [{key: item for key, item in message.items() if item is not None} for message in value]


def _without_loss(message: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key != "learned"}


def _sampled(rows: int, source: DataSource, index: int, request: _Request) -> np.ndarray | None:
    """Return a random sample of the source's number of examples, in the order of the data; None for all."""
    limit = example_limit(source, request.part)
    if limit is None or limit >= rows or source.name == files.STORYWORLD:
        return None
    generator = np.random.default_rng(derive(request.seed, "sample", index))
    return np.sort(generator.choice(rows, limit, replace=False))


def _mixed(sizes: list[int], sources: list[DataSource], reports: list[SourceReport], seed: int) -> np.ndarray:
    """Return an order by weight until a source is exhausted, so that the shares are exact to a row."""
    starts = np.cumsum([0, *sizes])
    counts, order = [0] * len(sizes), []
    for index in mixture_order([source.weight for source in sources], seed=seed):
        if counts[index] == sizes[index]:
            break
        order.append(int(starts[index]) + counts[index])
        counts[index] += 1
    check_mixture(sources, counts)
    for report, count in zip(reports, counts, strict=True):
        report.used, report.not_mixed = count, report.used - count
    return np.array(order)
