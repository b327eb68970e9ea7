import os
import pty
import sys
from contextlib import suppress

import pytest

from toolkit.base import console, progress
from toolkit.execution.stage_output import StageOutput

LABELS = {"t/dpo": "dpo", "t/reward": "reward"}


@pytest.fixture
def reports(monkeypatch):
    """Let Progress write reports in this process, and return what it wrote as lines."""
    monkeypatch.setenv(progress.REPORTS, "1")
    monkeypatch.setattr(progress._Reporting, "active", False)
    progress.report_to_parent()
    assert progress.REPORTS not in os.environ
    lines = []
    monkeypatch.setattr(console, "tell", lines.append)
    now = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now) / 10)
    return lines


def test_lines_begin_with_the_name_of_the_stage(capsys):
    with StageOutput(LABELS) as output:
        output.show("t/dpo", "t/dpo: 3/9 steps, loss 0.5\n")
        output.show("t/dpo", "dpo: 8 pairs\n")
        output.show("t/reward", "\n")
        output.show("t/reward", "a library's bar 1/2\ra library's bar 2/2\n")
        output.end("t/dpo")
    assert capsys.readouterr().err.splitlines() == [
        "dpo    | 3/9 steps, loss 0.5",
        "dpo    | 8 pairs",
        "reward | a library's bar 2/2",
    ]


def test_reports_are_not_too_frequent_and_the_last_one_says_so(reports):
    with progress.Progress("t/dpo", 20) as shown:
        for step in range(1, 21):
            shown.update(step, loss=0.5)  # every 0.1 seconds
    read = [progress.Report.read(line) for line in reports]
    assert [report.done for report in read] == [1, 4, 7, 10, 13, 16, 19, 20]
    assert [report.ended for report in read] == [False] * 7 + [True]
    assert read[-1].words == "20/20 steps, loss 0.5"
    assert progress.Report.read("t/dpo: 20/20 steps") is None


def read_to_end(terminal: int) -> str:
    """Return what was written to a terminal whose other end is closed; one `read` may return a part."""
    shown = b""
    with suppress(OSError):  # Linux: the other end is closed
        while piece := os.read(terminal, 100_000):
            shown += piece
    return shown.decode()


def test_terminal_shows_one_bar_for_each_running_stage(monkeypatch):
    main, terminal = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with os.fdopen(terminal, "w", encoding="utf-8") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        with StageOutput(LABELS) as output:
            for name, done in (("t/dpo", 3), ("t/reward", 5)):
                output.show(name, progress.Report(name, done, 9, f"{done}/9 steps").line() + "\n")
            output._bars.refresh()
            output.show("t/reward", "a line\n")
            output.show("t/dpo", progress.Report("answers", 9, 9, "9/9 prompts", ended=True).line())
            output.show("t/reward", progress.Report("t/reward", 0, 9, "", ended=True).line())
            assert output._tasks == {}
    shown = read_to_end(main)
    os.close(main)
    assert "dpo    | " in shown and "3/9 steps" in shown and "5/9 steps" in shown and "\x1b[" in shown
    assert "reward | a line" in shown and "dpo    | answers: 9/9 prompts" in shown
