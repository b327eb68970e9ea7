"""Requests that nobody waits for, and closing an engine."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from toolkit.inference.engine import BusyError, Engine


class Requests:
    """Requests to an engine that write down when they run."""

    def __init__(self):
        self.engine, self.ran = Engine(None), []
        self.started, self.release = threading.Event(), threading.Event()

    def submit(self, name: str, *, background: bool = False, holds: bool = False) -> Future[bool]:
        """Queue a request; the result is whether it was interrupted."""
        future: Future[bool] = Future()

        def make(opened, cancelled):
            self.ran.append(name)
            if holds:
                self.started.set()
                while not (self.release.is_set() or cancelled.wait(0.005)):
                    pass
            yield cancelled.is_set()

        self.engine.submit(make, deliver=future.set_result, end=lambda error: None, background=background)
        return future


@pytest.fixture
def requests():
    made = Requests()
    yield made
    made.release.set()
    made.engine.close()


def test_a_request_in_the_background_runs_after_all_others(requests):
    held = requests.submit("first", holds=True)
    requests.started.wait()
    last = requests.submit("background", background=True)
    requests.submit("second")
    requests.release.set()
    assert last.result(10) is False and held.result(10) is False
    assert requests.ran == ["first", "second", "background"]


def test_a_request_interrupts_one_in_the_background(requests):
    held = requests.submit("background", background=True, holds=True)
    requests.started.wait()
    waiting = requests.submit("background too", background=True)
    assert requests.submit("person").result(10) is False
    assert held.result(10) is True and waiting.result(10) is False
    assert requests.ran == ["background", "person", "background too"]


def test_a_closed_engine_has_ended_its_requests_and_takes_no_more(requests):
    held = requests.submit("running", holds=True)
    requests.started.wait()
    waiting = requests.submit("waiting")
    requests.engine.close()
    assert held.result(1) is True and not waiting.done() and requests.ran == ["running"]
    with pytest.raises(BusyError, match="is being closed"):
        requests.submit("late")
