"""Parsing YAML into plain values and the `file:line` of every key, with the scalars of YAML 1.2.

PyYAML's own constructor reads `1e-5` as text and `no` as false (YAML 1.1), keeps the last of two equal
keys, and drops the position of a key; so only its parser is used, event by event.
"""

from __future__ import annotations

import copy
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from toolkit.base.errors import Problem, ProblemKind, RecipeError

Key = tuple[str | int, ...]

NULLS = {"", "~", "null", "Null", "NULL"}
BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
LARGEST_FILE = 100_000
"""Bytes; a recipe that a person writes has a few thousand, and a device such as /dev/zero never ends."""
DEEPEST = 32  # a recipe has 4 levels; the limit keeps `[[[[...` from exhausting Python's stack


@dataclass
class Tree:
    """A value (mappings, lists, scalars), and the position of every key in it."""

    value: Any
    positions: dict[Key, str] = field(default_factory=dict)

    def at(self, key: Key) -> Any:
        """Return the value of a key that has a position."""
        return functools.reduce(lambda value, part: value[part], key, self.value)


class _Refused(Exception):
    def __init__(self, position: str, key: Key, message: str):
        self.problem = Problem(position, dotted(key), message)


def dotted(key: Key) -> str:
    """Return `("data", 0, "name")` as `data.0.name`."""
    return ".".join(str(part) for part in key)


def scalar(text: str) -> Any:
    """Return the value of a plain (unquoted) scalar, by YAML 1.2's core schema, section 10.3.2.

    `.nan` gives infinity: neither is allowed in a recipe.
    """
    if text in NULLS:
        return None
    if text in BOOLEANS:
        return BOOLEANS[text]
    if INTEGER.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if FLOAT.fullmatch(text):
        return float(text)
    return math.inf if NOT_FINITE.fullmatch(text) else text


def read_text(path: Path) -> str:
    """Return the text of a recipe file.

    Raises:
        RecipeError: the file does not exist, is a folder, is too large for a recipe, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise RecipeError([Problem(str(path), "", "there is no such file", ProblemKind.MISSING)]) from None
    except IsADirectoryError:
        raise RecipeError([Problem(str(path), "", "this is a folder, not a recipe")]) from None
    except OSError as error:
        raise RecipeError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from None
    if len(content) > LARGEST_FILE:
        raise RecipeError(
            [Problem(str(path), "", f"is larger than a recipe can be ({LARGEST_FILE:,} bytes)")]
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8 text (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        raise RecipeError([Problem(f"{path}:{line}", "", message)]) from None


def parse(text: str, name: str) -> Tree:
    """Parse one YAML document; `name` is the file in positions, `name:line`.

    Raises:
        RecipeError: the text is not YAML, or it has what recipes do not allow: duplicate keys, anchors,
            aliases, tags, several documents, or numbers that are not finite.
    """
    builder = _Builder(name)
    try:
        return builder.build(text)
    except _Refused as error:
        raise RecipeError([*builder.problems, error.problem]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise RecipeError([Problem(f"{name}:{line}", "", _syntax(error))]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"not valid YAML: the character U+{_codepoint(error.character):04X} is not allowed"
        raise RecipeError([Problem(f"{name}:{line}", "", message)]) from None


def _codepoint(character: str | int | bytes) -> int:
    return character if isinstance(character, int) else ord(character[:1])


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem, context = error.problem or str(error), error.context or ""
    if "'\\t'" in problem:
        return "not valid YAML: a tab; indent with spaces"
    if "mapping values are not allowed" in problem:
        return (
            "not valid YAML: `key: value` is not allowed here; check the indentation, and put quotes "
            "around a string that contains a colon"
        )
    if "alias" in context or "anchor" in context:
        return "not valid YAML: put quotes around a string that begins with * or &"
    start = f", line {error.context_mark.line + 1}" if error.context_mark else ""
    return f"not valid YAML: {problem}{f' ({context}{start})' if context else ''}"


class _Builder:
    def __init__(self, name: str):
        self.name = name
        self.positions: dict[Key, str] = {}
        self.problems: list[Problem] = []

    def build(self, text: str) -> Tree:
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        value, documents = None, 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _Refused(self._position(event), (), "a second document; a file holds one recipe")
                value = self._node(next(events), events, ())
        if self.problems:
            raise RecipeError(self.problems)
        self.positions.setdefault((), f"{self.name}:1")
        return Tree(value, self.positions)

    def _position(self, event: yaml.Event) -> str:
        assert event.start_mark is not None  # the parser gives every event a position
        return f"{self.name}:{event.start_mark.line + 1}"

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], key: Key) -> Any:
        position = self._position(event)
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:  # an alias has one, too
            raise _Refused(
                position,
                key,
                "anchors and aliases (& and *) are not supported; share settings with "
                "base:, and put quotes around a string that begins with & or *",
            )
        assert isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent)
        if event.tag is not None:
            raise _Refused(position, key, f"tags such as {event.tag} are not supported")
        if len(key) > DEEPEST:
            raise _Refused(position, key[:3], f"nested more than {DEEPEST} levels deep")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, key)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, key)
        return self._sequence(events, key)

    def _scalar(self, event: yaml.ScalarEvent, key: Key) -> Any:
        if event.style is not None:
            return event.value
        try:
            value = scalar(event.value)
        except ValueError:  # Python reads at most 4300 digits
            value = math.inf
        if isinstance(value, float) and not math.isfinite(value):
            message = f"must be a finite number, not {event.value[:20]}"
            self.problems.append(Problem(self._position(event), dotted(key), message, ProblemKind.VALUE))
        return value

    def _sequence(self, events: Iterator[yaml.Event], key: Key) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            item = (*key, len(values))
            self.positions[item] = self._position(event)
            values.append(self._node(event, events, item))
        return values

    def _mapping(self, events: Iterator[yaml.Event], key: Key) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            name = self._key(event, key)
            child, position = (*key, name), self._position(event)
            if name in values:
                first = self.positions[child].rpartition(":")[2]
                self.problems.append(Problem(position, dotted(child), f"given twice (first on line {first})"))
            else:
                self.positions[child] = position
            values[name] = self._node(next(events), events, child)
        return values

    def _key(self, event: yaml.Event, parent: Key) -> str:
        position = self._position(event)
        if not isinstance(event, yaml.ScalarEvent) or event.anchor or event.tag:
            raise _Refused(position, parent, "a key must be a string")
        if event.value == "<<" and event.style is None:
            raise _Refused(position, parent, "merge keys (<<) are not supported; use base: to share settings")
        if not event.value:
            raise _Refused(position, parent, "the key is empty")
        return event.value


def merge(base: Tree, top: Tree) -> Tree:
    """Return `top` merged over `base`: mappings merge key by key, everything else is replaced."""
    positions = dict(base.positions)
    value = _merged(base.value, top.value, (), (positions, top.positions))
    positions[()] = top.positions.get((), positions.get((), ""))
    return Tree(value, positions)


def _merged(base: Any, top: Any, key: Key, positions: tuple[dict[Key, str], dict[Key, str]]) -> Any:
    below, above = positions
    if key in above:
        below[key] = above[key]
    if isinstance(base, dict) and isinstance(top, dict):
        joined = dict(base)
        for name, value in top.items():
            child = (*key, name)
            if name in base:
                joined[name] = _merged(base[name], value, child, positions)
            else:
                joined[name] = value
                below.update({path: above[path] for path in above if path[: len(child)] == child})
        return joined
    forget(below, key)
    below.update({path: above[path] for path in above if path[: len(key)] == key})
    return top


def without(value: Any, keys: Sequence[Key]) -> Any:
    """Return a copy of a value (mappings, lists, scalars) without some keys of its mappings."""
    rest = copy.deepcopy(value)
    for *parents, last in keys:
        del functools.reduce(lambda node, part: node[part], parents, rest)[last]
    return rest


def forget(positions: dict[Key, str], key: Key) -> None:
    """Drop the positions of everything below `key`."""
    for child in [other for other in positions if len(other) > len(key) and other[: len(key)] == key]:
        del positions[child]


def nearest(positions: Mapping[Key, str], key: Key) -> str:
    """Return the position of `key`, or of its nearest parent that has one."""
    while key not in positions and key:
        key = key[:-1]
    return positions.get(key, "")
