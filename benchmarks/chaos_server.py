"""A process that has loaded the libraries of all stages, and forks one `python -m toolkit` for each request.

    python -m benchmarks.chaos_server

Loading them takes 4 to 9 s, a run of `benchmarks/chaos_recipes.py` one or two. A forked process is a process
of its own: it runs `toolkit/__main__.py`, and signals reach it alone. Requests and answers are lines of JSON
on stdin and stdout; `chaos_process.py` is the other side.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from benchmarks import disk_faults
from toolkit.config.registry import STAGES
from toolkit.runtime import env_vars, signals, upstream_private


def main() -> None:
    """Answer each request with the process id, and with the exit status when the process has ended."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print do not write among the answers
    env_vars.set_variables("cpu")
    for stage in STAGES.values():
        importlib.import_module(stage.entry.partition(":")[0])
    import toolkit.cli.run
    import toolkit.execution.runner  # noqa: F401  what every command imports

    gc.freeze()
    _answer(answers, {"ready": True})
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(json.loads(line))
        _answer(answers, {"pid": pid})
        _answer(answers, {"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})


def _answer(stream: Any, content: dict[str, Any]) -> None:
    print(json.dumps(content), file=stream, flush=True)


def _become(request: dict[str, Any]) -> None:
    """Turn this forked process into the command of a request; never returns.

    The request: `arguments` of toolkit, `folder` to work in, `output` (path), and a `fault` or none.
    """
    status = 1
    try:
        signals.die_with_parent()
        os.setsid()
        os.chdir(request["folder"])
        _redirect(request["output"])
        changes = _arm(request["fault"])
        sys.argv = ["toolkit", *request["arguments"]]
        try:
            runpy.run_module("toolkit", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = int(end.code or 0)
        upstream_private.run_exit_functions()
        if changes is not None:
            counts = {"all": changes.all, "saves": changes.saves, "growing": changes.growing}
            Path(request["fault"]["count"]).write_text(json.dumps(counts))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _redirect(output: str) -> None:
    """Read nothing, and write stdout and stderr to the end of one file."""
    for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, output, os.O_WRONLY | os.O_APPEND)):
        opened = os.open(path, flags | os.O_CREAT, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)
    for number in signals.STOPPING:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _arm(fault: dict[str, Any]) -> disk_faults.Changes | None:
    if "kill_at" in fault:
        disk_faults.kill_at(fault["kill_at"], fault["kind"])
    elif "full_at" in fault:
        disk_faults.full_at(fault["full_at"], Path(fault["below"]))
    elif "count" in fault:
        changes = disk_faults.Changes(below=fault["below"])
        disk_faults.watch(changes.count)
        return changes
    return None


if __name__ == "__main__":
    main()
