"""Files in which people or judges have said which of two answers is better.

Read are AlpacaEval's `annotations.json` (`instruction`, `output_1`, `output_2`, `generator_1`, `generator_2`,
`annotator`, and `preference` from 1, the first is better, over 1.5, a tie, to 2, the second is), the same in
lines, and preferences (`chosen`, `rejected`, with or without `prompt`), which may name `chosen_model`,
`rejected_model` and `annotator` too. Where several have annotated a row, its `preference` is a list, or an
object {annotator: preference}.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.base.errors import DataError
from toolkit.data import files
from toolkit.data.chat import formats
from toolkit.data.chat.formats import Unusable

SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".parquet")
COLUMNS = ("instruction", "output_1", "output_2", "preference")
ANONYMOUS = "annotator"
OLD_TIE = 0
"""What AlpacaEval wrote for a tie before 1.5."""


@dataclass(frozen=True)
class Answer:
    """Text, and the name of the model that wrote it where the file says so."""

    text: str
    model: str | None = None

    @property
    def place(self) -> tuple[str, str]:
        """An order of answers that has nothing to do with which is better, nor with who comes first."""
        return self.model or "", hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Annotation:
    """What one annotator said of two answers, in the order in which the file shows them.

    Attributes:
        outcome: of the first answer: 1 it is better, 0.5 a tie, 0 the second is better.
        shown: the file says in which order the annotator saw them.
    """

    prompt: str
    first: Answer
    second: Answer
    outcome: float
    annotator: str
    shown: bool


@dataclass
class Annotations:
    """All that was read. left_out: rows that say nothing, by reason."""

    rows: list[Annotation] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read(name: str) -> Annotations:
    """Read the annotations of a file or glob.

    Raises:
        DataError: no such file, a row of neither layout, a preference that is none, nothing to read.
    """
    found = Annotations()
    for path in files.local_files(name, SUFFIXES):
        rows = _array_rows(path) if files.suffix_of(path) == ".json" else files.rows(path)
        for place, row in rows:
            try:
                found.rows += _annotations(row, place)
            except Unusable as reason:
                found.left_out[str(reason)] += 1
    if not found.rows:
        why = "; ".join(f"{reason} ({count} rows)" for reason, count in found.left_out.items())
        raise DataError(f"no annotation{f': {why}' if why else ''}", where=name, fix="name another file")
    return found


def _annotations(row: Mapping[str, Any], place: str) -> list[Annotation]:
    if "output_1" in row or "output_2" in row:
        for column in COLUMNS:
            if column not in row and not (column == "instruction" and "prompt" in row):
                raise _unreadable(row, column, place)
        prompt, first, second = _pair(row, place)
        preference = row["preference"]
    elif "chosen" in row and "rejected" in row:
        messages, *texts = formats.preference(row, place=place)
        prompt = json.dumps(messages, ensure_ascii=False)
        names = [_name(row, f"{side}_model", place) for side in ("chosen", "rejected")]
        first, second = (Answer(text, name) for text, name in zip(texts, names, strict=True))
        preference = row.get("preference", 1)
    else:
        raise _unreadable(row, "output_1", place)
    said = _preferences(preference, _annotator(row, place), place)
    if not said:
        raise Unusable("without a preference")
    shown = "output_1" in row
    return [Annotation(prompt, first, second, outcome, who, shown) for who, outcome in said.items()]


def _pair(row: Mapping[str, Any], place: str) -> tuple[str, Answer, Answer]:
    """Prompt and answers of AlpacaEval's layout."""
    values = [row.get("instruction", row.get("prompt")), row["output_1"], row["output_2"]]
    for column, value in zip(("instruction", "output_1", "output_2"), values, strict=True):
        if not isinstance(value, str):
            raise DataError(
                f"{column!r} holds {type(value).__name__} where text belongs",
                where=place,
                fix="write the text of the instruction and of both answers",
            )
    prompt = "\n\n".join(part for part in (values[0], row.get("input")) if part)
    answers = [Answer(values[side], _name(row, f"generator_{side}", place)) for side in (1, 2)]
    return prompt, answers[0], answers[1]


def _name(row: Mapping[str, Any], column: str, place: str) -> str | None:
    name = row.get(column)
    if name is not None and not (isinstance(name, str) and name.strip()):
        raise DataError(
            f"{column!r} is {name!r}, not a name", where=place, fix="write a name, or leave it out"
        )
    return name


def _annotator(row: Mapping[str, Any], place: str) -> str:
    if row.get("annotator") is None and isinstance(row.get("annotator_index"), int):
        return str(row["annotator_index"])
    return _name(row, "annotator", place) or ANONYMOUS


def _preferences(value: Any, annotator: str, place: str) -> dict[str, float]:
    """Outcome of the first answer by annotator, without those who said nothing."""
    if isinstance(value, Mapping):
        said = {str(who): each for who, each in value.items()}
    elif isinstance(value, list):
        said = {str(number): each for number, each in enumerate(value, 1)}
    else:
        said = {annotator: value}
    return {who: _outcome(each, place) for who, each in said.items() if each is not None}


def _outcome(value: Any, place: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if number and value == OLD_TIE:
        return 0.5
    if not number or not 1 <= value <= 2:
        raise DataError(
            f"the preference {value!r} is not a number from 1 to 2",
            where=place,
            fix="write 1 where output_1 is better, 2 where output_2 is, 1.5 for a tie, null for no answer",
        )
    return 2.0 - float(value)


def _unreadable(row: Mapping[str, Any], column: str, place: str) -> DataError:
    return DataError(
        f"there is no column {column!r}; the columns are: {', '.join(sorted(row)) or 'none'}",
        where=place,
        fix=f"annotations have {', '.join(COLUMNS)}; or chosen and rejected",
    )


def _array_rows(path: Path) -> Iterator[files.Row]:
    """(file:line, row) of a file that holds one JSON array of objects."""
    text = "".join(files.text_pieces(path)).removeprefix("\ufeff")
    decoder, line, seen = json.JSONDecoder(), 1, 0
    start = _skip(text, 0)
    if text[start : start + 1] != "[":
        raise DataError(
            "a list of annotations belongs here", where=f"{path}:1", fix="name lines of objects .jsonl"
        )
    place = _skip(text, start + 1)
    while text[place : place + 1] != "]":
        line, seen = line + text.count("\n", seen, place), place
        where = f"{path}:{line}"
        try:
            row, end = decoder.raw_decode(text, place)
        except ValueError as error:
            number = getattr(error, "lineno", line)
            what = getattr(error, "msg", error)
            raise DataError(
                f"not JSON: {what}", where=f"{path}:{number}", fix="the file may be cut off"
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"an object belongs here, not {type(row).__name__}", where=where, fix=f"give {COLUMNS}"
            )
        yield where, row
        place = _skip(text, end)
        if text[place : place + 1] == ",":
            place = _skip(text, place + 1)
        elif text[place : place + 1] != "]":
            line += text.count("\n", seen, place)
            raise DataError(
                "not JSON: a comma or ] belongs here", where=f"{path}:{line}", fix="the file may be cut off"
            )


def _skip(text: str, place: int) -> int:
    while text[place : place + 1] in (" ", "\t", "\r", "\n"):
        place += 1
    return place
