"""The ten terms that a page explains where they stand, and in a list at its end."""

from __future__ import annotations

import html
import re

from toolkit.report.wording import Wording

TERMS = (
    "bits_per_byte", "entropy_floor", "kl", "nats", "reward_model", "bayes_accuracy", "win_rate", "interval",
    "gold_judge", "end_of_text",
)  # fmt: skip
UNMARKED = frozenset("h1 h2 h3 h4 a button summary pre code svg style thead th blockquote figcaption".split())
"""Elements whose text is not marked: headings, controls, code, pictures, and what models wrote."""


def forms(term: str, wording: Wording) -> list[str]:
    """Return how the texts of a language write a term."""
    others = [form for form in wording[f"term.{term}.forms"].split("|") if form]
    return [wording[f"term.{term}"], *others]


def mark(page: str, wording: Wording) -> str:
    """Return HTML in which the first mention of each term is a button that shows its definition.

    Args:
        page: HTML with properly nested elements, such as one section.
    """
    owners = {form.lower(): term for term in TERMS for form in forms(term, wording)}
    longest_first = sorted(owners, key=len, reverse=True)
    pattern = re.compile("|".join(_whole(form) for form in longest_first), re.IGNORECASE)
    marked: set[str] = set()
    depth = 0

    def button(match: re.Match[str]) -> str:
        term = owners[match[0].lower()]
        if term in marked:
            return match[0]
        marked.add(term)
        definition = html.escape(wording[f"term.{term}.definition"])
        return (
            f'<button type="button" class="term" popovertarget="define-{term}" title="{definition}">'
            f"{match[0]}</button>"
        )

    parts = re.split(r"(<[^>]*>)", page)
    for position, part in enumerate(parts):
        if not part.startswith("<"):
            parts[position] = part if depth else pattern.sub(button, part)
        elif (name := re.match(r"</?([a-z0-9]+)", part)) and name[1] in UNMARKED:
            depth += -1 if part.startswith("</") else 1
    return "".join(parts)


def _whole(form: str) -> str:
    """Return a pattern for a form as whole words, where its script has spaces between words."""
    escaped = re.escape(html.escape(form))
    return rf"(?<![A-Za-z]){escaped}(?![A-Za-z])" if form.isascii() else escaped
