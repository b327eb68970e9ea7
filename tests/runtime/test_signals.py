import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toolkit.runtime import signals

ROOT = Path(__file__).parents[2]
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import os, sys, time
from toolkit.runtime.signals import die_with_parent
die_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(60)
''', str(__import__("os").getpid())])
time.sleep(60)
"""


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_child_dies_with_its_killed_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    child = int(parent.stdout.readline())
    assert running(child)
    assert signals.children(parent.pid) == [child]
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not running(child)


def test_child_of_a_dead_parent_exits_immediately():
    code = "from toolkit.runtime.signals import die_with_parent; die_with_parent(1234567); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == 1 and done.stdout == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_other_signals_interrupt_like_ctrl_c(number):
    outside = signal.signal(number, signal.SIG_DFL)  # under nohup, SIGHUP is ignored
    try:
        with pytest.raises(KeyboardInterrupt), signals.interruptible():
            os.kill(os.getpid(), number)
            time.sleep(5)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, outside)


def test_nohup_stays_in_effect():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


STAGE_ON_A_TERMINAL = """
import signal, sys, time
from pathlib import Path
from toolkit.base import console
from toolkit.runtime import signals
with signals.interruptible():
    signals.stop_requested()
    console.tell("started")
    while not signals.stop_requested():
        time.sleep(0.01)
    console.tell("saving")
    Path(sys.argv[1]).write_text("saved")
"""


def test_stage_saves_when_its_terminal_closes(tmp_path):
    """Writing to a closed terminal raises an error, which must not prevent the checkpoint."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", STAGE_ON_A_TERMINAL, str(tmp_path / "saved")])
    assert b"started" in os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitpid(process, 0)[1] == 0 and (tmp_path / "saved").read_text() == "saved"


def test_first_signal_requests_a_stop_and_second_ends_the_stage(monkeypatch, capsys):
    monkeypatch.setattr(signals, "_SAME_SIGNAL_SECONDS", 0.05)
    still_there = False
    with pytest.raises(KeyboardInterrupt), signals.interruptible():
        assert not signals.stop_requested()
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.stop_requested()
        os.kill(os.getpid(), signal.SIGTERM)  # the same Ctrl-C through another path
        still_there = True
        time.sleep(0.06)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal must end it")
    assert still_there and not signals.stop_requested()  # a later training in this process goes on
    assert capsys.readouterr().err.count("stopping") == 1


WORKER = """
import os, sys
from toolkit.runtime import signals
with signals.interruptible():
    signals.leave_to_parent()
    for number in signals.STOPPING:
        os.kill(os.getpid(), number)
    print("still working")
"""


def test_worker_leaves_signals_to_its_parent():
    done = subprocess.run([sys.executable, "-c", WORKER], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "still working\n", done.stderr
