"""Starting `toolkit run` for `benchmarks/chaos.py`: forked from a process with loaded libraries, or anew."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.runtime import signals

ROOT = Path(__file__).resolve().parents[1]
LONGEST_SECONDS = 180.0
"""A run of `chaos_recipes` that takes longer hangs."""
SERVER = ("-m", "benchmarks.chaos_server")
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a run: this one, offline, with this checkout on the path."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **variables}


@dataclass(frozen=True)
class End:
    """How a command ended.

    Attributes:
        status: the exit status, negative for a signal; None if it hung and was killed.
        output: what it wrote to stdout and stderr.
        seconds: from its start.
    """

    status: int | None
    output: str
    seconds: float


class ForkServer:
    """`chaos_server`, which forks one command at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *SERVER], cwd=ROOT, env=environment(), text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=signals.die_with_parent,
        )  # fmt: skip

    def wait_until_ready(self) -> None:
        self.read(None)

    def start(self, arguments: list[str], output: Path, fault: dict[str, Any] | None = None) -> Command:
        """Fork a command; `fault` is that of `chaos_server`."""
        request = {"arguments": arguments, "folder": str(output.parent), "output": str(output),
                   "fault": fault or {}}  # fmt: skip
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self.read(None)
        assert answer is not None
        return Command(answer["pid"], output, self)

    def read(self, seconds: float | None) -> dict[str, Any] | None:
        """Return the next answer; None if it does not come in time."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with status {self._process.wait()}")
        return json.loads(line)

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


class Command:
    """A running command in a session of its own.

    Args:
        output: the file to which it writes stdout and stderr.
        server: what forked it; None for a process that this one started.
    """

    def __init__(
        self, pid: int, output: Path, server: ForkServer | None, own: subprocess.Popen | None = None
    ):
        self.pid, self._output, self._server, self._own = pid, output, server, own
        self._began = time.monotonic()
        self._status: int | None = None

    @classmethod
    def start(
        cls, arguments: list[str], output: Path, *, variables: dict[str, str], launcher: tuple[str, ...] = ()
    ) -> Command:
        """Start `python -m toolkit` anew, which takes some seconds more.

        Args:
            variables: environment variables to set.
            launcher: arguments of Python before `-m toolkit`.
        """
        with output.open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, *launcher, "-m", "toolkit", *arguments], cwd=output.parent,
                env=environment(**variables), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                start_new_session=True,
            )  # fmt: skip
        return cls(process.pid, output, None, process)

    def send(self, number: int) -> None:
        """Send a signal to the process; nothing if it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, seconds: float = LONGEST_SECONDS) -> bool:
        """Wait for the end; return whether it came in time."""
        if self._status is not None:
            return True
        if self._server is not None:
            answer = self._server.read(seconds)
            self._status = None if answer is None else answer["status"]
        elif self._own is not None:
            with suppress(subprocess.TimeoutExpired):
                self._status = self._own.wait(seconds)
        return self._status is not None

    def end(self, seconds: float = LONGEST_SECONDS) -> End:
        """Wait for the end, and kill the session if it does not come in time."""
        in_time = self.wait(seconds)
        took = time.monotonic() - self._began
        if not in_time:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.wait(10)
        output = self._output.read_text(errors="replace") if self._output.exists() else ""
        return End(self._status if in_time else None, output, took)
