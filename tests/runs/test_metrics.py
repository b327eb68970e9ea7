import numpy
import pytest

from toolkit.runs.metrics import Metrics, read


def test_rows_round_trip_with_step_and_time(tmp_path):
    now = [100.0]
    metrics = Metrics(tmp_path / "metrics.jsonl", seconds_before=5.0, clock=lambda: now[0])
    now[0] = 102.5
    metrics.log(3, loss=numpy.float32(1.5), layers=[1, None], text="a", nothing=None, tokens=numpy.int64(7))
    metrics.log(4, loss=float("nan"), norm=float("inf"), gradient=numpy.array([1.0, float("nan")]))
    assert read(tmp_path / "metrics.jsonl") == [
        {"step": 3, "time": 7.5, "loss": 1.5, "layers": [1, None], "text": "a", "nothing": None, "tokens": 7},
        {"step": 4, "time": 7.5, "loss": "nan", "norm": "inf", "gradient": [1.0, "nan"]},
    ]


def test_incomplete_line_is_ignored_and_overwritten(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "time": 0}\n{"step": 2, "ti')
    assert [row["step"] for row in read(path)] == [1]
    Metrics(path).log(2)
    assert [row["step"] for row in read(path)] == [1, 2]


def test_truncate_drops_rows_after_the_resumed_step(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.truncate(0)
    for step in (1, 2, 3):
        metrics.log(step)
    metrics.truncate(2)
    metrics.log(3, again=True)
    rows = [(row["step"], row.get("again")) for row in read(metrics.path)]
    assert rows == [(1, None), (2, None), (3, True)]


def test_only_the_main_process_writes(tmp_path):
    Metrics(tmp_path / "metrics.jsonl", active=False).log(1)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_invalid_json_is_an_error(tmp_path):
    with pytest.raises(TypeError):
        Metrics(tmp_path / "metrics.jsonl").log(1, thing=object())
