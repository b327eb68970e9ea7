"""Sentences as short templates, compiled to grammar nodes.

    One {*weather} morning, {hero} [found|noticed] {trait.a} {object} {place.at}.

``{role}`` is the word of a role, ``{role.form}`` one of its forms, ``{*lexicon}`` a word without a
role, ``[a|b|]`` an equally likely choice (an alternative may be empty, and choices nest).
``{he}``, ``{his}``, ``{him}``, ``{himself}``, ``{hers}`` and ``{He}``, ``{His}`` are the hero's pronouns.
"""

from functools import cache

from toolkit.storyworld.grammar import Alternation, Sequence, Slot, Text
from toolkit.storyworld.lexicon import APART, LEXICONS, ROLE_LEXICON

PRONOUNS = ("he", "He", "his", "His", "him", "himself", "hers")


@cache
def compile_template(template: str):
    """Return the grammar node of a template; raises ValueError for brackets that do not close."""
    alternatives, end = _alternatives(template, 0)
    if end != len(template) or len(alternatives) != 1:
        raise ValueError(f"unbalanced template at character {end}: {template!r}")
    return alternatives[0]


def zipf_choice(nodes: list) -> Alternation:
    """Return an alternation whose earlier options are somewhat likelier, as in real text."""
    return Alternation(nodes, weights=[1.0 / (rank + 4.0) for rank in range(len(nodes))])


def _alternatives(template: str, position: int) -> tuple[list, int]:
    """Return the nodes of the alternatives up to the closing bracket (or the end), and its position."""
    alternatives, nodes, literal = [], [], ""

    def flush() -> None:
        nonlocal literal
        if literal:
            nodes.append(Text(literal))
        literal = ""

    while position < len(template) and template[position] != "]":
        character = template[position]
        if character == "{":
            flush()
            end = template.index("}", position)
            nodes.append(_slot(template[position + 1 : end]))
            position = end + 1
        elif character == "[":
            flush()
            inner, position = _alternatives(template, position + 1)
            if position >= len(template):
                raise ValueError(f"a bracket does not close: {template!r}")
            nodes.append(Alternation(inner))
            position += 1
        elif character == "|":
            flush()
            alternatives.append(_as_one(nodes))
            nodes = []
            position += 1
        else:
            literal += character
            position += 1
    flush()
    return [*alternatives, _as_one(nodes)], position


def _as_one(nodes: list):
    return nodes[0] if len(nodes) == 1 else Sequence(nodes)


def _slot(name: str) -> Slot:
    if name in PRONOUNS:
        return Slot(LEXICONS["name"], role="hero", form=name, apart=APART["hero"])
    if name.startswith("*"):
        lexicon, _, form = name[1:].partition(".")
        return Slot(LEXICONS[lexicon], form=form)
    role, _, form = name.partition(".")
    return Slot(LEXICONS[ROLE_LEXICON[role]], role=role, form=form, apart=APART.get(role, ()))
