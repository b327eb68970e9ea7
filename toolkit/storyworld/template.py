"""Sentences as short templates, compiled to grammar nodes.

    One {*weather} morning, {hero} [found|noticed] {trait.a} {object} {place.at}.

``{role}`` is the word of a role, ``{role.form}`` one of its forms, ``{*lexicon}`` a word without a
role, ``[a|b|]`` an equally likely choice (an alternative may be empty, and choices nest).
``{he}``, ``{his}``, ``{him}``, ``{himself}``, ``{hers}`` and ``{He}``, ``{His}`` are the hero's pronouns.
"""

from collections.abc import Callable, Mapping

from toolkit.storyworld.grammar import Alternation, Lexicon, Sequence, Slot, Text

PRONOUNS = ("he", "He", "his", "His", "him", "himself", "hers")


class TemplateCompiler:
    """Compiles the templates of one world.

    Args:
        lexicons: name of a lexicon -> its words.
        role_lexicon: role -> name of the lexicon that it draws from; the hero's is "name".
        apart: role -> roles whose words it may not take.
    """

    def __init__(
        self,
        lexicons: Mapping[str, Lexicon],
        role_lexicon: Mapping[str, str],
        apart: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._lexicons, self._role_lexicon, self._apart = lexicons, role_lexicon, apart
        self._compiled: dict[str, object] = {}

    def __call__(self, template: str):
        """Return the grammar node of a template; raises ValueError for brackets that do not close."""
        if template not in self._compiled:
            alternatives, end = _alternatives(template, 0, self._slot)
            if end != len(template) or len(alternatives) != 1:
                raise ValueError(f"unbalanced template at character {end}: {template!r}")
            self._compiled[template] = alternatives[0]
        return self._compiled[template]

    def _slot(self, name: str) -> Slot:
        if name in PRONOUNS:
            return Slot(self._lexicons["name"], role="hero", form=name, apart=self._apart["hero"])
        if name.startswith("*"):
            lexicon, _, form = name[1:].partition(".")
            return Slot(self._lexicons[lexicon], form=form)
        role, _, form = name.partition(".")
        lexicon = self._lexicons[self._role_lexicon[role]]
        return Slot(lexicon, role=role, form=form, apart=self._apart.get(role, ()))


def zipf_choice(nodes: list) -> Alternation:
    """Return an alternation whose earlier options are somewhat likelier, as in real text."""
    return Alternation(nodes, weights=[1.0 / (rank + 4.0) for rank in range(len(nodes))])


def _alternatives(template: str, position: int, make_slot: Callable[[str], Slot]) -> tuple[list, int]:
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
            nodes.append(make_slot(template[position + 1 : end]))
            position = end + 1
        elif character == "[":
            flush()
            inner, position = _alternatives(template, position + 1, make_slot)
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
