"""Chat templates that print today's date (Llama 3.2, gpt-oss, Granite): they print a fixed date instead.

Otherwise the same conversation would have other token ids tomorrow, and a model would be trained on other
prompts than it is asked later.
"""

from __future__ import annotations

import datetime
from typing import Any

TEMPLATE_DATE = datetime.date(2024, 7, 26)
"""What a template gets as today's date. Llama 3's templates print this date where there is no clock."""

_CLOCK = "strftime_now"
"""The function with which transformers gives templates the current time."""
_DIRECTIVES = (
    "-d",
    "-m",
    "a",
    "A",
    "b",
    "B",
    "d",
    "e",
    "m",
    "y",
    "Y",
    "j",
    "H",
    "I",
    "M",
    "S",
    "p",
    "F",
    "x",
)


def _macro() -> str:
    """Return a Jinja macro that hides transformers' clock."""
    replaced = "".join(f" | replace('%{each}', '{_printed(each)}')" for each in _DIRECTIVES)
    return f"{{%- macro {_CLOCK}(format) -%}}{{{{- format{replaced} -}}}}{{%- endmacro %}}"


def _printed(directive: str) -> str:
    without_zero = {"-d": str(TEMPLATE_DATE.day), "-m": str(TEMPLATE_DATE.month)}
    return without_zero.get(directive) or TEMPLATE_DATE.strftime(f"%{directive}")


_MACRO = _macro()


def prints_date(template: object) -> bool:
    """Return whether a chat template (text, or texts by name) asks for the current date."""
    texts = template.values() if isinstance(template, dict) else [template]
    return any(isinstance(text, str) and _CLOCK in text for text in texts)


def with_fixed_date(template: Any) -> Any:
    """Return a chat template (text, texts by name, or None) that prints `TEMPLATE_DATE` as today's date.

    A template without a date, and one that is changed already, is returned as it is. Saved with a model, the
    changed template renders the same text in every program.
    """
    if isinstance(template, dict):
        return {name: with_fixed_date(text) for name, text in template.items()}
    if not prints_date(template) or template.startswith(_MACRO):
        return template
    return _MACRO + template
