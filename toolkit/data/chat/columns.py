"""The names of columns: which are read, refused or ignored, and what a source's `columns:` makes of a row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.base.errors import DataError
from toolkit.config.schema import DataSource
from toolkit.data import tables
from toolkit.data.chat.unusable import Unusable

CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog")
PROMPTS = ("prompt", "instruction", "question", "query", "problem", "input")
ANSWERS = ("completion", "response", "output", "answer", "solution")
PAIRS = (
    *((prompt, "completion") for prompt in PROMPTS),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("problem", "solution"),
    ("input", "output"),
)
"""Columns of a prompt and its answer."""
EXTRA_INPUTS = ("input", "context")
"""Columns that belong to `instruction`."""
CHOICES = tuple(
    (f"{name}_{first}", f"{name}_{second}")
    for name in ("response", "answer", "output", "completion", "conversation")
    for first, second in (("0", "1"), ("1", "2"), ("a", "b"))
)
"""Columns of two answers, the better of which a column of CHOSEN names."""
CHOICE_SCORES = tuple(
    (f"score_{first}", f"score_{second}") for first, second in (("0", "1"), ("1", "2"), ("a", "b"))
)
"""Their scores, by the ends of their names."""
CHOSEN = ("better_response_id", "chosen_index", "preferred", "preference", "winner", "label")
CANDIDATES = ("responses", "completions", "candidates", "answers")
CANDIDATE_SCORES = ("scores", "ratings", "rewards", "ranks")
CANDIDATE_KEYS = ("response", "completion", "answer", "output", "text", "content")
CANDIDATE_SCORE_KEYS = ("overall_score", "score", "rating", "reward", "rank")
"""Keys of the answers in a list of objects, and of their scores; the first that all answers have counts."""
RANKS = ("ranks", "rank")
"""Scores of which the lowest is the best."""
KTO_TAG = "kto_tag"
LABELS = ("label", KTO_TAG)
GRADES = {
    **dict.fromkeys(("good", "desirable", "chosen", "accepted", "thumbs_up"), True),
    **dict.fromkeys(("bad", "undesirable", "rejected", "thumbs_down"), False),
}
"""Words of LABELS, in lower case -> whether the answer is good."""
AMBIGUOUS_GRADES = {
    "yes": True,
    "no": False,
    "positive": True,
    "negative": False,
    1: True,
    0: False,
    -1: False,
}
"""Further labels of prompts with completions; elsewhere they may be classes of anything."""
SCORES = (
    *((f"{name}_chosen", f"{name}_rejected") for name in ("score", "rating", "reward")),
    *((f"chosen_{name}", f"rejected_{name}") for name in ("score", "rating", "reward", "avg_rating")),
    ("chosen-rating", "rejected-rating"),
)
SYSTEMS = ("system", "system_prompt")
TOOLS = ("tools", "functions")
MEDIA = ("images", "image", "audios", "audio", "videos", "video")

SCALARS = frozenset({*LABELS, "margin", *(name for pair in (*SCORES, *CHOICE_SCORES) for name in pair)})
"""Columns of numbers and truth values, which the cells of CSV files spell."""

REFUSED = dict.fromkeys(MEDIA, "a row with images, audio or video: only text is read")
"""Columns that leave out the rows in which they are not empty -> the reason."""

HARMLESS = frozenset(
    "id _id ids idx index uuid hash sha256 key row_id prompt_id message_id conversation_id question_id "
    "response_id __index_level_0__ source sources source_dataset url dataset dataset_name data_source subset "
    "split config category categories task task_type task_name topic title tag tags domain type kind "
    "language lang locale timestamp date created_at updated_at license meta metadata extra_info "
    "author user annotator annotator_id annotator_index worker_id model models model_name generator "
    "chosen_model rejected_model model_chosen model_rejected model_a model_b generator_1 generator_2 "
    "num_turns turn num_tokens n_tokens tokens length version "
    # of the runs and worlds of the toolkit
    "flaws utility utility_chosen utility_rejected probability logprob ended ended_chosen ended_rejected "
    "shown_first votes seed".split()
)
"""Metadata, which is ignored without a message."""


@dataclass(frozen=True)
class KnownColumn:
    """A line of the documentation: names of columns, and what is made of them."""

    names: tuple[str, ...]
    status: str
    note: str


def _flat(pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for pair in pairs for name in pair))


TWO_ANSWERS = ("chosen", "rejected", *_flat(CHOICES))

COLUMNS = (
    KnownColumn(CONVERSATIONS, "read", "the messages of a conversation"),
    KnownColumn(PROMPTS, "read", "the prompt, together with an answer or alone"),
    KnownColumn(EXTRA_INPUTS, "read", "beside `instruction`: appended to it after a blank line"),
    KnownColumn(ANSWERS, "read", "the answer to the prompt"),
    KnownColumn(("chosen", "rejected"), "read", "two answers, with or without their prompt"),
    KnownColumn(_flat(CHOICES), "read", "two answers, of which another column names the better"),
    KnownColumn(CHOSEN, "read", "the better one: its number or letter, or its column; -1 and `tie` are ties"),
    KnownColumn(LABELS, "read", "beside one answer: true, false, or a word: whether it is good"),
    KnownColumn(CANDIDATES, "read", "a list of answers with scores: the best against the worst"),
    KnownColumn(CANDIDATE_SCORES, "read", "the scores of these answers; of `ranks`, the lowest is the best"),
    KnownColumn(SYSTEMS, "read", "the system message"),
    KnownColumn(TOOLS, "read", "the functions that may be called, a list or JSON text"),
    KnownColumn(("margin",), "read", "by how much the chosen answer is better; only reward uses it"),
    KnownColumn(_flat(CHOICE_SCORES), "read", "the scores of two answers: the better one has the higher"),
    KnownColumn(_flat(SCORES), "read", "checked: the chosen answer has the higher score"),
    KnownColumn(("text",), "read", "plain text, for tokenizer and corpus; other stages ignore it"),
    KnownColumn(MEDIA, "refused", "the row is left out"),
    KnownColumn(("history",), "read", "beside `instruction`: earlier turns, a list of [request, answer]"),
    KnownColumn(("weight", "rating", "..."), "warned about", "all others are named once"),
    KnownColumn(tuple(sorted(HARMLESS)), "ignored", "metadata"),
)  # fmt: skip
"""Every name that is known; the last line but one stands for all others."""

QUIET = frozenset(
    {*CONVERSATIONS, *SYSTEMS, *TOOLS, *REFUSED, *HARMLESS}
    | {*_flat(SCORES), *_flat(CHOICES)}
    | {"chosen", "rejected", "margin", "text"}
)
"""Columns that some stage reads, or that no stage needs: no stage names them as not read."""
CONDITIONAL = frozenset(
    {*PROMPTS, *ANSWERS, *CHOSEN, *LABELS, *_flat(CHOICE_SCORES), *CANDIDATES, *CANDIDATE_SCORES}
)
"""Columns that are read only beside certain others; if they are not, they are named as not read (not by
stages that only need prompts)."""


class ColumnError(DataError):
    """The columns do not fit the source's settings or are ambiguous, in all rows: none is skipped."""


def _value_of(row: Mapping[str, Any], name: str, *, setting: str, location: str) -> Any:
    """Return a column, or a nested value for a name with dots (see `tables.value_of`)."""
    try:
        return tables.value_of(row, name, setting=setting, location=location)
    except DataError as error:
        raise ColumnError(error.what, where=error.where, fix=error.fix) from None


def mapped(row: Mapping[str, Any], source: DataSource | None, *, location: str) -> dict[str, Any]:
    """Return the columns of a row that are not null, with the names of `columns:` replaced by ours.

    A column that `columns:` names replaces the columns of the same kind: `completion: reply` also hides
    `output` and `messages`.

    Raises:
        ColumnError: the source names a column that the row does not have.
    """
    names = names_of(source)
    values = {
        role: _value_of(row, name, setting=setting_of(source, role), location=location)
        for role, name in names.items()
    }
    taken = {name if name in row else name.partition(".")[0] for name in names.values()}
    hidden = {name for role in names for name in _ALTERNATIVES.get(role, ())}
    rest = {name: value for name, value in row.items() if name not in taken | hidden}
    read = {name: scalar(value) if name in SCALARS else value for name, value in {**rest, **values}.items()}
    if "label" in names and not any(name in rest for pair in CHOICES for name in pair):
        found = grade(read["label"], is_grade=True)
        read["label"] = read["label"] if found is None else found
    return _without_blanks({name: value for name, value in read.items() if value is not None})


def _without_blanks(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without empty columns beside which another one of their kind is not empty.

    In a table that was merged from several, a row has empty cells for the columns of the other tables.
    """
    blank = {
        name for name, value in row.items() if value == [] or (isinstance(value, str) and not value.strip())
    }
    for kind in ((*CONVERSATIONS, *PROMPTS), (*CONVERSATIONS, *ANSWERS, "chosen"), ("rejected",)):
        present = {name for name in kind if name in row}
        if present - blank:
            row = {name: value for name, value in row.items() if name not in present & blank}
    return row


def suggested(names: Iterable[str]) -> str:
    """Return a setting `columns: {...}` for columns whose names resemble known ones, "" if none does."""
    found: dict[str, str] = {}
    for name in names:
        role = _RESEMBLING.get(name.strip().lower())
        if role is not None and name not in _KNOWN:
            found.setdefault(role, name if name == name.strip() else f'"{name}"')
    return f"columns: {{{', '.join(f'{role}: {name}' for role, name in found.items())}}}" if found else ""


def scalar(value: Any) -> Any:
    """Return the number or truth value that a text spells, as in cells of CSV files; None for no text."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if text in ("true", "false", ""):
        return {"true": True, "false": False}.get(text)
    try:
        number = float(text)
    except ValueError:
        return value
    return int(number) if number.is_integer() else number


def grade(value: Any, *, is_grade: bool) -> bool | None:
    """Return whether a label says that an answer is good; None if it does not say.

    Args:
        is_grade: whether the column holds nothing but grades, so that AMBIGUOUS_GRADES count.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return value if isinstance(value, bool) else None
    key = value.strip().lower() if isinstance(value, str) else value
    return (GRADES | AMBIGUOUS_GRADES if is_grade else GRADES).get(key)


def is_number(value: Any) -> bool:
    """Return whether a value is a number that a float can hold."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


_RESEMBLING = {
    **dict.fromkeys((*PROMPTS, "user", "human", "request"), "prompt"),
    **dict.fromkeys((*ANSWERS, "assistant", "bot", "gpt", "target", "reply"), "completion"),
    **dict.fromkeys((*CONVERSATIONS, "chat"), "messages"),
    **dict.fromkeys((*SYSTEMS, "system_message"), "system"),
    **{name: name for name in ("chosen", "rejected", "label", "margin", "text")},
}
"""Names in lower case -> the key of `columns:` for a column that is almost called so."""
_KNOWN = frozenset(
    {*PROMPTS, *ANSWERS, *CONVERSATIONS, *SYSTEMS, *LABELS, "chosen", "rejected", "margin", "text"}
)
_ALTERNATIVES = {
    "messages": (*CONVERSATIONS, *ANSWERS, "chosen"),
    "prompt": (*PROMPTS, *EXTRA_INPUTS),
    "completion": (*CONVERSATIONS, *ANSWERS, "chosen"),
    "chosen": (*CONVERSATIONS, *ANSWERS, *CANDIDATES, *_flat(CHOICES)),
    "rejected": (*CONVERSATIONS, *ANSWERS, *CANDIDATES, *_flat(CHOICES)),
    "system": SYSTEMS,
    "label": (*CHOSEN, *LABELS),
}


def names_of(source: DataSource | None) -> dict[str, str]:
    """Return {our name: column} of a source's settings; `field` is the column of the messages."""
    if source is None:
        return {}
    if source.field is not None:
        return {"messages": source.field}
    return source.columns.model_dump(exclude_none=True) if source.columns is not None else {}


def setting_of(source: DataSource | None, role: str) -> str:
    """Return the setting that names a column, such as `columns.prompt`."""
    return "field" if source is not None and source.field is not None else f"columns.{role}"


def refuse(row: Mapping[str, Any]) -> None:
    """Raise Unusable if a column of REFUSED is not empty."""
    for name, reason in REFUSED.items():
        value = row.get(name)
        if value and not (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null")):
            raise Unusable(reason)


Form = tuple[str, ...]
"""The columns that one form of a conversation or of a preference takes, such as ("prompt", "completion")."""


def require_equal(values: Mapping[Form, Any], *, location: str) -> None:
    """Raise ColumnError if two forms of a row have different values."""
    (first, value), *others = values.items()
    for other, different in others:
        if different != value:
            name = next((name for name in first if name not in other), first[0])
            raise ColumnError(
                f"the columns {' and '.join(first)!r} and {' and '.join(other)!r} both fit, and differ",
                where=location,
                fix=f"name the one to read in `columns:`, such as columns: {{{_role(name)}: {name}}}",
            )


def _role(name: str) -> str:
    """Return the key of `columns:` that makes `name` the only column of its kind."""
    kinds = {
        "prompt": PROMPTS,
        "completion": ANSWERS,
        "messages": CONVERSATIONS,
        "label": CHOSEN,
        "system": SYSTEMS,
    }
    return next((role for role, names in kinds.items() if name in names), "chosen")
