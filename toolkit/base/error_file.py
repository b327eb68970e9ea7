"""Pass an error from a process to the program that started it, as JSON in a file: Python's, or torchrun."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from toolkit.base import errors
from toolkit.base.errors import Problem, ProblemKind, RecipeError, ToolkitError

VARIABLE = "TOOLKIT_ERROR_FILE"
"""The environment variable with the file's path. Processes that a stage starts inherit it."""
_OF_TORCHRUN = "TORCHELASTIC_ERROR_FILE"
"""The same of torchrun, which otherwise reports that the process left no reason."""


def write(error: ToolkitError) -> None:
    """Write an error to the file that VARIABLE names; without VARIABLE, or after a first error, do nothing.

    The first error is the cause: a folder of recipes reports a failed stage after the stage did. The launcher
    torchrun shows it in its own report, too.
    """
    if _OF_TORCHRUN in os.environ:
        _write_for_torchrun(error, Path(os.environ[_OF_TORCHRUN]))
    file = os.environ.get(VARIABLE)
    if file is None or Path(file).exists():
        return
    content: dict[str, object] = {
        "kind": type(error).__name__,
        "what": error.what,
        "where": error.where,
        "fix": error.fix,
    }
    if isinstance(error, RecipeError):
        content["problems"] = [
            [problem.place, problem.key, problem.what, problem.kind] for problem in error.problems
        ]
    Path(file).write_text(json.dumps(content), encoding="utf-8")


def _write_for_torchrun(error: ToolkitError, file: Path) -> None:
    """Write an error in the form of `torch.distributed.elastic.multiprocessing.errors`."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"message": {"message": str(error), "extraInfo": {"timestamp": str(int(time.time()))}}}
        file.write_text(json.dumps(content), encoding="utf-8")


def read(file: Path) -> ToolkitError | None:
    """Return the error in a file, of its own class if `toolkit.base.errors` has it; None without a file."""
    if not file.exists():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    if "problems" in content:
        problems = [
            Problem(position, key, message, ProblemKind(kind))
            for position, key, message, kind in content["problems"]
        ]
        return RecipeError(problems)
    kind = getattr(errors, content["kind"], ToolkitError)
    return kind(content["what"], where=content["where"], fix=content["fix"])
