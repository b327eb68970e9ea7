"""Answers that are made ahead, so that people who compare them do not wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import combinations

from toolkit.base.errors import ToolkitError
from toolkit.base.rng import derive
from toolkit.data.chat import template
from toolkit.inference.engine import Finished, Token, answer
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.opening import OpenModel
from toolkit.playground.contest import BlindContest, ContestSettings, Message, AnswerPair
from toolkit.playground.library import Library

MAX_IDENTICAL = 50
"""Pairs in a row with the same answer twice; then the models answer alike, and it is said."""
TRIES = 20
"""Times that a request of a person may interrupt an answer before it is made like theirs."""


@dataclass(frozen=True)
class _Answered:
    text: str
    reason: str


class Producer:
    """Makes pairs for a contest in a thread that lives while pairs are wanted.

    Attributes:
        error: why the last pair could not be made; the next request tries again.
    """

    def __init__(self, contest: BlindContest, library: Library, prompts: Callable[[], Sequence[list[Message]]], *,
                 start: int = 0):  # fmt: skip
        """`start` is the number of the first pair: a restarted server makes others."""
        self.contest, self.library = contest, library
        self.error: ToolkitError | None = None
        self._prompts, self._number = prompts, start
        self._order: tuple[int, list[int]] = (-1, [])
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._hurry = 0

    def wake(self) -> None:
        """Make pairs if some are wanted; returns at once."""
        with self._lock:
            if self._thread is None and self.contest.wanted() > 0:
                self._thread = threading.Thread(target=self._work, name="answers ahead", daemon=True)
                self._thread.start()

    def hurry(self, by: int) -> None:
        """Count a person who waits for a pair (1), or no longer does (-1)."""
        with self._lock:
            self._hurry += by

    def take_error(self) -> ToolkitError | None:
        """Return the error of the last attempt once."""
        with self._lock:
            error, self.error = self.error, None
            return error

    def _work(self) -> None:
        identical = 0
        while True:
            with self._lock:
                if self.contest.wanted() <= 0:
                    self._thread = None
                    return
            try:
                added = self.contest.add(self._pair())
                identical = 0 if added else identical + 1
                if identical >= MAX_IDENTICAL:
                    raise ToolkitError(
                        f"{MAX_IDENTICAL} times in a row both answers were the same", where="models",
                        fix="compare other models, or raise the temperature",
                    )  # fmt: skip
            except Exception as error:
                if not isinstance(error, ToolkitError):
                    error = ToolkitError(f"the answers could not be made: {error!r}")
                with self._lock:
                    self.error, self._thread = error, None
                return

    def _pair(self) -> AnswerPair:
        settings, number, seed = self.contest.settings, self._number, self.contest.seed
        self._number += 1
        prompts = self._prompts()
        turn, place = divmod(number, len(prompts))
        if self._order[0] != turn:  # every prompt once, in an order drawn anew each time round
            order = sorted(range(len(prompts)), key=lambda index: derive(seed, "prompts", turn, index))
            self._order = (turn, order)
        prompt = prompts[self._order[1][place]]
        pairs = list(combinations(settings.models, 2)) or [(settings.models[0],) * 2]
        models = pairs[derive(seed, "models", number) % len(pairs)]
        # The first of two is a or b by chance, so that a says nothing about the order of the request.
        if derive(seed, "order", number) % 2:
            models = models[::-1]
        answers = self._answers(models, prompt, number)
        return AnswerPair(number, prompt, models, (answers[0].text, answers[1].text),
                    (answers[0].reason == "stop", answers[1].reason == "stop"))  # fmt: skip

    def _answers(self, models: tuple[str, str], prompt: list[Message], number: int) -> list[_Answered]:
        done: list[_Answered | None] = [None, None]
        for attempt in range(TRIES + 1):
            missing = [side for side in (0, 1) if done[side] is None]
            background = self._hurry == 0 and attempt < TRIES
            futures = {
                side: self._submit(models[side], prompt, ("compare", number, side), background)
                for side in missing
            }
            for side, future in futures.items():
                found = future.result()
                done[side] = None if found is None or found.reason == "cancelled" else found
            if None not in done:
                break
        return [found for found in done if found is not None]

    def _submit(
        self, model: str, prompt: list[Message], stream: tuple[object, ...], background: bool
    ) -> Future[_Answered | None]:
        engine = self.library.engine(model)
        future: Future[_Answered | None] = Future()
        settings = self.contest.settings
        found: list[_Answered] = []

        def end(error: BaseException | None) -> None:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(found[0] if found else None)

        engine.submit(
            lambda opened, cancelled: iter([
                answer_text(opened, prompt, settings, stream=stream, seed=self.contest.seed,
                            cancelled=cancelled),
            ]),
            deliver=found.append, end=end, background=background,
        )  # fmt: skip
        return future


def answer_text(
    opened: OpenModel,
    prompt: list[Message],
    settings: ContestSettings,
    *,
    stream: tuple[object, ...],
    seed: int,
    cancelled: threading.Event | None = None,
) -> _Answered:
    """Return the answer of a model to a prompt, or the continuation of a text by a model without a template.

    A prompt that does not fit loses its beginning; an answer has at most half of the context.
    """
    room, limit = opened.context_length, settings.max_new_tokens
    if room is not None:
        limit = min(limit, max(1, room // 2))
    if opened.tokenizer.chat_template:
        ids = template.prompt_ids(opened.tokenizer, prompt, max_tokens=None if room is None else room - limit)
    else:
        ids = opened.text_ids("\n\n".join(message["content"] for message in prompt))
        ids = ids if room is None else ids[-(room - limit) :]
    sampling = GenerationSettings(limit, settings.temperature, seed=seed)
    tokens: list[int] = []
    for event in answer(opened, ids, settings=sampling, stream=stream, cancelled=cancelled):
        if isinstance(event, Token):
            tokens.append(event.id)
        else:
            finished: Finished = event
    return _Answered(template.decode_answer(opened.tokenizer, tokens), finished.reason)
