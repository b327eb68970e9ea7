"""What a stage would read of a source: format, counts, and a few rows with the part that is learned."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from transformers import PreTrainedTokenizerBase

from toolkit.base.errors import DataError, ToolkitError
from toolkit.config import data_formats
from toolkit.config.data_formats import RowKind
from toolkit.config.schema import DataSource
from toolkit.data import files, hub, tables
from toolkit.data.chat import columns, pairs, plain_text, sources
from toolkit.data.chat.answer_end import require_answers
from toolkit.data.chat.fitting import prompt_ids
from toolkit.data.chat.formats import RowFormat, Unusable
from toolkit.data.chat.report import ReadingReport
from toolkit.data.chat.rows import IGNORED, labelled
from toolkit.data.chat.template import RenderedDifferently, encode_text
from toolkit.data.text import documents

_STORYWORLD_KINDS = {
    "conversations": RowKind.SFT,
    "preferences": RowKind.PREFERENCES,
    "prompts": RowKind.PROMPTS,
}
"""By the configuration; the others hold text."""
TRIED_ROWS = 20
MAX_TOKENS = 1 << 20
"""Nothing is truncated here: how long the rows of a training may be is a setting of its recipe."""


@dataclass(frozen=True)
class PreviewRow:
    """A rendered row.

    Attributes:
        ids: token ids of the whole row, (length,).
        is_learned: whether each token carries loss, (length,).
        rejected: ids of the rejected answer of a preference.
    """

    ids: list[int]
    is_learned: list[bool]
    rejected: list[int] = field(default_factory=list)

    def as_json(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Return the row as text, and the text that carries loss."""
        learned = [token for token, learned in zip(self.ids, self.is_learned, strict=True) if learned]
        rejected = {"rejected": tokenizer.decode(self.rejected)} if self.rejected else {}
        return {"text": tokenizer.decode(self.ids), "learned": tokenizer.decode(learned), **rejected}


@dataclass
class Preview:
    """Rows of one source, as stages of this kind read them.

    Attributes:
        format: of the file and of its rows, in words.
        rows: the sum of the next three.
        joined: rows that became the rejected answer of another row.
        left_out: number of rows by reason.
        first: location of the first row of every reason.
        warnings: what is unexpected, one sentence each.
    """

    kind: RowKind
    format: str
    rows: int
    used: int
    joined: int
    left_out: dict[str, int]
    first: dict[str, str]
    warnings: list[str]
    examples: list[PreviewRow]


def preview(
    source: DataSource,
    tokenizer: PreTrainedTokenizerBase,
    *,
    kind: RowKind | None = None,
    count: int = 3,
) -> Preview:
    """Read a whole source and render its first rows.

    Args:
        kind: what the rows are read as; by default what the first rows hold.
        count: number of rows to render.

    Raises:
        DataError: a file or row that cannot be read; no usable row is no error.
        ToolkitError: the tokenizer's chat template cannot be used for training.
    """
    kind = kind or kind_of(source)
    if kind is RowKind.TEXT:
        return _text(source, tokenizer, count)
    if kind is not RowKind.PROMPTS:
        require_answers(tokenizer)
    report = ReadingReport()
    read: Callable[..., Any] = {
        RowKind.SFT: sources.conversations,
        RowKind.PREFERENCES: sources.preferences,
        RowKind.PROMPTS: sources.prompts,
    }[kind]
    try:
        rows = list(islice(read(source, part="all", seed=0, report=report, tokenizers=[tokenizer]), count))
    except DataError:
        counted = report.sources[0].left_out.total() + report.sources[0].paired if report.sources else 0
        if not counted or report.sources[0].read > counted:
            raise  # a row that stops the reading, not the last of rows that are all left out
        rows = []
    found, warnings = report.sources[0], report.sources[0].warnings()
    examples = [_row(row, tokenizer, kind, warnings) for row in rows]
    return Preview(
        kind,
        _format_of(source, found.forms),
        found.read,
        found.used,
        found.paired,
        dict(found.left_out),
        dict(found.first),
        list(dict.fromkeys(warnings)),
        examples,
    )


def _row(
    row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, kind: RowKind, warnings: list[str]
) -> PreviewRow:
    """Return a row as it is rendered; `warnings` receives what is unexpected."""
    if kind is RowKind.PROMPTS:
        ids = prompt_ids(tokenizer, row["prompt"])
        return PreviewRow(ids, [False] * len(ids))
    if kind is RowKind.SFT:
        prompt, answer = row["prompt"], row["completion"][0]
        try:
            found = labelled(tokenizer, prompt, answer, max_length=MAX_TOKENS, loss_on="all")
        except RenderedDifferently as error:
            # The last answer alone may be learned; if not even that is possible, this raises again.
            found = labelled(tokenizer, prompt, answer, max_length=MAX_TOKENS, loss_on="last")
            warnings.append(f"sft leaves out a row that is shown: {error.what}; {error.fix}")
        return PreviewRow(found["input_ids"], [label != IGNORED for label in found["labels"]])
    [pair] = pairs.encode([row], tokenizer, max_length=MAX_TOKENS)
    contexts = [set(context) for context in pair.contexts]
    return PreviewRow(
        pair.prompt + pair.chosen,
        [False] * len(pair.prompt) + [position not in contexts[0] for position in range(len(pair.chosen))],
        [token for position, token in enumerate(pair.rejected) if position not in contexts[1]],
    )


def _text(source: DataSource, tokenizer: PreTrainedTokenizerBase, count: int) -> Preview:
    stream = documents.Stream(source, part="all", seed=0)
    examples: list[PreviewRow] = []
    for document in documents.joined(stream):
        if len(examples) < count:
            ids = encode_text(tokenizer, document.text)
            if tokenizer.eos_token_id is not None:
                ids = [*ids, tokenizer.eos_token_id]
            examples.append(PreviewRow(ids, [True] * len(ids)))
    [found] = stream.reports.values()
    return Preview(
        RowKind.TEXT,
        _format_of(source, found.forms),
        found.read,
        found.used,
        0,
        dict(found.left_out),
        found.first,
        found.warnings(),
        examples,
    )


def kind_of(source: DataSource) -> RowKind:
    """Return what all of the first rows of a source hold, or any of them.

    Raises:
        DataError: they hold nothing that any stage reads.
    """
    if source.name == files.STORYWORLD:
        return _STORYWORLD_KINDS.get(source.config or "stories", RowKind.TEXT)
    rows = list(islice(_raw_rows(source), TRIED_ROWS))
    kinds = [kind for kind in RowKind if kind is not RowKind.TEXT]
    for enough, kind in itertools.product((all, any), kinds):
        if rows and enough(_is_readable(source, kind, location, row) for location, row in rows):
            return kind
    if rows and all(plain_text.text_column(source) not in row for _, row in rows) and source.field is None:
        location, row = rows[0]
        names = columns.suggested(row) or "columns: {prompt: ..., completion: ...}"
        raise DataError(
            f"the format is not recognised; the columns are: {', '.join(sorted(row)) or 'none'}",
            where=location,
            fix=f"map them with `{names}`; for plain text, name its column with `field`",
        )
    return RowKind.TEXT


def _is_readable(source: DataSource, kind: RowKind, location: str, row: dict[str, Any]) -> bool:
    reader = RowFormat(source)
    read: Callable[..., Any] = {
        RowKind.SFT: reader.conversation,
        RowKind.PREFERENCES: reader.preference,
        RowKind.PROMPTS: reader.prompt,
    }[kind]
    try:
        read(row, location=location)
    except Unusable:
        # A known format whose row is left out, such as a preference with two equal answers.
        return True
    except ToolkitError:
        return False
    return True


def _raw_rows(source: DataSource) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (location, row) of the tables of a source; nothing for plain text."""
    paths = files.resolve(source)
    if paths is None:
        yield from hub.rows(source, streaming=True)
        return
    for path in paths:
        if data_formats.suffix_of(path.name) != data_formats.TEXT:
            yield from tables.rows(path, encoding=source.encoding)


def _format_of(source: DataSource, forms: dict[str, int]) -> str:
    """Return the format in words: that of the files, and the columns that were read."""
    paths = None if source.name == files.STORYWORLD else files.resolve(source)
    suffixes = sorted({"".join(path.suffixes[-2:]) or path.name for path in paths or ()})
    kind = ", ".join(suffixes) if paths else ("storyworld" if paths is None else "hub dataset")
    columns = ", ".join(sorted(forms, key=lambda form: -forms[form]))
    return f"{kind}: {columns}" if columns else kind
