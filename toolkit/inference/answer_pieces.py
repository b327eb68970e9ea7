"""An answer in pieces of text that are final, for clients that stop at strings of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolkit.inference.engine import Finished, Token, answer

if TYPE_CHECKING:
    from toolkit.inference.generation import GenerationSettings
    from toolkit.inference.opening import OpenModel


@dataclass(frozen=True)
class AnswerPiece:
    """Text that follows in an answer.

    Attributes:
        text: possibly empty.
        tokens: those that end in it, and one that a stop string cuts.
        finished: the end of the answer, in its last piece.
    """

    text: str
    tokens: list[Token]
    finished: Finished | None = None


class StopFilter:
    """Finds the first stop string in a text that arrives in pieces; holds back what may be its beginning."""

    def __init__(self, stops: Sequence[str]):
        self.stops = [stop for stop in stops if stop]
        self.held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """Return the text that is final now, and whether a stop string follows it."""
        self.held += text
        places = [place for stop in self.stops if (place := self.held.find(stop)) >= 0]
        if places:
            return self.held[: min(places)], True
        keep = max((_overlap(self.held, stop) for stop in self.stops), default=0)
        final = self.held[: len(self.held) - keep]
        self.held = self.held[len(final) :]
        return final, False


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of a text that a stop string begins with."""
    return next(
        (length for length in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:length])), 0
    )


def pieces(
    opened: OpenModel,
    ids: list[int],
    *,
    settings: GenerationSettings,
    stream: tuple[str | int, ...],
    stops: Sequence[str] = (),
    top_logprobs: int | None = None,
    cancelled: threading.Event | None = None,
) -> Iterator[AnswerPiece]:
    """Yield an answer of `engine.answer` in pieces; it ends before the first of the stop strings.

    Raises:
        ToolkitError: as `answer`.
    """
    found, count, read, released = StopFilter(stops), 0, 0, 0
    waiting: list[tuple[int, int, Token]] = []  # where the text of a token begins and ends in the answer
    events = answer(
        opened, ids, settings=settings, stream=stream, top_logprobs=top_logprobs, cancelled=cancelled
    )
    for event in events:
        if isinstance(event, Token):
            count += 1
            waiting.append((read, read + len(event.text), event))
        read += len(event.text)
        final, is_stopped = found.add(event.text)
        released += len(final)
        if is_stopped:
            begun = [token for start, end, token in waiting if start < released or end <= released]
            yield AnswerPiece(final, begun, Finished("stop", "", count))
            return
        if isinstance(event, Finished):
            yield AnswerPiece(final + found.held, [token for _, _, token in waiting], event)
            return
        given = [token for _, end, token in waiting if end <= released]
        waiting = waiting[len(given) :]
        if final or given:
            yield AnswerPiece(final, given)
