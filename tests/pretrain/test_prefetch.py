"""Prefetched rows equal rows read on demand; shorter rows predict the same tokens."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from toolkit.data.text.batch_order import Order, batch
from toolkit.data.text.shards import TokenShards
from toolkit.pretrain import prefetch, step_log
from toolkit.pretrain.prefetch import Prefetcher, split_rows


@pytest.fixture
def make(corpus):
    shards = TokenShards.open(corpus / "train")
    order = Order(shards.tokens, 32, seed=0, digest=shards.digest)
    return lambda **settings: Prefetcher(shards, order, batch_rows=8, **settings)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "_read" in thread.name]


def gone(seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while readers() and time.monotonic() < end:
        time.sleep(0.01)
    return not readers()


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_prefetch_does_not_change_rows(make, ahead):
    reader = make(prefetch_batches=ahead)
    given = list(reader.batches(5, 40))
    assert [step for step, _ in given] == list(range(5, 40))
    for step, rows in given:
        assert torch.equal(rows, reader.rows(step))
        assert torch.equal(
            rows, torch.from_numpy(batch(reader.shards, reader.order, step=step, batch_rows=8))
        )
    assert gone() and list(reader.batches(7, 7)) == []


def test_prefetch_is_bounded(make, monkeypatch):
    """While the consumer holds one batch, `ahead` batches are queued and the reader holds one more."""
    reader, read = make(prefetch_batches=2), []
    rows = reader.rows
    monkeypatch.setattr(reader, "rows", lambda step: read.append(step) or rows(step))
    steps = reader.batches(0, 100)
    next(steps)
    end = time.monotonic() + 5
    while len(read) < 4 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.05)
    assert read == [0, 1, 2, 3]
    steps.close()
    assert gone()


@pytest.mark.parametrize("ahead", [0, 2])
def test_reader_error_is_raised_at_its_step(make, monkeypatch, ahead):
    reader = make(prefetch_batches=ahead)
    rows = reader.rows

    def broken(step):
        if step == 3:
            raise OSError(5, "the disk is gone")
        return rows(step)

    monkeypatch.setattr(reader, "rows", broken)
    got = []
    with pytest.raises(OSError, match="the disk is gone"):
        for step, _ in reader.batches(0, 10):
            got.append(step)
    assert got == [0, 1, 2] and gone()


def test_prefetch_thread_ends_with_its_consumer(make):
    steps = make(prefetch_batches=2).batches(0, 10_000)
    next(steps)
    assert len(readers()) == 1
    steps.close()
    assert gone()
    with pytest.raises(ConnectionError):
        for _ in make(prefetch_batches=2).batches(0, 10_000):
            raise ConnectionError
    assert gone()


def test_unresponsive_thread_is_detected(make, monkeypatch):
    """Planted fault: without the stop flag the thread keeps running."""
    flags = []

    class Deaf(threading.Event):
        def set(self):
            flags.append(self)

    monkeypatch.setattr(prefetch, "threading", SimpleNamespace(Event=Deaf, Thread=threading.Thread))
    steps = make(prefetch_batches=2).batches(0, 10_000)
    next(steps)
    steps.close()
    assert not gone(0.3)
    threading.Event.set(flags[0])
    monkeypatch.undo()
    assert gone()


def predicted(rows: torch.Tensor) -> list[int]:
    return rows[:, 1:].flatten().tolist()


@pytest.mark.parametrize("length", [1, 2, 8, 32])
def test_split_rows_keeps_every_target_with_its_input(length):
    rows = torch.arange(4 * 33).view(4, 33)
    short = split_rows(rows, length)
    assert short.shape == (4 * 32 // length, length + 1)
    assert predicted(short) == predicted(rows)
    assert torch.equal(short[:, 1:], short[:, :-1] + 1)
    # splitting the 33 tokens instead would lose one target per split
    chopped = rows[:, : 33 // (length + 1) * (length + 1)].reshape(-1, length + 1)
    assert (predicted(chopped) == predicted(rows)) is (length == 32)


def test_length_warmup_reads_the_same_tokens(pretrain, monkeypatch):
    """Tier A with shorter rows: each step reads the same tokens and predicts each token once."""
    seen = []
    short = [{"tokens": 256 * 4, "sequence_length": 8}, {"tokens": 256 * 7, "sequence_length": 16}]
    whole = pretrain("whole", samples={"prompts": []})

    def watching(rows, length):
        result = split_rows(rows, length)
        assert predicted(result) == predicted(rows)
        seen.append(tuple(result.shape))
        return result

    monkeypatch.setattr("toolkit.pretrain.step.split_rows", watching)
    warmed = pretrain("warmed", samples={"prompts": []}, length_warmup=short)
    assert seen == [(32, 9)] * 4 + [(16, 17)] * 3 + [(8, 33)] * 5
    first, second = (step_log.read(run / "steps.jsonl") for run in (whole, warmed))
    assert [row.batch for row in first] == [row.batch for row in second]
    assert len({row.batch for row in first}) == 12
    assert first[0].loss != second[0].loss and abs(first[0].loss - second[0].loss) < 0.05
    other = pretrain("other", samples={"prompts": []}, seed=1)
    assert [row.batch for row in step_log.read(other / "steps.jsonl")] != [row.batch for row in first]
