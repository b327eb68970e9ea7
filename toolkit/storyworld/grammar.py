"""A probabilistic grammar as ONE object that generates, parses and enumerates.

Every node answers four questions:

* ``generate(stream, roles, out)`` appends text to ``out``, binds roles, returns the log-probability;
* ``match(text, position, roles)`` lists every way to read ``text`` from ``position`` on, as
  ``(end, roles, logprob)``; ``roles`` is copied where a role is bound, so readings do not share state;
* ``expand(roles)`` yields every first step of a derivation as ``(text, children, roles, logprob)``: the text
  that the node adds itself, and the nodes that follow;
* ``enumerate(roles)`` yields every ``(text, roles, logprob)``: for small grammars;
* ``literal()`` is the longest text that occurs in everything that the node derives: a fast filter.

Roles (hero, object, ...) are bound to a word at first mention and repeated afterwards. A role that the
caller bound beforehand is a constraint: it is repeated from the start and costs no probability.
All probabilities are natural logarithms.
"""

from collections.abc import Callable
from itertools import accumulate
from math import exp, log
from typing import Any

from toolkit.storyworld.rng import RandomStream

Roles = dict[str, str]
Reading = tuple[int, Roles, float]
SHORT = "short"  # roles["length"] == SHORT leaves out whatever is optional


class Lexicon:
    """A weighted list of words, each with named surface forms; the form "" is the plain one.

    entries: (key, forms) pairs, likeliest first; weights are Zipf-like, 1 / (rank + offset) ** exponent.
    kinds: for forms that many words share (pronouns), which words go together, as key -> kind.
    """

    def __init__(
        self,
        entries: list[tuple[str, dict[str, str]]],
        *,
        exponent: float = 0.5,
        offset: float = 3.0,
        kinds: dict[str, str] | None = None,
    ) -> None:
        self.keys = [key for key, _ in entries]
        if len(set(self.keys)) != len(self.keys):
            raise ValueError(f"duplicate words: {sorted(k for k in self.keys if self.keys.count(k) > 1)}")
        weights = [(rank + offset) ** -exponent for rank in range(len(entries))]
        total = sum(weights)
        self.probability = {key: weight / total for key, weight in zip(self.keys, weights, strict=True)}
        self.logprob = {key: log(probability) for key, probability in self.probability.items()}
        self.cumulative = list(accumulate(weights))
        self.kinds = kinds or {}
        forms = entries[0][1].keys()
        self.forms = {form: {key: entry[form] for key, entry in entries} for form in forms}
        self._readings = {form: self._index(form) for form in forms}

    def _index(self, form: str) -> dict[str, list[tuple[str, str]]]:
        """Return {first word: [(surface, key)]}; the key of a surface that several words share is ""."""
        owners: dict[str, list[str]] = {}
        for key, surface in self.forms[form].items():
            owners.setdefault(surface, []).append(key)
        index: dict[str, list[tuple[str, str]]] = {}
        for surface, keys in owners.items():
            index.setdefault(_first_word(surface, 0), []).append((surface, keys[0] if len(keys) == 1 else ""))
        return index

    def is_shared(self, form: str) -> bool:
        """Return whether several words share a surface of this form (a pronoun)."""
        return any(not key for readings in self._readings[form].values() for _, key in readings)

    def kind_of_surface(self, form: str, surface: str) -> str:
        """Return the kind of the words that share this surface."""
        return next(
            self.kinds[key] for key, form_surface in self.forms[form].items() if form_surface == surface
        )

    def readings(self, form: str, text: str, position: int) -> list[tuple[str, str]]:
        """Return every (surface, key) of this form at the position; key "" for a shared surface."""
        candidates = self._readings[form].get(_first_word(text, position), ())
        return [pair for pair in candidates if text.startswith(pair[0], position)]

    def draw(self, stream: RandomStream, excluded: list[str]) -> str:
        """Draw a word by weight; excluded words are redrawn, which renormalises the others exactly."""
        while True:
            key = self.keys[stream.weighted(self.cumulative)]
            if key not in excluded:
                return key

    def logprob_without(self, key: str, excluded: list[str]) -> float:
        """Return the log-probability of a word without the excluded words."""
        if not excluded:
            return self.logprob[key]
        return self.logprob[key] - log(1.0 - sum(self.probability.get(other, 0.0) for other in set(excluded)))


def _first_word(text: str, position: int) -> str:
    end = position
    size = len(text)
    while end < size and (text[end].isalpha() or text[end] == "-"):
        end += 1
    return text[position:end]


class Text:
    """Fixed text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.children: tuple = ()

    def generate(self, stream: RandomStream, roles: Roles, out: list[str]) -> float:
        out.append(self.text)
        return 0.0

    def match(self, text: str, position: int, roles: Roles) -> list[Reading]:
        return [(position + len(self.text), roles, 0.0)] if text.startswith(self.text, position) else []

    def expand(self, roles: Roles):
        yield self.text, (), roles, 0.0

    def enumerate(self, roles: Roles):
        yield self.text, roles, 0.0

    def literal(self) -> str:
        return self.text


class Slot:
    """A word of a lexicon in one form; with a role, the same word wherever the role returns.

    apart: roles whose words this one may not take (a friend is not the hero).
    """

    def __init__(
        self, lexicon: Lexicon, *, role: str = "", form: str = "", apart: tuple[str, ...] = ()
    ) -> None:
        self.lexicon, self.role, self.form, self.apart = lexicon, role, form, apart
        self.surfaces = lexicon.forms[form]
        self.shared = lexicon.is_shared(form)
        self.children: tuple = ()

    def _excluded(self, roles: Roles) -> list[str]:
        return [roles[other] for other in self.apart if other in roles]

    def generate(self, stream: RandomStream, roles: Roles, out: list[str]) -> float:
        key = roles.get(self.role)
        logprob = 0.0
        if key is None:
            assert not self.shared, f"{self.role}.{self.form} before its word"
            excluded = self._excluded(roles) if self.apart else []
            key = self.lexicon.draw(stream, excluded)
            logprob = self.lexicon.logprob_without(key, excluded)
            if self.role:
                roles[self.role] = key
        out.append(self.surfaces[key])
        return logprob

    def match(self, text: str, position: int, roles: Roles) -> list[Reading]:
        key = roles.get(self.role)
        if key is not None:
            surface = self.surfaces[key]
            return [(position + len(surface), roles, 0.0)] if text.startswith(surface, position) else []
        readings = []
        excluded = self._excluded(roles)
        for surface, key in self.lexicon.readings(self.form, text, position):
            if key in excluded and key:
                continue
            bound, logprob = self._bind(roles, surface, key, excluded)
            if bound is not None:
                readings.append((position + len(surface), bound, logprob))
        return readings

    def _bind(self, roles: Roles, surface: str, key: str, excluded: list[str]) -> tuple[Roles | None, float]:
        """Return the roles after this mention; a pronoun of an unbound word binds its kind ("hero.kind")."""
        kind_role = self.role + ".kind"
        bound_kind = roles.get(kind_role)
        if not key:
            kind = self.lexicon.kind_of_surface(self.form, surface)
            return (None, 0.0) if bound_kind not in (None, kind) else ({**roles, kind_role: kind}, 0.0)
        if bound_kind is not None and self.lexicon.kinds.get(key) != bound_kind:
            return None, 0.0
        logprob = self.lexicon.logprob_without(key, excluded)
        return ({**roles, self.role: key} if self.role else roles), logprob

    def expand(self, roles: Roles):
        for surface, bound, logprob in self.enumerate(roles):
            yield surface, (), bound, logprob

    def enumerate(self, roles: Roles):
        key = roles.get(self.role)
        if key is not None:
            yield self.surfaces[key], roles, 0.0
            return
        excluded = self._excluded(roles)
        for key in self.lexicon.keys:
            if key not in excluded:
                bound = {**roles, self.role: key} if self.role else roles
                yield self.surfaces[key], bound, self.lexicon.logprob_without(key, excluded)

    def literal(self) -> str:
        return ""


class Sequence:
    """Nodes one after another."""

    def __init__(self, nodes: list) -> None:
        self.children = tuple(nodes)

    def generate(self, stream: RandomStream, roles: Roles, out: list[str]) -> float:
        logprob = 0.0
        for node in self.children:
            logprob += node.generate(stream, roles, out)
        return logprob

    def match(self, text: str, position: int, roles: Roles) -> list[Reading]:
        readings = [(position, roles, 0.0)]
        for node in self.children:
            readings = [
                (end, bound, before + logprob)
                for start, bound_before, before in readings
                for end, bound, logprob in node.match(text, start, bound_before)
            ]
            if not readings:
                break
        return readings

    def expand(self, roles: Roles):
        yield "", self.children, roles, 0.0

    def enumerate(self, roles: Roles, first: int = 0):
        if first == len(self.children):
            yield "", roles, 0.0
            return
        for head, bound, before in self.children[first].enumerate(roles):
            for tail, final, after in self.enumerate(bound, first + 1):
                yield head + tail, final, before + after

    def literal(self) -> str:
        return max((node.literal() for node in self.children), key=len, default="")


class Alternation:
    """One of several nodes, by weight; a role binds the choice and can constrain it.

    options: nodes, or with a role a mapping from the role's value to its node.
    """

    def __init__(self, options: list | dict, *, weights: list[float] | None = None, role: str = "") -> None:
        self.role = role
        self.values = list(options) if isinstance(options, dict) else []
        self.children = tuple(options.values() if isinstance(options, dict) else options)
        weights = weights or [1.0] * len(self.children)
        if len(weights) != len(self.children) or (role != "") != bool(self.values):
            raise ValueError("a choice needs one weight an option, and a mapping exactly if it has a role")
        self.cumulative = list(accumulate(weights))
        self.logprobs = [log(weight / self.cumulative[-1]) for weight in weights]

    def generate(self, stream: RandomStream, roles: Roles, out: list[str]) -> float:
        value = roles.get(self.role)
        if value is not None:
            return self.children[self.values.index(value)].generate(stream, roles, out)
        chosen = stream.weighted(self.cumulative)
        if self.role:
            roles[self.role] = self.values[chosen]
        return self.logprobs[chosen] + self.children[chosen].generate(stream, roles, out)

    def _options(self, roles: Roles):
        """Yield (node, roles, logprob) of every possible option."""
        value = roles.get(self.role)
        for position, (node, logprob) in enumerate(zip(self.children, self.logprobs, strict=True)):
            if value is not None:
                if self.values[position] == value:
                    yield node, roles, 0.0
            else:
                yield node, ({**roles, self.role: self.values[position]} if self.role else roles), logprob

    def match(self, text: str, position: int, roles: Roles) -> list[Reading]:
        if self.role:
            return [
                (end, bound, before + logprob)
                for node, bound_before, before in self._options(roles)
                for end, bound, logprob in node.match(text, position, bound_before)
            ]
        readings = []
        for node, before in zip(self.children, self.logprobs, strict=True):
            for end, bound, logprob in node.match(text, position, roles):
                readings.append((end, bound, before + logprob))
        return readings

    def expand(self, roles: Roles):
        for node, bound, logprob in self._options(roles):
            yield "", (node,), bound, logprob

    def enumerate(self, roles: Roles):
        for node, bound_before, before in self._options(roles):
            for text, bound, logprob in node.enumerate(bound_before):
                yield text, bound, before + logprob

    def literal(self) -> str:
        return self.children[0].literal() if len(self.children) == 1 else ""


class Optional:
    """A node or nothing; nothing, for certain, when a short text was asked for."""

    def __init__(self, node, *, probability: float) -> None:
        self.children = (node,)
        self.probability = probability
        self.present, self.absent = log(probability), log(1.0 - probability)

    def generate(self, stream: RandomStream, roles: Roles, out: list[str]) -> float:
        if roles.get("length") == SHORT:
            return 0.0
        if stream.uniform() < self.probability:
            return self.present + self.children[0].generate(stream, roles, out)
        return self.absent

    def match(self, text: str, position: int, roles: Roles) -> list[Reading]:
        readings = [(position, roles, self.absent)]
        for end, bound, logprob in self.children[0].match(text, position, roles):
            readings.append((end, bound, self.present + logprob))
        return readings

    def expand(self, roles: Roles):
        if roles.get("length") == SHORT:
            yield "", (), roles, 0.0
            return
        yield "", (), roles, self.absent
        yield "", self.children, roles, self.present

    def enumerate(self, roles: Roles):
        yield "", roles, self.absent
        for text, bound, logprob in self.children[0].enumerate(roles):
            yield text, bound, self.present + logprob

    def literal(self) -> str:
        return ""


class ByRoles:
    """The node that a function returns for the roles that are bound when it is reached."""

    def __init__(self, choose: Callable[[Roles], Any]) -> None:
        self.choose = choose
        self.children: tuple = ()

    def generate(self, stream: RandomStream, roles: Roles, out: list[str]) -> float:
        return self.choose(roles).generate(stream, roles, out)

    def match(self, text: str, position: int, roles: Roles) -> list[Reading]:
        return self.choose(roles).match(text, position, roles)

    def expand(self, roles: Roles):
        yield "", (self.choose(roles),), roles, 0.0

    def enumerate(self, roles: Roles):
        return self.choose(roles).enumerate(roles)

    def literal(self) -> str:
        return ""


class Sentence:
    """A sentence of a known kind (opening, middle, closing), with the space that separates it."""

    def __init__(self, node, *, kind: str, lead: str = " ") -> None:
        self.node, self.kind, self.lead = node, kind, lead
        self.children = (node,)

    def generate(self, stream: RandomStream, roles: Roles, out: list[str]) -> float:
        out.append(self.lead)
        return self.node.generate(stream, roles, out)

    def match(self, text: str, position: int, roles: Roles) -> list[Reading]:
        if not text.startswith(self.lead, position):
            return []
        return self.node.match(text, position + len(self.lead), roles)

    def expand(self, roles: Roles):
        yield self.lead, self.children, roles, 0.0

    def enumerate(self, roles: Roles):
        for text, bound, logprob in self.node.enumerate(roles):
            yield self.lead + text, bound, logprob

    def literal(self) -> str:
        return self.node.literal()


def generate_text(node, stream: RandomStream, roles: Roles) -> str:
    """Return a text that a node derives; the roles that it binds are added to `roles`."""
    out: list[str] = []
    node.generate(stream, roles, out)
    return "".join(out)


def render(node, roles: Roles) -> str:
    """Return the only text of a node without choices whose roles are all bound."""
    return generate_text(node, RandomStream("fully bound"), dict(roles))


def derivations(node, text: str, roles: Roles | None = None) -> list[tuple[Roles, float]]:
    """Return every derivation of the whole text as (roles, log-probability)."""
    return [(bound, logprob) for end, bound, logprob in node.match(text, 0, roles or {}) if end == len(text)]


def total_logprob(readings: list[tuple[Roles, float]]) -> float | None:
    """Return the log of the summed probability of derivations, None if there are none."""
    if not readings:
        return None
    largest = max(logprob for _, logprob in readings)
    return largest + log(sum(exp(logprob - largest) for _, logprob in readings))
