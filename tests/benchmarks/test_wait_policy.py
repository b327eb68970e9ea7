"""The benchmark of OpenMP's wait policy, with arms that take no steps and, slow, with a tiny model."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import pytest

from benchmarks import wait_policy
from benchmarks.pretrain_arms import Shape
from toolkit.runtime import waiting

TINY = Shape(n_layer=1, n_head=1, n_embd=16, vocab_size=64, length=32, rows=2)


def test_arms_differ_in_threads_and_policy_only():
    arms = wait_policy.make_arms(TINY, 2)
    assert [(arm.shape.threads, arm.variables) for arm in arms] == [
        (1, {}),
        (2, {"OMP_WAIT_POLICY": "ACTIVE"}),
        (2, {}),
        (2, {"GOMP_SPINCOUNT": "1000"}),
        (2, {"OMP_WAIT_POLICY": "PASSIVE"}),
    ]
    assert {replace(arm.shape, threads=1) for arm in arms} == {replace(TINY, threads=1)}


def test_row_has_medians_ranges_and_their_ratio():
    arm = wait_policy.PolicyArm(replace(TINY, threads=2), "PASSIVE")
    arm.speeds = {"quiet": [1000.0, 3000.0, 2000.0], "busy": [1500.0, 1000.0, 500.0]}
    assert wait_policy.rows("tiny", [arm]) == [
        "| tiny | 2 | PASSIVE | 2,000 (1,000-3,000) | 1,000 (500-1,500) | 0.50 |"
    ]


@pytest.mark.slow
def test_whole_benchmark_of_a_tiny_model(monkeypatch, capsys):
    monkeypatch.setenv(waiting.WAIT_POLICY, "ACTIVE")
    monkeypatch.setattr(wait_policy, "SHAPES", {"tiny": TINY})
    assert wait_policy.main(["--models", "tiny", "--rounds", "2", "--steps", "1", "--warmup", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and waiting.WAIT_POLICY not in os.environ
    assert all(
        re.match(r"\| tiny \| \d \| \S+ \| [\d,]+ \(.*\) \| [\d,]+ \(.*\) \| [\d.]+ \|", line)
        for line in lines[2:]
    )
