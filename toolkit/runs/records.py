"""Dataclasses that are read from and written as JSON objects.

A number with an interval is an `Estimate`: JSON has it as `<key>` and `<key>_interval`. JSON's null is None,
and nan in an `Estimate`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from toolkit.stats import Estimate

INTERVAL = "_interval"
NOT_IN_JSON = {"json": False}
"""Metadata of a field that does not stand for a key of the JSON."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A JSON object of known keys.

    Attributes:
        extra: the keys that the class does not name; they are written last.
        nulls: keys that are written as null if they have no value; without a value, other keys are not
            written.
        bare: estimates that are written without their interval.
        order: fields that are written first, in this order; the others follow in the order of the class.
    """

    units: ClassVar[tuple[str, ...]] = ("n",)
    """Keys that may hold the number of units that the intervals resample; the first one present counts."""

    extra: dict[str, Any] = field(default_factory=dict, repr=False, metadata=NOT_IN_JSON)
    nulls: frozenset[str] = field(default=frozenset(), repr=False, metadata=NOT_IN_JSON)
    bare: frozenset[str] = field(default=frozenset(), repr=False, metadata=NOT_IN_JSON)
    order: tuple[str, ...] = field(default=(), repr=False, metadata=NOT_IN_JSON)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read a JSON object.

        Raises:
            TypeError: `data` is not a mapping, or lacks a key that has no default.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"{cls.__name__} is read from a JSON object, not from {type(data).__name__}")
        left = dict(data)
        count = next((data[key] for key in cls.units if isinstance(data.get(key), int)), 0)
        values: dict[str, Any] = {}
        bare: set[str] = set()
        for name, hint in _hints(cls).items():
            if name not in left:
                continue
            value, interval_key = left.pop(name), name + INTERVAL
            if Estimate in (hint, *get_args(hint)):
                low, high = left.pop(interval_key, None) or (None, None)
                values[name] = Estimate(_number(value), _number(low), _number(high), count)
                bare |= set() if interval_key in data else {name}
            else:
                values[name] = _decode(value, hint)
        nulls = {key for key, value in data.items() if value is None and key not in left}
        order = tuple(key for key in data if key in values)
        return cls(**values, extra=left, nulls=frozenset(nulls), bare=frozenset(bare), order=order)

    @classmethod
    def combined(cls, *parts: Record, **values: object) -> Self:
        """Return a record with the values of records of its base classes, and further values by field."""
        merged: dict[str, Any] = {}
        for part in parts:
            named = {name: getattr(part, name) for name in part._names()}
            merged |= {
                name: value for name, value in named.items() if value is not None or name in part.nulls
            }
        nulls = frozenset[str]().union(*(part.nulls for part in parts))
        return cls(**{**merged, **values}, nulls=nulls, order=tuple(merged))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that `from_json` reads."""
        content: dict[str, Any] = {}
        for name in self._names():
            value = getattr(self, name)
            if isinstance(value, Estimate) and not isinstance(value, Record):
                content |= self._estimate_as_json(name, value)
            elif _is_nan(value) and (name in self.nulls or isinstance(self, Estimate)):
                content[name] = None
            elif value is not None:
                content[name] = _encode(value)
            else:
                content |= {key: None for key in (name, name + INTERVAL) if key in self.nulls}
        return content | self.extra

    def _names(self) -> list[str]:
        """Return the fields that stand for JSON keys, in the order of the JSON."""
        return list(dict.fromkeys((*self.order, *_hints(type(self)))))

    def _estimate_as_json(self, name: str, value: Estimate) -> dict[str, object]:
        content, interval_key = value.as_json(name), name + INTERVAL
        if name in self.bare:
            del content[interval_key]
        elif interval_key in self.nulls and value.interval == [None, None]:
            content[interval_key] = None
        return content

    def estimates(self) -> dict[str, Estimate]:
        """Return the fields that have an interval, by name."""
        values = {name: getattr(self, name) for name in _hints(type(self))}
        return {name: value for name, value in values.items() if isinstance(value, Estimate)}


@dataclass(frozen=True, kw_only=True)
class EstimateRecord(Record, Estimate):
    """An estimate as a JSON object of its own: `estimate`, `low`, `high`, `n` and how it was computed."""


def _hints(cls: type[Record]) -> dict[str, Any]:
    """Return {name: type} of the fields that stand for JSON keys."""
    hints = get_type_hints(cls)
    return {entry.name: hints[entry.name] for entry in fields(cls) if entry.metadata.get("json", True)}


def _decode(value: Any, hint: Any) -> Any:
    if hint is float and value is None:
        return math.nan
    if value is None:
        return None
    if isinstance(hint, UnionType):
        hint = next(option for option in get_args(hint) if option is not type(None))
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_json(value)
    if isinstance(hint, type) and is_dataclass(hint):
        return hint(**value)
    if get_origin(hint) is list:
        return [_decode(item, get_args(hint)[0]) for item in value]
    if get_origin(hint) is dict:
        return {key: _decode(item, get_args(hint)[1]) for key, item in value.items()}
    return value


def _encode(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    return value


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
