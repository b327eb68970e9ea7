"""steps.jsonl restores every bit of a number and ignores an incomplete last line."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from toolkit.pretrain import step_log
from toolkit.pretrain.step_log import StepLog, StepRecord

ALONE = SimpleNamespace(num_processes=1)


def numbers(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(count, 2, generator=generator).exp()
    return [(loss, norm) for loss, norm in values]


def write(path, *, every: int, count: int = 12) -> StepLog:
    log = StepLog(path, ALONE, active=True)
    for number, (loss, norm) in enumerate(numbers(count), 1):
        log.add(number, loss, norm, f"batch{number}", skipped=number == 5)
        if number % every == 0 or number == count:
            log.flush()
    return log


def test_collection_interval_does_not_change_the_file(tmp_path):
    for every in (1, 5, 12):
        write(tmp_path / f"{every}.jsonl", every=every)
    contents = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(contents) == 1
    for row, (loss, norm) in zip(step_log.read(tmp_path / "1.jsonl"), numbers(12), strict=True):
        # fp32 is written as the shortest text of the float64 value, which preserves every bit
        assert torch.equal(torch.tensor(row.loss, dtype=torch.float32), loss)
        assert torch.equal(torch.tensor(row.norm, dtype=torch.float32), norm)
        assert row.skipped is (row.step == 5)


def test_values_are_not_fetched_before_collect(tmp_path):
    log = StepLog(tmp_path / "steps.jsonl", ALONE, active=True)
    loss = torch.tensor(1.0)
    log.add(1, loss, torch.tensor(2.0), "b")
    assert not log.path.exists()
    assert log.flush() == [StepRecord(1, 1.0, 2.0, "b")] and log.flush() == []
    assert step_log.read(log.path) == [StepRecord(1, 1.0, 2.0, "b")]


def test_other_ranks_collect_but_do_not_write(tmp_path):
    log = StepLog(tmp_path / "steps.jsonl", ALONE, active=False)
    log.add(1, torch.tensor(1.0), torch.tensor(2.0), "b")
    assert len(log.flush()) == 1 and not log.path.exists()


@pytest.mark.parametrize("whole", [False, True])
def test_losses_of_processes_are_averaged_once(tmp_path, whole):
    calls = []

    def reduce(values, reduction):
        calls.append(values.clone())
        return values + 1.0  # the loss of another process is higher by 2

    two = SimpleNamespace(num_processes=2, reduce=reduce)
    log = StepLog(tmp_path / "steps.jsonl", two, active=True, losses_reduced=whole)
    for number in (1, 2):
        log.add(number, torch.tensor(3.0), torch.tensor(5.0), "b")
    rows = log.flush()
    assert [row.loss for row in rows] == [3.0 if whole else 4.0] * 2
    assert [row.norm for row in rows] == [5.0] * 2 and len(calls) == (0 if whole else 1)


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_incomplete_last_line_is_ignored(tmp_path, cut):
    path = tmp_path / "steps.jsonl"
    write(path, every=1)
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    assert [row.step for row in step_log.read(path)] == list(range(1, 12))
    log = StepLog(path, ALONE, active=True)
    log.resume(8, last_line=5)
    log.add(9, *numbers(9)[-1], "batch9")
    log.flush()
    assert path.read_bytes() == b"".join(content.splitlines(keepends=True)[:9])


def test_resume_drops_later_steps(tmp_path):
    path = tmp_path / "steps.jsonl"
    write(path, every=1)
    log = StepLog(path, ALONE, active=True)
    log.resume(7, last_line=3)
    assert [row.step for row in step_log.read(path)] == list(range(1, 8))
    losses = [float(loss) for loss, _ in numbers(12)]
    assert log.pop_mean_loss() == sum([losses[3], losses[5], losses[6]]) / 3  # 4, 6, 7: 5 was skipped
    assert math.isnan(log.pop_mean_loss())
    log.resume(0, last_line=0)
    assert step_log.read(path) == [] and math.isnan(log.pop_mean_loss())
    new = StepLog(tmp_path / "other.jsonl", ALONE, active=True)
    new.resume(0, last_line=0)
    assert not new.path.exists()


def test_non_finite_numbers_round_trip_through_json(tmp_path):
    log = StepLog(tmp_path / "steps.jsonl", ALONE, active=True)
    log.add(1, torch.tensor(math.nan), torch.tensor(math.inf), "b", skipped=True)
    assert not log.flush()[0].finite
    assert '"loss": "nan", "norm": "inf"' in log.path.read_text()
    row = step_log.read(log.path)[0]
    assert math.isnan(row.loss) and row.norm == math.inf and row.skipped
    log.resume(1, last_line=0)
    assert '"loss": "nan", "norm": "inf"' in log.path.read_text()


def test_differences_are_bitwise():
    before = [StepRecord(1, 1.0, 2.0, "b"), StepRecord(2, math.nan, 2.0, "b", True)]
    assert step_log.differences(before, list(before)) == []
    again = [StepRecord(1, math.nextafter(1.0, 2.0), 2.0, "c"), before[1]]
    assert step_log.differences(before, again) == [
        "step 1: batch was 'b' and is 'c'",
        "step 1: loss was 1.0 and is 1.0000000000000002",
    ]
    with pytest.raises(ValueError):
        step_log.differences(before, before[:1])
