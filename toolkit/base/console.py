"""Notices for the user on stderr, and stdout reserved for results."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from typing import Any, TextIO

from toolkit.base import ranks

_redirections: list[TextIO | None] = []
"""The streams of the active `notices_to`, the innermost one last."""


def tell(message: str, *, end: str = "\n") -> None:
    """Print a notice for the user on stderr, or where `notices_to` sends it; stdout is for results."""
    stream = _redirections[-1] if _redirections else sys.stderr
    if stream is not None:
        print(message, end=end, file=stream, flush=True)


@cache
def tell_once(message: str) -> None:
    """Print a notice as `tell`, once in this process and only in the process of rank 0."""
    if ranks.rank() == 0:
        tell(message)


def on_terminal() -> bool:
    """Return whether notices go to stderr and that is a terminal."""
    return not _redirections and sys.stderr.isatty()


@contextmanager
def notices_to(stream: TextIO | None) -> Iterator[None]:
    """Send the notices and the progress of this process to `stream` instead of stderr; None silences them.

    So is the output of the stages that `toolkit.run` starts.
    """
    _redirections.append(stream)
    try:
        yield
    finally:
        _redirections.pop()


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Redirect what a stage and its libraries print to stderr, C code and child processes included."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def print_json(value: Any) -> None:
    """Print one JSON object on stdout; NaN and infinity raise ValueError, since JSON has neither."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))
