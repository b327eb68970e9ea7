"""Tests of the character-level score, the timing and the command line of the benchmark."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import time_to_quality as benchmark
from toolkit.inference import logprobs


@pytest.mark.parametrize(("count", "window"), [(1, 8), (7, 8), (8, 8), (9, 8), (100, 8), (101, 7), (5, 1)])
def test_uniform_model_costs_log2_vocabulary_per_character(count, window):
    shapes = []

    def uniform(inputs):
        shapes.append(tuple(inputs.shape))
        return torch.full((*inputs.shape, 65), 3.0)

    bits = benchmark.score_characters(uniform, np.arange(count) % 65, prefix=0, window=window, rows=4)
    assert bits == pytest.approx(np.full(count, np.log2(65)), rel=1e-6)
    assert all(rows <= 4 and length <= window for rows, length in shapes)


@pytest.mark.parametrize(("count", "window"), [(2, 8), (9, 8), (10, 8), (100, 8), (100, 7), (6, 1)])
def test_each_character_is_scored_once_with_half_a_window_of_context(count, window):
    scored = []
    for start, end, first in benchmark.windows(count, window, max(1, window // 2)):
        scored += range(first, end + 1)
        assert 0 < end - start <= window
        assert start == 0 or first - start >= window - max(1, window // 2)
    assert scored == list(range(1, count))


def test_bits_match_the_toolkit_scorer(tiny_model):
    ids = np.random.default_rng(0).integers(0, 256, 333)
    bits = benchmark.score_characters(
        lambda inputs: tiny_model(input_ids=inputs).logits, ids, prefix=5, window=16, rows=3
    )
    (nats,) = logprobs.score_tokens(tiny_model, [ids], prefix_id=5, end_id=None, window=16, stride=8)
    assert bits == pytest.approx(nats / np.log(2), rel=1e-4)


def test_ratios_are_computed_within_rounds():
    def one(seconds, bits):
        return {"seconds": seconds, "cpu_seconds": 2 * seconds, "other_cores": seconds / 100,
                "parameters": 7, "window": 8, "bits_per_byte": bits,
                "bits_per_byte_interval": [bits - 1, bits + 1]}  # fmt: skip

    rounds = {benchmark.PEER: [one(100, 3.0), one(400, 2.0), one(200, 2.5)],
              "ours": [one(10, 2.0), one(80, 2.0), one(30, 2.0)]}  # fmt: skip
    peer, ours = benchmark.results(rounds)
    assert (peer["seconds"], peer["bits_per_byte"], peer["seconds_ratio"]) == (200, 2.5, 1)
    assert peer["bits_per_byte_interval"] == [1.5, 3.5]
    assert (ours["seconds"], ours["cpu_seconds"], ours["other_cores"]) == (30, 60, 0.3)
    assert ours["seconds_ratio"] == pytest.approx(0.15)  # of 0.1, 0.2 and 0.15


def test_cpu_time_of_other_processes_is_separated(tmp_path):
    count = "x = 0\nwhile __import__('time').process_time() < 1.5: x += 1"
    other = subprocess.Popen([sys.executable, "-c", count.replace("1.5", "60")])
    try:
        result = benchmark.timed([["-c", count], ["-c", "print(5)"]], folder=tmp_path, environment={})
    finally:
        other.kill()
        other.wait()
    assert result["stdout"] == "5\n" and 1.4 < result["cpu_seconds"] < result["seconds"] + 0.1
    if result["other_cores"] is not None:  # /proc/stat
        assert result["other_cores"] > 0.2
    with pytest.raises(SystemExit, match="status 3:\nno luck"):
        failing = "import sys; print('no luck'); sys.exit(3)"
        benchmark.timed([["-c", failing]], folder=tmp_path, environment={})


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "nanogpt"
    (folder / benchmark.PEER_DATA).mkdir(parents=True)
    for name in ("train.py", "model.py", benchmark.PEER_DATA / "prepare.py"):
        (folder / name).touch()
    return folder


def test_missing_inputs_are_reported(checkout, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("to be\n")
    good = ["--nanogpt", str(checkout), "--text", str(text)]
    cases = [
        (["--nanogpt", str(tmp_path / "nowhere"), "--text", str(text)], "this folder has no train.py"),
        (["--nanogpt", str(checkout), "--text", str(tmp_path / "none.txt")], "the file does not exist"),
        (["--text", str(text)], "required: --nanogpt"),
        ([*good, "--repeat", "0"], "at least 1"),
        ([*good, str(tmp_path / "gone")], "give at least one folder with recipes"),
    ]
    for given, complaint in cases:
        with pytest.raises(SystemExit) as ended:
            benchmark.arguments(given)
        assert ended.value.code == 2 and complaint in capsys.readouterr().err
    (checkout / "pretrain.yaml").touch()
    args = benchmark.arguments([*good, str(tmp_path / "gone"), str(tmp_path), str(checkout)])
    skipped = capsys.readouterr().err
    assert args.places == [checkout.resolve()] and skipped.count("contains no recipes") == 2


def test_help_does_not_import_torch():
    code = (
        "import sys; from benchmarks import time_to_quality\n"
        "try: time_to_quality.arguments(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=benchmark.ROOT, capture_output=True, text=True, check=True
    )
    assert "--nanogpt DIR" in ended.stdout and ended.stdout.endswith("False\n")
