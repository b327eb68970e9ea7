"""A cancelled call does not end the worker of an engine."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from toolkit.inference.engine import Engine
from toolkit.inference.opening import OpenModel

SECONDS = 20


@pytest.fixture
def engine(tiny_model, tiny_tokenizer):
    return Engine(OpenModel(tiny_model, tiny_tokenizer, is_chat_model=False))


def test_calls_after_a_cancelled_one_are_carried_out(engine):
    running, go, ran = threading.Event(), threading.Event(), []

    def slow(opened):
        running.set()
        assert go.wait(SECONDS)
        return "slow"

    first = engine.call(slow)
    assert running.wait(SECONDS)
    waiting = engine.call(lambda opened: ran.append("cancelled"))
    last = engine.call(lambda opened: "last")
    assert not first.cancel()  # it runs
    assert waiting.cancel()
    go.set()
    assert (first.result(SECONDS), last.result(SECONDS)) == ("slow", "last")
    with pytest.raises(CancelledError):
        waiting.result(SECONDS)
    assert ran == []


def test_an_error_of_a_call_reaches_the_caller_and_the_worker_goes_on(engine):
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda opened: 1 / 0).result(SECONDS)
    assert engine.call(lambda opened: 1).result(SECONDS) == 1
