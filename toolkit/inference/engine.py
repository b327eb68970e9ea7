"""An engine: one model and one worker thread, which carries out requests one after another.

Generation changes the cached state of a decoder, so two requests must never interleave on one model. Every
request to a model goes through its engine, whichever thread it comes from: the terminal's `toolkit chat`, or
the connections of `toolkit playground`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from toolkit.base.console import tell
from toolkit.base.errors import ToolkitError
from toolkit.base.rng import derive
from toolkit.inference.token_text import StreamDecoder

if TYPE_CHECKING:  # torch and transformers take 4 s; the playground's page is shown before
    from toolkit.inference.generation import GenerationSettings
    from toolkit.inference.opening import OpenModel

T = TypeVar("T")
MAX_WAITING = 256
"""Requests that may wait for one model."""
CLOSE_SECONDS = 10


class BusyError(ToolkitError):
    """Too many requests wait for a model."""


@dataclass(frozen=True)
class Token:
    """A sampled token.

    Attributes:
        id: of the token.
        text: what it completes of the answer; empty in the middle of a multi-byte character.
        logprob: log-probability in nats, as of `toolkit.inference.logprobs`; None where it was not asked for.
        top: the most probable tokens at its place with their log-probabilities, in order.
    """

    id: int
    text: str
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Finished:
    """The end of an answer.

    Attributes:
        reason: `stop`, the model ended it; `length`, the limit of tokens was reached; `cancelled`.
        text: what was still to be decoded, an incomplete character.
        tokens: sampled tokens, without the stop token.
        stop: the stop token that ended it, else None.
    """

    reason: Literal["stop", "length", "cancelled"]
    text: str
    tokens: int
    stop: int | None = None


class Work(Generic[T]):
    """A submitted request. Its items are delivered by the worker's thread."""

    def __init__(self, engine: Engine, make: Callable[[OpenModel, threading.Event], Iterator[T]],
                 deliver: Callable[[T], None], end: Callable[[BaseException | None], None],
                 *, background: bool = False):  # fmt: skip
        self._engine, self._make, self._deliver, self._end = engine, make, deliver, end
        self.background = background
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        """Stop the request: at once if it waits, else after its next item. Its end is told in either case."""
        self.cancelled.set()
        self._engine._forget(self)

    @property
    def position(self) -> int:
        """Requests that are carried out before this one; 0 for one that runs or has ended."""
        return self._engine._position(self)

    def _run(self, opened: OpenModel) -> None:
        error: BaseException | None = None
        try:
            if not self.cancelled.is_set():
                for item in self._make(opened, self.cancelled):
                    self._deliver(item)
        except BaseException as raised:  # delivered to the one who waits; the worker goes on
            error = raised
        self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        try:
            self._end(error)
        except Exception as raised:  # the one who waited is gone, as its event loop after Ctrl-C
            tell(f"warning: a request ended and nobody could be told: {raised}")


class Engine:
    """A loaded model and its worker.

    Attributes:
        opened: the model. Only the worker's thread may call it; the tokenizer may be used by any thread.
    """

    def __init__(self, opened: OpenModel):
        self.opened = opened
        self._waiting: deque[Work[Any]] = deque()
        self._background: deque[Work[Any]] = deque()
        self._running: Work[Any] | None = None
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._is_closed = self._is_retired = False

    def close(self) -> None:
        """Cancel every request, and wait for the one that runs. A process that ends meanwhile would abort."""
        with self._changed:
            self._is_closed = True
            waiting = [*self._waiting, *self._background]
            running = [] if self._running is None else [self._running]
            self._changed.notify()
            worker = self._worker
        for work in (*waiting, *running):
            work.cancel()
        if worker is not None:
            worker.join(CLOSE_SECONDS)

    def retire(self) -> None:
        """End the worker once nothing waits, which frees the model; a later request still runs."""
        with self._changed:
            self._is_retired = True
            self._changed.notify()

    def submit(
        self,
        make: Callable[[OpenModel, threading.Event], Iterator[T]],
        *,
        deliver: Callable[[T], None],
        end: Callable[[BaseException | None], None],
        background: bool = False,
    ) -> Work[T]:
        """Queue a request and return at once.

        Args:
            make: returns the items of the request; the event is set when the request is cancelled.
            deliver: called with each item, in the worker's thread; must not block.
            end: called once after the last item, with what was raised, or None.
            background: nobody waits for it. It is carried out when no other request waits, and the event of
                a running one is set when another request arrives.

        Raises:
            BusyError: `MAX_WAITING` requests wait already.
        """
        work = Work(self, make, deliver, end, background=background)
        queue = self._background if background else self._waiting
        with self._changed:
            if self._is_closed:
                raise BusyError("the model is being closed")
            if len(queue) >= MAX_WAITING:
                raise BusyError(f"{MAX_WAITING} requests wait for this model", fix="try again in a minute")
            queue.append(work)
            if not background and self._running is not None and self._running.background:
                self._running.cancelled.set()
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="engine", daemon=True)
                self._worker.start()
            self._changed.notify()
        return work

    def call(self, function: Callable[[OpenModel], T]) -> Future[T]:
        """Queue a function of the model and return its future result.

        While it waits the future can be cancelled, which takes it out of the queue; `close` cancels it.

        Raises:
            BusyError: as `submit`.
        """
        future: Future[T] = Future()

        def make(opened: OpenModel, _: threading.Event) -> Iterator[T]:
            if future.set_running_or_notify_cancel():
                yield function(opened)

        def end(error: BaseException | None) -> None:
            if error is not None:
                future.set_exception(error)
            elif not future.done():  # the engine was closed before it ran
                future.cancel()

        work = self.submit(make, deliver=future.set_result, end=end)
        future.add_done_callback(lambda done: work.cancel() if done.cancelled() else None)
        return future

    def _work(self) -> None:
        while True:
            with self._changed:
                self._running = None
                while not (self._waiting or self._background):
                    if self._is_closed or self._is_retired:
                        self._worker = None
                        return
                    self._changed.wait()
                self._running = (self._waiting or self._background).popleft()
            self._running._run(self.opened)

    def _position(self, work: Work[Any]) -> int:
        with self._changed:
            queue = [*self._waiting, *self._background]
            running = int(self._running is not None)  # else the worker is about to take the first one
            return next((place for place, other in enumerate(queue, running) if other is work), 0)

    def _forget(self, work: Work[Any]) -> None:
        with self._changed:
            queue = self._background if work.background else self._waiting
            if work not in queue:
                return
            queue.remove(work)
        work._finish(None)


def answer(
    opened: OpenModel,
    ids: list[int],
    *,
    settings: GenerationSettings,
    stream: tuple[str | int, ...] = ("chat", 0),
    cancelled: threading.Event | None = None,
    top_logprobs: int | None = None,
) -> Iterator[Token | Finished]:
    """Yield the tokens of an answer to a prompt, and its end; for `Engine.submit`.

    Args:
        ids: of the prompt.
        stream: name of the random stream, derived from the seed of `settings`.
        cancelled: ends the answer when it is set.
        top_logprobs: also tell log-probabilities, of each token and of so many most probable ones.

    Raises:
        ToolkitError: the prompt is empty or fills the context.
    """
    from toolkit.inference import sampling

    limit = opened.context_length
    keywords = settings.for_model(opened, None if limit is None else max(1, limit - len(ids)))
    decoder, count, stop = StreamDecoder(opened.tokenizer), 0, None
    for step in sampling.steps(opened.model, ids, seed=derive(settings.seed, *stream), **keywords):
        if step.ends:
            stop = step.id
            break
        count += 1
        if top_logprobs is None:
            yield Token(step.id, decoder.add(step.id))
        else:
            logprob, top = step.logprobs(top_logprobs)
            yield Token(step.id, decoder.add(step.id), logprob, tuple(top))
        if cancelled is not None and cancelled.is_set():
            yield Finished("cancelled", decoder.finish(), count)
            return
    yield Finished("length" if stop is None else "stop", decoder.finish(), count, stop)
