"""Kinds of words of a document, by what a model must have learned to expect them."""

import re
from collections.abc import Sequence
from functools import cache

from toolkit.storyworld.next_token import TokenTruth
from toolkit.storyworld.small import meaning
from toolkit.storyworld.small.stories import LANGUAGE
from toolkit.storyworld.template import PRONOUNS

KINDS = ("wording", "choice", "pronoun", "repeat", "answer")
"""The kinds, in the order in which models learn them.

wording: words and marks that follow with certainty from the sentence. choice: words that chance decides.
pronoun: those of a character. repeat: names, animals, things and places that the text has fixed before.
answer: the same in the answer to a question.
"""
_CERTAIN = 1e-6
"""Nats of entropy below which one token is certain."""
_WORD = re.compile(r"[A-Za-z]+")


def kinds_of(text: str, spans: Sequence[tuple[int, int]], truths: Sequence[TokenTruth]) -> list[str]:
    """Return the kind of each token of a document and of the end token after it.

    Args:
        spans: the characters of each token, [start, end).
        truths: of each token and of the end token, see `next_token_truth`.
    """
    kinds = []
    places = {place: found for found in _WORD.finditer(text) for place in range(*found.span())}
    ends = [end for _, end in spans]
    for end, truth in zip([*ends, 0], truths, strict=True):
        found = places.get(end - 1)
        word = "" if found is None else found[0]
        if truth.entropy > _CERTAIN:
            kinds.append("choice")
        elif word in _surfaces(pronouns=True):
            kinds.append("pronoun")
        elif word in _surfaces(pronouns=False) and word in _WORD.findall(text[: found.start()]):
            kinds.append("answer" if _is_answer(text, end) else "repeat")
        else:
            kinds.append("wording")
    return kinds


def _is_answer(text: str, end: int) -> bool:
    line = text.rfind("\n", 0, end) + 1
    return "?" in text[line:end]


@cache
def _surfaces(*, pronouns: bool) -> frozenset[str]:
    """Return the pronouns, or the last word of each other form of the words that a role can have."""
    return frozenset(
        surface.split()[-1]
        for lexicon in set(meaning.ROLE_LEXICON.values())
        for forms in LANGUAGE.forms[lexicon].values()
        for form, surface in forms.items()
        if (form in PRONOUNS) == pronouns
    )
