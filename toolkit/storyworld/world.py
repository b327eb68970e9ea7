"""A world as the rest of the toolkit sees it: rows of its data sets, their digest, and the gold utility."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from toolkit.storyworld.utility import Utility

Message = dict[str, str]

SPLITS = ("train", "held_out")
HELD_OUT_FRACTION = 0.1
GOLDEN = {"stories": 2000, "conversations": 600, "preferences": 400, "prompts": 1000, "turns": 1000}
"""Training rows of each config in the digest, and a twentieth as many held-out rows."""


@dataclass(frozen=True)
class RowSource:
    """How a world makes the rows of one config.

    Attributes:
        make_row: (seed, index, options) -> (text or messages that decide the split, row).
        options: names of the options that `make_row` reads.
    """

    make_row: Callable[[int, int, dict], tuple[list[Message] | str, dict]]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """One of the worlds of the storyworld.

    Attributes:
        name: the value of `data.world`.
        version: increases with every change of a row.
        digest: SHA-256 that identifies the rows of this version; see `compute_digest`.
        sources: config -> how its rows are made.
        utility: (messages of the prompt, answer) -> gold utility; reads the text alone and never raises.
        weights: term of the utility -> what it can add to the total.
        identity: further values that the digest covers, such as word lists.
    """

    name: str
    version: int
    digest: str
    sources: Mapping[str, RowSource]
    utility: Callable[[list[Message], str], Utility]
    weights: Mapping[str, float]
    identity: Callable[[], Iterator[Any]] = field(default=lambda: iter(()))
    rates: Callable[[list[Message], str], dict[str, float]] = field(default=lambda messages, answer: {})
    """(messages of the prompt, answer) -> {name of a rate: value in [0, 1]} of the rates that the prompt
    tests."""

    def rows(self, config: str, seed: int, split: str, count: int, **options) -> Iterator[dict]:
        """Return the first ``count`` rows of a split among the indices start, start + stride, ...

        options: ``start`` (0), ``stride`` (1), ``held_out_fraction``, and those of the config's source.
        Worker k of n takes start=k, stride=n: the workers' rows are disjoint by index. Raises ValueError
        for unknown or wrong options.
        """
        if config not in self.sources:
            raise ValueError(f"unknown storyworld config {config!r}; there are {', '.join(self.sources)}")
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
        options = dict(options)
        start, stride = options.pop("start", 0), options.pop("stride", 1)
        fraction = options.pop("held_out_fraction", HELD_OUT_FRACTION)
        unknown = sorted(set(options) - set(self.sources[config].options))
        if unknown:
            raise ValueError(f"storyworld config {config!r} has no option {', '.join(unknown)}")
        if start < 0 or stride < 1 or not 0.0 < fraction < 1.0:
            raise ValueError("start must be >= 0, stride >= 1 and held_out_fraction between 0 and 1")
        return self._rows(config, seed, (split, fraction), (count, start, stride), options)

    def _rows(
        self, config: str, seed: int, side: tuple[str, float], span: tuple[int, int, int], options: dict
    ) -> Iterator[dict]:
        split, fraction = side
        count, index, stride = span
        while count > 0:
            key, row = self.sources[config].make_row(seed, index, options)
            if split_of(key, held_out_fraction=fraction) == split:
                count -= 1
                yield row
            index += stride

    def compute_digest(self) -> str:
        """Return the SHA-256 of the version, the identity, and golden rows of every config and split.

        It takes two seconds, so `digest` is a recorded value, and a test compares both. Floats count to nine
        digits, because logarithms of two C libraries differ in the last digit.
        """
        name = "storyworld" if self.name == "large" else f"storyworld {self.name}"
        state = sha256(f"{name} {self.version}\n".encode())
        for value in self.identity():
            state.update(_line(value))
        for config, count in GOLDEN.items():
            if config not in self.sources:
                continue
            for split, size in zip(SPLITS, (count, count // 20), strict=True):
                for row in self.rows(config, 1, split, size):
                    state.update(_line([config, split, row]))
        return state.hexdigest()

    def term_shares(
        self, utilities: Sequence[Utility], others: Sequence[Utility] | None = None
    ) -> dict[str, float]:
        """Return the share of each term in the variance of the total.

        With ``others``, the share in the differences to them. Term t has cov(weight * t, total) / var(total),
        which sum to 1 (with ``others``, second moments of the paired differences, about 0). Zeros where
        nothing varies. Raises ValueError for an empty sequence.
        """
        if not utilities:
            raise ValueError("term_shares needs at least one utility")
        totals = [item.total for item in utilities]
        columns = {
            term: [weight * item.terms[term] for item in utilities] for term, weight in self.weights.items()
        }
        if others is None:
            totals = _centred(totals)
            columns = {term: _centred(column) for term, column in columns.items()}
        else:
            totals = [a - b.total for a, b in zip(totals, others, strict=True)]
            columns = {
                term: [a - self.weights[term] * b.terms[term] for a, b in zip(column, others, strict=True)]
                for term, column in columns.items()
            }
        square = sum(value * value for value in totals)
        return {
            term: sum(a * b for a, b in zip(column, totals, strict=True)) / square if square else 0.0
            for term, column in columns.items()
        }


def split_of(messages_or_text: list[Message] | str, *, held_out_fraction: float = HELD_OUT_FRACTION) -> str:
    """Return "train" or "held_out" by a hash of the first user message (or of the story).

    Case and white space do not count. A prompt is in the same split in every config and for every seed.
    """
    if isinstance(messages_or_text, str):
        text = messages_or_text
    else:
        text = next((message["content"] for message in messages_or_text if message["role"] == "user"), "")
    digest = sha256(" ".join(text.lower().split()).encode()).digest()
    return "held_out" if int.from_bytes(digest[:8], "big") < held_out_fraction * 2.0**64 else "train"


def _centred(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    return [value - mean for value in values]


def _line(value: Any) -> bytes:
    return json.dumps(_rounded(value), ensure_ascii=False, sort_keys=True).encode() + b"\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
