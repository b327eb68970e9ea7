"""Processes that never come are named within a minute."""

import socket
import threading

import pytest

from toolkit.base.errors import ToolkitError
from toolkit.runtime import rank_zero


@pytest.fixture
def meeting(monkeypatch):
    """Meet as one rank of several, at a free port."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    assert rank_zero.JOIN_SECONDS <= 50
    monkeypatch.setattr(rank_zero, "JOIN_SECONDS", 0.3)
    monkeypatch.setattr(rank_zero, "_FAIL_SECONDS", 0.3)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)

    def meet(rank, count, host="localhost"):
        variables = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": host, "MASTER_PORT": port}
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        rank_zero._meet()

    yield meet
    rank_zero._Meeting.store = None


def test_missing_processes_are_named_on_rank_0(meeting):
    with pytest.raises(ToolkitError, match="within 0.3 s no process with RANK 1 or 2 began"):
        meeting(0, 3)


def test_rank_0_that_never_comes_is_named_with_its_address(meeting):
    with pytest.raises(ToolkitError, match="no process with RANK 0 answered at localhost:"):
        meeting(1, 2)
    with pytest.raises(ToolkitError, match="MASTER_ADDR is 'no-host.invalid', which cannot be found"):
        meeting(1, 2, host="no-host.invalid")


def test_only_rank_0_reports_a_third_process_that_never_comes(meeting):
    with pytest.raises(ToolkitError, match="RANK 1 or 2"):
        meeting(0, 3)
    store = rank_zero._Meeting.store
    with pytest.raises(rank_zero.RankZeroFailed) as caught:
        meeting(1, 3)
    assert caught.value.status == 1 and store is not None


def test_processes_that_fail_together_know_it(meeting, monkeypatch):
    assert not rank_zero.failed_together(), "without a meeting there is nobody to ask"
    store = []
    with pytest.raises(ToolkitError):
        meeting(0, 2)
    store.append(rank_zero._Meeting.store)
    assert not rank_zero.failed_together(), "the other process still computes"
    other = threading.Timer(0.05, lambda: store[0].set("toolkit/failed/1", ""))
    other.start()
    assert rank_zero.failed_together()
    other.join()
