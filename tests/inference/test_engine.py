"""One worker a model: order, cancelling, errors, places in the queue, and answers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from types import SimpleNamespace

import numpy as np
import pytest

from toolkit.base.errors import ToolkitError
from toolkit.base.rng import derive
from toolkit.inference import engine as engines
from toolkit.inference import logprobs, sampling
from toolkit.inference.engine import BusyError, Engine, Finished, Token, answer
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.opening import OpenModel

SECONDS = 20


class Asked:
    """A request of three items, each of which waits until it is let through."""

    def __init__(self, engine: Engine, log: list, name: str = "", *, is_open: bool = True):
        self.gate, self.ended, self.begun = threading.Semaphore(99 if is_open else 0), threading.Event(), None
        self.begun, self.error, self.got = threading.Event(), None, []

        def make(opened, cancelled):
            for number in range(3):
                self.begun.set()
                assert self.gate.acquire(timeout=SECONDS)
                if cancelled.is_set():
                    return
                log.append((name, number))
                time.sleep(0.001)  # another thread may run here
                yield number

        def end(error):
            self.error = error
            self.ended.set()

        self.work = engine.submit(make, deliver=self.got.append, end=end)

    def wait(self) -> list:
        assert self.ended.wait(SECONDS)
        return self.got


@pytest.fixture
def engine() -> Engine:
    return Engine(SimpleNamespace())


@pytest.fixture
def blocked(engine):
    """Return a request that runs, and holds the worker until its gate is opened."""
    asked = Asked(engine, [], "first", is_open=False)
    assert asked.begun.wait(SECONDS)
    yield asked
    asked.gate.release(9)
    asked.wait()


def test_requests_are_carried_out_in_order_and_never_interleave(engine, blocked):
    log: list = []
    asked = [Asked(engine, log, name) for name in "abcd"]
    assert [one.work.position for one in asked] == [1, 2, 3, 4]
    blocked.gate.release(9)
    assert [one.wait() for one in asked] == [[0, 1, 2]] * 4
    assert log == [(name, number) for name in "abcd" for number in range(3)]
    assert asked[-1].work.position == 0


def test_requests_of_many_threads_never_interleave(engine):
    log: list = []
    threads = [threading.Thread(target=lambda n=n: Asked(engine, log, f"{n}").wait()) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    names = [name for name, _ in log]
    assert names == [name for name in names[::3] for _ in range(3)] and len(set(names)) == 20


def test_a_cancelled_request_that_waits_leaves_the_queue_at_once(engine, blocked):
    log: list = []
    gone, stays = Asked(engine, log, "gone"), Asked(engine, log, "stays")
    gone.work.cancel()
    assert gone.ended.is_set() and (gone.got, gone.error) == ([], None)
    assert stays.work.position == 1
    gone.work.cancel()  # again: nothing happens
    blocked.gate.release(9)
    stays.wait()
    assert {name for name, _ in log} == {"stays"}


def test_a_cancelled_request_that_runs_ends_before_its_next_item(engine, blocked):
    blocked.gate.release(1)
    while not blocked.got:
        pass
    blocked.work.cancel()
    blocked.gate.release(1)
    assert blocked.wait() == [0] and blocked.error is None


def test_an_error_ends_its_request_only(engine):
    ended = threading.Event()
    found: list = []

    def end(error):
        found.append(error)
        ended.set()

    def fail(opened, cancelled):
        yield 1
        raise KeyError("of a request")

    engine.submit(fail, deliver=found.append, end=end)
    assert ended.wait(SECONDS)
    assert found[0] == 1 and isinstance(found[1], KeyError)
    assert engine.call(lambda opened: "alive").result(SECONDS) == "alive"


def test_one_who_cannot_be_told_does_not_stop_the_worker(engine, capsys):
    def gone(value):
        raise RuntimeError("event loop is closed")

    engine.submit(lambda opened, cancelled: iter([1]), deliver=gone, end=gone)
    assert engine.call(lambda opened: "alive").result(SECONDS) == "alive"
    assert "nobody could be told" in capsys.readouterr().err


def test_too_many_waiting_requests_are_refused_and_room_is_made_again(engine, blocked, monkeypatch):
    monkeypatch.setattr(engines, "MAX_WAITING", 2)
    waiting = [Asked(engine, []) for _ in range(2)]
    with pytest.raises(BusyError, match="2 requests wait"):
        engine.call(lambda opened: 1)
    waiting[0].work.cancel()
    assert engine.call(lambda opened: 1) is not None


def test_the_next_request_of_an_idle_worker_waits_for_none(engine, monkeypatch):
    monkeypatch.setattr(engines.threading.Thread, "start", lambda self: None)  # it has not begun yet
    first, second = (Asked(engine, [], name) for name in ("first", "second"))
    assert (first.work.position, second.work.position) == (0, 1)


def test_a_cancelled_call_is_not_computed_and_later_calls_are(engine, blocked):
    computed: list = []
    gone = engine.call(lambda opened: computed.append("gone"))
    last = engine.call(lambda opened: computed.append("last"))
    assert gone.cancel()
    blocked.gate.release(9)
    last.result(SECONDS)
    assert computed == ["last"]
    with pytest.raises(CancelledError):
        gone.result(SECONDS)


def test_a_call_that_waits_when_its_engine_is_closed_is_cancelled(engine, blocked):
    future = engine.call(lambda opened: 1)
    blocked.gate.release(9)
    engine.close()
    with pytest.raises(CancelledError):
        future.result(SECONDS)


def test_a_call_gives_its_error(engine):
    def fail(opened):
        raise ToolkitError("does not fit")

    with pytest.raises(ToolkitError, match="does not fit"):
        engine.call(fail).result(SECONDS)


@pytest.fixture
def opened(tiny_model, tiny_tokenizer) -> OpenModel:
    return OpenModel(tiny_model, tiny_tokenizer, is_chat_model=True)


SETTINGS = GenerationSettings(max_new_tokens=20, temperature=1.0, seed=3)


def test_an_answer_is_that_of_generate(opened):
    ids = opened.text_ids("a fox")
    *tokens, end = answer(opened, ids, settings=SETTINGS, stream=("chat", 2))
    keywords = SETTINGS.for_model(opened)
    expected = sampling.generate(opened.model, [ids], seed=[derive(3, "chat", 2)], **keywords)
    assert [token.id for token in tokens] == expected.ids[0]
    assert end == Finished("length", end.text, len(tokens), None)
    text = "".join(token.text for token in tokens) + end.text
    assert text == opened.tokenizer.decode(expected.ids[0], skip_special_tokens=True)


def test_the_stop_token_is_told_and_does_not_count(opened, monkeypatch):
    ids = opened.text_ids("a fox")
    *tokens, _ = answer(opened, ids, settings=SETTINGS)
    third = next(i for i in range(2, 9) if tokens[i].id not in [token.id for token in tokens[:i]])
    monkeypatch.setattr(OpenModel, "stop_tokens", SimpleNamespace(ids=[tokens[third].id]))
    *given, end = answer(opened, ids, settings=SETTINGS)
    assert given == tokens[:third]
    assert (end.reason, end.tokens, end.stop) == ("stop", third, tokens[third].id)


def test_log_probabilities_are_those_of_scoring_at_any_temperature(opened):
    ids = opened.text_ids("a fox")
    for temperature in (0.0, 0.5, 1.5):
        settings = GenerationSettings(max_new_tokens=12, temperature=temperature, top_k=5)
        *tokens, _ = answer(opened, ids, settings=settings, top_logprobs=3)
        (expected,) = logprobs.answer_logprobs(opened.model, [ids], [[token.id for token in tokens]])
        np.testing.assert_allclose([token.logprob for token in tokens], expected, atol=2e-6)
        first = tokens[0]
        whole = logprobs.answer_logprobs(opened.model, [ids] * 261, [[token] for token in range(261)])
        nats = np.concatenate(whole)
        best = np.argsort(-nats, kind="stable")[:3]
        assert [token for token, _ in first.top] == best.tolist()
        np.testing.assert_allclose([value for _, value in first.top], nats[best], atol=2e-6)


def test_a_cancelled_answer_ends_after_one_token(opened):
    cancelled = threading.Event()
    events = answer(opened, opened.text_ids("a fox"), settings=SETTINGS, cancelled=cancelled)
    assert isinstance(next(events), Token)
    cancelled.set()
    assert [type(event).__name__ for event in events] in (["Finished"], ["Token", "Finished"])
