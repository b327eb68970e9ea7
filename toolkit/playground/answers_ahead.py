"""Answers that are made ahead, so that people who compare them do not wait.

While nobody waits, one answer is made after another, in the background of the engines: a request of a person
interrupts it. While people wait, pairs for all of them are made together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

from toolkit.base.errors import ToolkitError
from toolkit.base.rng import derive
from toolkit.data.chat import answer_end, fitting
from toolkit.inference import sampling
from toolkit.inference.engine import Finished, Token, answer
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.opening import OpenModel
from toolkit.playground.contest import AnswerPair, BlindContest, ContestSettings, Message
from toolkit.playground.library import Library

MAX_IDENTICAL = 50
"""Pairs in a row with the same answer twice; then the models answer alike, and it is said."""
MAX_TOGETHER = 8
"""Pairs that are made together."""
TRIES = 20
"""Times that requests of people may interrupt an answer; then it is made like theirs."""


@dataclass(frozen=True)
class _Draft:
    """A pair before it has answers."""

    number: int
    prompt: list[Message]
    models: tuple[str, str]


@dataclass(frozen=True)
class _Asked:
    """An answer that is to be made: side 0 or 1 of a draft."""

    draft: _Draft
    side: int
    contest: str

    @property
    def stream(self) -> tuple[str, str, int, int]:
        """Name of the random stream."""
        return "compare", self.contest, self.draft.number, self.side


@dataclass(frozen=True)
class _Answered:
    text: str
    ended: bool


class Producer:
    """Makes pairs for a contest, in a thread that lives while pairs are wanted."""

    def __init__(
        self,
        contest: BlindContest,
        library: Library,
        prompts: Callable[[], Sequence[list[Message]]],
        *,
        unfinished: Callable[[], Sequence[AnswerPair]] = tuple,
        start: int = 0,
    ):
        """Create a producer, which makes nothing yet.

        Args:
            unfinished: returns pairs of before that need more votes; called once, in the thread.
            start: number of the first pair: after a restart of the server others are made.
        """
        self.contest, self.library = contest, library
        self._prompts, self._number = prompts, start
        self._unfinished: Callable[[], Sequence[AnswerPair]] | None = unfinished
        self._order: tuple[int, list[int]] = (-1, [])
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._waiting, self._is_closed = 0, False
        self._error: ToolkitError | None = None

    def wake(self) -> None:
        """Make pairs if some are wanted; returns at once."""
        with self._lock:
            if self._thread is None and not self._is_closed and (self.contest.wanted() > 0 or self._waiting):
                self._thread = threading.Thread(target=self._work, name="answers ahead", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Make no more pairs."""
        self._is_closed = True

    def wait(self, by: int) -> None:
        """Count a person who begins to wait for a pair (1), or no longer does (-1)."""
        with self._lock:
            self._waiting += by

    def take_error(self) -> ToolkitError | None:
        """Return why the last pair could not be made, once; the next `wake` tries again."""
        with self._lock:
            error, self._error = self._error, None
            return error

    def _work(self) -> None:
        identical = 0
        while True:
            with self._lock:
                waiting = self._waiting
                wanted = max(self.contest.wanted(), waiting)
                if wanted <= 0 or self._is_closed:
                    self._thread = None
                    return
            try:
                if self._unfinished is not None:
                    self.contest.restore(self._unfinished())
                    self._unfinished = None
                    continue
                for pair in self._pairs(min(wanted, max(waiting, 1), MAX_TOGETHER)):
                    identical = 0 if self.contest.add(pair) else identical + 1
                if identical >= MAX_IDENTICAL:
                    raise ToolkitError(
                        f"{identical} times in a row both answers were the same", where="models",
                        fix="compare other models, or raise the temperature",
                    )  # fmt: skip
            except Exception as raised:  # told to the person who waits
                error = raised if isinstance(raised, ToolkitError) else None
                with self._lock:
                    self._thread = None
                    self._error = error or ToolkitError(f"the answers cannot be made: {raised!r}")
                return

    def _pairs(self, count: int) -> Iterator[AnswerPair]:
        drafts = [self._draft() for _ in range(count)]
        asked = [_Asked(draft, side, self.contest.name) for draft in drafts for side in (0, 1)]
        found = self._together(asked) if self._waiting else self._one_by_one(asked)
        for first_asked, second_asked in zip(asked[::2], asked[1::2], strict=True):
            draft = first_asked.draft
            first, second = found[first_asked.stream], found[second_asked.stream]
            yield AnswerPair(draft.number, draft.prompt, draft.models, (first.text, second.text),
                             (first.ended, second.ended))  # fmt: skip

    def _draft(self) -> _Draft:
        settings, number = self.contest.settings, self._number
        seed = derive(self.contest.seed, "compare", self.contest.name)
        self._number += 1
        prompts = self._prompts()
        turn, place = divmod(number, len(prompts))
        if self._order[0] != turn:  # every prompt once, in an order drawn anew each time round
            order = sorted(range(len(prompts)), key=lambda index: derive(seed, "prompts", turn, index))
            self._order = (turn, order)
        pairs = list(combinations(settings.models, 2)) or [(settings.models[0],) * 2]
        models = pairs[derive(seed, "models", number) % len(pairs)]
        if derive(seed, "order", number) % 2:  # which one is answer a tells nothing
            models = models[::-1]
        return _Draft(number, prompts[self._order[1][place]], (models[0], models[1]))

    def _together(self, asked: Sequence[_Asked]) -> dict[Any, _Answered]:
        by_model: dict[str, list[_Asked]] = {}
        for one in asked:
            by_model.setdefault(one.draft.models[one.side], []).append(one)
        settings, seed = self.contest.settings, self.contest.seed
        futures = [
            (rows, self.library.engine(model).call(partial(_batch, asked=rows, settings=settings, seed=seed)))
            for model, rows in by_model.items()
        ]
        return {
            one.stream: answered
            for rows, future in futures
            for one, answered in zip(rows, future.result(), strict=True)
        }

    def _one_by_one(self, asked: Sequence[_Asked]) -> dict[Any, _Answered]:
        return {one.stream: self._answer(one) for one in asked}

    def _answer(self, one: _Asked) -> _Answered:
        settings, seed = self.contest.settings, self.contest.seed
        engine = self.library.engine(one.draft.models[one.side])
        for attempt in range(TRIES + 1):
            found: list[_Answered | None] = []
            future: Future[None] = Future()
            engine.submit(
                lambda opened, cancelled: iter([_single(opened, one, settings, seed, cancelled)]),
                deliver=found.append,
                end=lambda error: future.set_exception(error) if error else future.set_result(None),  # noqa: B023
                background=attempt < TRIES and not self._waiting,
            )
            future.result()
            if found and found[0] is not None:
                return found[0]
        raise ToolkitError("other requests interrupt every answer", fix="try again")


def _batch(
    opened: OpenModel, asked: Sequence[_Asked], settings: ContestSettings, seed: int
) -> list[_Answered]:
    limit = _limit(opened, settings)
    sampled = sampling.generate(
        opened.model,
        [_prompt_ids(opened, one.draft.prompt, limit) for one in asked],
        seed=[derive(seed, *one.stream) for one in asked],
        **GenerationSettings(limit, settings.temperature).for_model(opened),
    )
    texts = [answer_end.decode_answer(opened.tokenizer, ids) for ids in sampled.ids]
    return [_Answered(text, ended) for text, ended in zip(texts, sampled.ended, strict=True)]


def _single(
    opened: OpenModel, one: _Asked, settings: ContestSettings, seed: int, cancelled: threading.Event
) -> _Answered | None:
    """Return an answer, None if it was interrupted."""
    limit = _limit(opened, settings)
    ids = _prompt_ids(opened, one.draft.prompt, limit)
    tokens: list[int] = []
    finished: Finished | None = None
    given = GenerationSettings(limit, settings.temperature, seed=seed)
    for event in answer(opened, ids, settings=given, stream=one.stream, cancelled=cancelled):
        if isinstance(event, Token):
            tokens.append(event.id)
        else:
            finished = event
    if finished is None or finished.reason == "cancelled":
        return None
    return _Answered(answer_end.decode_answer(opened.tokenizer, tokens), finished.reason == "stop")


def _limit(opened: OpenModel, settings: ContestSettings) -> int:
    """Return the tokens of an answer at most: no more than half of the context."""
    room = opened.context_length
    return settings.max_new_tokens if room is None else min(settings.max_new_tokens, max(1, room // 2))


def _prompt_ids(opened: OpenModel, prompt: list[Message], limit: int) -> list[int]:
    """Return the ids of a prompt, or of a text that a model without a chat template continues.

    One that does not fit loses its beginning.
    """
    room = None if opened.context_length is None else opened.context_length - limit
    if opened.tokenizer.chat_template:
        return fitting.prompt_ids(opened.tokenizer, prompt, max_tokens=room)
    ids = opened.text_ids("\n\n".join(message["content"] for message in prompt))
    return ids if room is None else ids[-room:]
