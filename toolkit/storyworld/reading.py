"""Parsing of arbitrary text by the sentences of a story grammar."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from toolkit.storyworld.grammar import Alternation, Lexicon, Roles, Sentence, Sequence, derivations

# A full stop (or a closing quote after it), then a space, then a capital or a quote.
_BOUNDARY = re.compile(r'(?:(?<=[.!?])|(?<=[.!?]"))\s+(?=["A-Z])')
_WORD = re.compile(r"[A-Za-z][A-Za-z-]*")
_LONGEST_SENTENCE = 400  # characters; the longest sentence of the grammar has about half as many


@dataclass(frozen=True)
class ParsedText:
    """A parsed text: its sentences, which of them are derivable, and the facts on which they agree.

    kinds: "opening", "middle" or "closing" of each sentence, None if the grammar does not derive it.
    facts: role -> word at first mention; "ending" by the last sentence that implies one.
    conflicts: number of sentences that contradict an earlier one or mention an unknown name.
    """

    sentences: list[str]
    kinds: list[str | None] = field(default_factory=list)
    facts: Roles = field(default_factory=dict)
    conflicts: int = 0


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text without the white space between them."""
    return [sentence for sentence in _BOUNDARY.split(text.strip()) if sentence]


class Reader:
    """Reads texts of any kind by the sentences of a story grammar.

    Args:
        story_grammar: returns the grammar of whole stories.
        names: the lexicon of the characters' names, with their kinds.
    """

    def __init__(self, story_grammar: Callable[[], Sequence], names: Lexicon) -> None:
        self._story_grammar = story_grammar
        self._names = names
        self.sentence_readings = lru_cache(maxsize=20_000)(self._sentence_readings)

    @cached_property
    def _sentences(self) -> list[tuple[Sentence, Roles, str]]:
        """Every sentence of the grammar, the roles that its position implies, its literal."""
        by_node: dict[int, tuple[Sentence, Roles]] = {}

        def walk(node, implied: Roles) -> None:
            if isinstance(node, Sentence):
                earlier = by_node.get(id(node), (node, implied))[1]
                shared = {role: value for role, value in earlier.items() if implied.get(role) == value}
                by_node[id(node)] = (node, shared)
            elif isinstance(node, Alternation) and node.role:
                for value, child in zip(node.values, node.children, strict=True):
                    walk(child, {**implied, node.role: value})
            else:
                for child in node.children:
                    walk(child, implied)

        walk(self._story_grammar(), {})
        return [(node, implied, node.literal()) for node, implied in by_node.values()]

    def _sentence_readings(self, sentence: str) -> tuple[tuple[str, Roles], ...]:
        """Return every derivation of a single sentence as (kind, roles)."""
        if len(sentence) > _LONGEST_SENTENCE:
            return ()
        return tuple(
            (node.kind, {**implied, **roles})
            for node, implied, literal in self._sentences
            if literal in sentence
            for roles, _ in derivations(node.node, sentence)
        )

    def _contradicts(self, facts: Roles, roles: Roles) -> int:
        """Count roles that contradict the facts; a pronoun is compared with the kind of the name."""
        conflicts = 0
        kinds = self._names.kinds
        for role, value in roles.items():
            if role.endswith(".kind"):
                name = roles.get(role[:-5]) or facts.get(role[:-5])
                conflicts += name is not None and kinds[name] != value
            else:
                conflicts += facts.get(role, value) != value
        return conflicts

    def read(self, text: str) -> ParsedText:
        """Parse a text of any kind; never raises."""
        sentences = split_sentences(text)
        kinds: list[str | None] = []
        facts: Roles = {}
        conflicts = 0
        names = self._names.kinds
        for sentence in sentences:
            readings = self.sentence_readings(sentence)
            if not readings:
                kinds.append(None)
                characters = (facts.get("hero"), facts.get("friend"))
                conflicts += any(word in names and word not in characters for word in _WORD.findall(sentence))
                continue
            kind, roles = min(readings, key=lambda reading: self._contradicts(facts, reading[1]))
            conflicts += self._contradicts(facts, roles) > 0
            kinds.append(kind)
            ending = roles.get("ending")
            facts = {**{role: word for role, word in roles.items() if not role.endswith(".kind")}, **facts}
            if ending:
                facts["ending"] = ending
        return ParsedText(sentences, kinds, facts, conflicts)
