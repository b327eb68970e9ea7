"""The command line: verb, exit status, and what a person reads when something fails.

Nothing heavy is imported before the verb is known: help answers in under 0.3 s.

Exit status: 0 done, 1 failed, 2 a wrong recipe or usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType

from toolkit.base import error_file, ranks, system_errors
from toolkit.base.errors import RecipeError, ToolkitError, UsageError
from toolkit.cli.parser import did_you_mean
from toolkit.runtime import env_vars, waiting

VERBS = (
    "inspect",
    "data",
    "run",
    "check",
    "plan",
    "next",
    "generate",
    "chat",
    "playground",
    "explain",
    "feedback",
    "evaluate",
    "report",
    "verify",
    "batch",
    "reproduce",
    "publish",
    "schema",
    "runs",
)
"""Each verb is the function `main` of the module `toolkit.cli.<verb>`, imported when the verb is called."""

OVERVIEW = """usage: toolkit VERB ...

From plain text to an aligned, evaluated, published language model. Every step is a YAML recipe.

train
  toolkit inspect MODEL                         what a model is, and whether it can be used here
  toolkit data FILE                             what a training would read of your data
  toolkit run RECIPE|FOLDER [key=value ...]     run a recipe, or a folder in reference order
  toolkit check RECIPE|FOLDER                   report every error in recipes without running them
  toolkit plan RECIPE|FOLDER                    estimate parameters, FLOPs, memory and time
look
  toolkit next MODEL "text"                     the most probable next tokens
  toolkit generate MODEL "prompt"               answer a prompt
  toolkit chat MODEL                            chat with a model
  toolkit playground [MODEL ...]                a local web page: see models think, compare their answers
  toolkit explain MODEL ... --output FILE        next token, surprise and attention as one HTML file
  toolkit feedback FILE                         what people's votes say; export them as preferences
measure
  toolkit evaluate MODEL ... --data NAME        perplexity, bits per byte, win rate of any models
  toolkit report RUN ...                        a self-contained HTML page
  toolkit runs [DIR]                            list runs; --clean removes unneeded checkpoints
prove
  toolkit verify RUN [--replay N]               check all file hashes; replay training bitwise
  toolkit batch RUN --step N                    documents and tokens of a pretraining step
  toolkit reproduce RUN                         rerun a run from scratch and compare every file
publish
  toolkit publish RUN REPO_ID                   upload to the Hugging Face Hub with a model card
  toolkit schema                                the JSON schema of recipes, for editors

MODEL is a run directory, a model folder, or hub-id[@revision].
Start with: toolkit run recipes/tiny        Help on a verb: toolkit help run
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line and return the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    env_vars.set_variables()
    try:
        with _terminated_as_interrupted():
            status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except ToolkitError as error:
        _tell(error)
        return error.exit_status
    except KeyboardInterrupt as error:
        print(f"\ninterrupted{f': {error}' if str(error) else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Or the interpreter complains at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        told = system_errors.explained(error)
        if told is None:
            raise
        _tell(told)
        return told.exit_status


def _dispatch(arguments: list[str]) -> int:
    verb = arguments[0] if arguments else ""
    if verb == "help" and len(arguments) > 1:
        return _dispatch([arguments[1], "--help"])
    if verb in ("-h", "--help", "help"):
        print(OVERVIEW, end="")
        return 0
    if verb == "--version":
        print(f"toolkit {_version()}")
        return 0
    if not verb:
        print(OVERVIEW, end="", file=sys.stderr)
        return 2
    if verb not in VERBS:
        here = Path(verb).exists()
        close = f"; did you mean `toolkit run {verb}`?" if here else did_you_mean(verb.lower(), [*VERBS])
        raise UsageError(f"there is no verb {verb!r}{close}", fix="`toolkit --help` lists the verbs")
    ranks.require_launch()
    if verb != "run":  # which chooses by the load of the machine
        waiting.spin_briefly()
    try:
        return importlib.import_module(f"toolkit.cli.{verb}").main(arguments[1:])
    except SystemExit as stop:  # argparse, after --help
        return int(stop.code or 0)


def _version() -> str:
    try:
        return version("toolkit")
    except PackageNotFoundError:
        return "(not installed)"


def _tell(error: ToolkitError) -> None:
    """Print an error; of many processes that read the same recipe only the first one does."""
    if ranks.prints() or error.exit_status != 2:
        # The problems of a recipe begin with their place, where editors and terminals look for it.
        print(error if isinstance(error, RecipeError) else f"error: {error}", file=sys.stderr)
        error_file.write(error)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, with which clusters stop a job, ends a command as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
