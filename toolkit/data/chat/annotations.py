"""Annotation files: which of two answers people or judges prefer.

Supported formats are AlpacaEval's `annotations.json` (`instruction`, `output_1`, `output_2`, `generator_1`,
`generator_2`, `annotator`, and `preference` from 1, the first answer is better, over 1.5, a tie, to 2, the
second is better), the same as JSON lines, and preferences (`chosen`, `rejected`, optionally `prompt`,
`chosen_model`, `rejected_model`, `annotator`). `preference` may be a list, or an object {annotator:
preference}, if a row has several annotators.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolkit.base.errors import DataError
from toolkit.config import data_formats
from toolkit.data import files, tables
from toolkit.data.chat import columns, formats
from toolkit.data.chat.formats import Unusable

COLUMNS = ("instruction", "output_1", "output_2", "preference")
ANONYMOUS = "annotator"
OLD_TIE = 0
"""A tie in older files of AlpacaEval, which now writes 1.5."""


@dataclass(frozen=True)
class AnnotatedAnswer:
    """An answer, and the name of the model that wrote it if the file gives it."""

    text: str
    model: str | None = None

    @property
    def order_key(self) -> tuple[str, str]:
        """A sort key that is independent of the preference and of the order in the file."""
        return self.model or "", hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Annotation:
    """The preference of one annotator between two answers, which are in the order of the file.

    Attributes:
        outcome: of the first answer: 1 if it is better, 0.5 for a tie, 0 if the second is better.
        shown: whether the file gives the order in which the annotator saw the answers.
    """

    prompt: str
    first: AnnotatedAnswer
    second: AnnotatedAnswer
    outcome: float
    annotator: str
    shown: bool


@dataclass
class Annotations:
    """The annotations of a file, and the number of rows that were left out, by reason."""

    rows: list[Annotation] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read(name: str) -> Annotations:
    """Read the annotations of a file, folder or glob.

    Raises:
        DataError: no such file, a row of an unknown format, an invalid preference, or no annotation.
    """
    annotations = Annotations()
    for path in files.local_files(name, data_formats.TABLES):
        is_json = data_formats.suffix_of(path.name) == ".json"
        rows = tables.json_array(path, of="annotations") if is_json else tables.rows(path)
        for location, row in rows:
            if data_formats.suffix_of(path.name) in data_formats.CELLS:
                row = {**row, "preference": columns.scalar(row["preference"])} if "preference" in row else row
            try:
                annotations.rows += _annotations(row, location)
            except Unusable as reason:
                annotations.left_out[str(reason)] += 1
    if not annotations.rows:
        reasons = "; ".join(f"{reason} ({count} rows)" for reason, count in annotations.left_out.items())
        raise DataError(
            f"no annotation{f': {reasons}' if reasons else ''}", where=name, fix="give another file"
        )
    return annotations


def _annotations(row: Mapping[str, Any], location: str) -> list[Annotation]:
    if "output_1" in row or "output_2" in row:
        for column in COLUMNS:
            if column not in row and not (column == "instruction" and "prompt" in row):
                raise _unreadable(row, column, location)
        prompt, first, second = _pair(row, location)
        preference = row["preference"]
    elif "chosen" in row and "rejected" in row:
        pair = formats.RowFormat().preference_pair(row, location=location)
        prompt, texts = json.dumps(pair.prompt, ensure_ascii=False), pair.answers
        names = [_name(row, f"{side}_model", location) for side in ("chosen", "rejected")]
        first, second = (AnnotatedAnswer(text, name) for text, name in zip(texts, names, strict=True))
        preference = row.get("preference", 1)
    else:
        raise _unreadable(row, "output_1", location)
    outcomes = _outcomes(preference, _annotator(row, location), location)
    if not outcomes:
        raise Unusable("without a preference")
    shown = "output_1" in row
    return [
        Annotation(prompt, first, second, outcome, annotator, shown)
        for annotator, outcome in outcomes.items()
    ]


def _pair(row: Mapping[str, Any], location: str) -> tuple[str, AnnotatedAnswer, AnnotatedAnswer]:
    """Return prompt and answers of a row in AlpacaEval's format."""
    values = [row.get("instruction", row.get("prompt")), row["output_1"], row["output_2"]]
    for column, value in zip(("instruction", "output_1", "output_2"), values, strict=True):
        if not isinstance(value, str):
            raise DataError(
                f"{column!r} holds {type(value).__name__}, not text",
                where=location,
                fix="give the text of the instruction and of both answers",
            )
    prompt = "\n\n".join(part for part in (values[0], row.get("input")) if part)
    answers = [AnnotatedAnswer(values[side], _name(row, f"generator_{side}", location)) for side in (1, 2)]
    return prompt, answers[0], answers[1]


def _name(row: Mapping[str, Any], column: str, location: str) -> str | None:
    name = row.get(column)
    if name is not None and not (isinstance(name, str) and name.strip()):
        raise DataError(
            f"{column!r} is {name!r}, not a name", where=location, fix="give a name, or remove it"
        )
    return name


def _annotator(row: Mapping[str, Any], location: str) -> str:
    if row.get("annotator") is None and isinstance(row.get("annotator_index"), int):
        return str(row["annotator_index"])
    return _name(row, "annotator", location) or ANONYMOUS


def _outcomes(value: Any, annotator: str, location: str) -> dict[str, float]:
    """Return the outcome of the first answer by annotator, without missing preferences."""
    if isinstance(value, Mapping):
        preferences = {str(name): preference for name, preference in value.items()}
    elif isinstance(value, list):
        preferences = {str(number): preference for number, preference in enumerate(value, 1)}
    else:
        preferences = {annotator: value}
    return {
        name: _outcome(preference, location)
        for name, preference in preferences.items()
        if preference is not None
    }


def _outcome(value: Any, location: str) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if is_number and value == OLD_TIE:
        return 0.5
    if not is_number or not 1 <= value <= 2:
        raise DataError(
            f"the preference {value!r} is not a number from 1 to 2",
            where=location,
            fix="give 1 if output_1 is better, 2 if output_2 is, 1.5 for a tie, null for no preference",
        )
    return 2.0 - float(value)


def _unreadable(row: Mapping[str, Any], column: str, location: str) -> DataError:
    return DataError(
        f"there is no column {column!r}; the columns are: {', '.join(sorted(row)) or 'none'}",
        where=location,
        fix=f"annotations have {', '.join(COLUMNS)}; or chosen and rejected",
    )
