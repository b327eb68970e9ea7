import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from toolkit.base import console, progress

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_progress_prints_few_lines_with_time_left(clock, capsys):
    with progress.Progress("tiny/dpo", 100) as shown:
        for step in range(1, 101):
            clock[0] += 1.0
            shown.update(step, loss=numpy.float32(2.25))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[0] == "tiny/dpo: 1/100 steps, loss 2.25"
    assert lines[1] == "tiny/dpo: 11/100 steps, loss 2.25, 1m29s left"
    assert lines[-1] == "tiny/dpo: 100/100 steps, loss 2.25"


def test_time_left_after_resume(clock):
    with progress.Progress("x", 1000) as shown:
        shown.update(900)
        clock[0] = 10.0
        shown.update(910)
        assert shown.seconds_left() == pytest.approx(90.0)


def test_time_left_ignores_a_slow_first_step(clock):
    with progress.Progress("x", 200) as shown:
        clock[0] = 500.0
        for step in range(1, 101):
            shown.update(step)
            clock[0] += 1.0
        assert shown.seconds_left() == pytest.approx(100.0)


def test_a_pass_of_a_few_seconds_shows_nothing(clock, capsys):
    for _ in progress.slowly(range(4), "pairs", total=4, unit="pair"):
        clock[0] += 1.0
    assert capsys.readouterr().err == ""


def test_a_longer_pass_shows_its_time_left(clock, capsys):
    for _ in progress.slowly(range(30), "pairs", total=30, unit="pair"):
        clock[0] += 1.0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "pairs: 5/30 pairs, 25s left" and lines[-1] == "pairs: 30/30 pairs"


def test_a_pass_without_a_description_shows_nothing(clock, capsys):
    with progress.slow_pass(None, 2, "token") as update:
        clock[0] += 100.0
        update(1)
    assert capsys.readouterr().err == ""


def test_other_ranks_print_nothing(clock, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with progress.Progress("x", 2) as shown:
        shown.update(2)
    assert capsys.readouterr().err == ""


def test_notices_and_progress_go_where_the_caller_wants(clock, capsys):
    written = io.StringIO()
    with console.notices_to(written):
        console.tell("first")
        with console.notices_to(None), progress.Progress("x", 2) as shown:
            console.tell("nobody reads this")
            shown.update(2)
        with progress.Progress("y", 2) as shown:
            shown.update(2)
        assert not console.on_terminal()
    assert written.getvalue() == "first\ny: 2/2 steps\n" and capsys.readouterr().err == ""
    console.tell("last")
    assert capsys.readouterr().err == "last\n"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59, "59s"), (125, "2m05s"), (12000, "3h20m")])
def test_duration_formatting(seconds, text):
    assert progress.duration(seconds) == text


def test_terminal_shows_a_bar_on_stderr_only(tmp_path):
    code = (
        "from toolkit.base.progress import Progress\n"
        "with Progress('tiny/dpo', 3) as p:\n"
        "    for i in range(1, 4):\n"
        "        print('{\"a\": 1}', flush=True) if i == 2 else None\n"
        "        p.update(i, loss=1.5)\n"
    )
    main, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=terminal,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(main, 10000)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(main)
    assert done.stdout == b'{"a": 1}\n'
    assert "3/3 steps, loss 1.5" in shown.decode() and "tiny/dpo" in shown.decode() and b"\x1b[" in shown
