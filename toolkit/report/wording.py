"""What reports say, in several languages: sentences as templates, apart from the decision which one applies.

`toolkit.report.lesson` and `toolkit.report.sections` decide and return messages; `say` writes them in a
language. `english` and `japanese` have the templates.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolkit.report.english import ENGLISH
from toolkit.report.japanese import JAPANESE, JAPANESE_STAGES

Wording = Mapping[str, str]
"""Key of a message -> its template, for `str.format` with the fields of the message."""

LANGUAGES: Mapping[str, Wording] = {"en": ENGLISH, "ja": ChainMap(JAPANESE, JAPANESE_STAGES, ENGLISH)}
"""Code of a language -> its wording; sentences of a stage that is not translated are English."""


@dataclass(frozen=True)
class Message:
    """A sentence, or a part of one, in no language yet.

    Attributes:
        key: of its template.
        fields: values of the template. A text stays as it is (a number, a name of a model), a message is
            said first, and the parts of a sequence are joined with the template `list`.
        english: the template that applies if a wording has none, for a text of `toolkit.config.registry`: a
            stage can be added there without a change of the report. Its fields are numbers.
    """

    key: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    english: str | None = None


Part = str | Message | Sequence[str | Message]
"""What `say` writes."""


def message(key: str, **fields: Part) -> Message:
    """Return a message."""
    return Message(key, fields)


def of_registry(text: str, **fields: object) -> Message:
    """Return an English text of `toolkit.config.registry`, and its fields, as a message."""
    return Message(text, fields, english=text)


def say(part: Part, wording: Wording | None = None) -> str:
    """Return a message as text; in English by default.

    Raises:
        KeyError: the wording has no template of this key, or a template asks for an unknown field.
    """
    wording = ENGLISH if wording is None else wording
    if isinstance(part, Message):
        if part.english is not None:
            return wording.get(part.key, part.english).format_map(part.fields)
        fields = {name: say(value, wording) for name, value in part.fields.items()}
        return wording[part.key].format(**fields)
    if isinstance(part, str):
        return part
    return wording["list"].join(say(item, wording) for item in part)
