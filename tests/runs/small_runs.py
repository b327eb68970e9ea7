"""Small recipes and runs without torch."""

from __future__ import annotations

import builtins
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from toolkit.base import files
from toolkit.config import schema
from toolkit.config.loader import LoadedRecipe
from toolkit.runs.opening import open_run

SOURCE = schema.DataSource(name="storyworld", examples=3)


def tokenizer(name: str = "t/tokenizer", **settings) -> LoadedRecipe:
    recipe = schema.TokenizerRecipe(stage="tokenizer", data=SOURCE, **settings)
    return LoadedRecipe(Path(f"{name}.yaml"), name, recipe, "stage: tokenizer\n", {})


def corpus(name: str = "t/corpus", parent: str = "runs/t/tokenizer", **settings) -> LoadedRecipe:
    recipe = schema.CorpusRecipe(stage="corpus", tokenizer=parent, data=SOURCE, **settings)
    return LoadedRecipe(Path(f"{name}.yaml"), name, recipe, "stage: corpus\n", {})


def manifest_of(loaded: LoadedRecipe, facts: dict | None = None) -> dict:
    """The parts of a manifest that `Run` reads, for a run that is not opened."""
    return {"facts": facts or {}, "inputs": {"settings": loaded.recipe.model_dump(mode="json")}}


def make(loaded: LoadedRecipe, runs_dir: Path, text: str = "weights", **options) -> Path:
    """Create a sealed run with one model file."""
    with open_run(loaded, runs_dir=runs_dir, **options) as run:
        if run is not None:
            run.write_text("model/weights.txt", text)
            run.metrics.log(1, loss=1.0)
            run.seal()
    return runs_dir / loaded.name


def killed_at(number: int, action: Callable[[], None]) -> bool:
    """Execute an action in a forked process that kills itself before its `number`th change of the disk.

    Returns whether it was killed; False if the action makes fewer changes.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _arm(number)
            action()
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _arm(number: int) -> None:
    """Count the calls that change the disk; each write counts again after half of its bytes."""
    left = [number]
    plain_open = io.open

    def counted(function):
        def call(*arguments, **options):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return function(*arguments, **options)

        return call

    for name in ("fsync", "rename", "replace", "unlink", "rmdir", "truncate", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    files.hash_files = counted(files.hash_files)

    def open_counted(*arguments, **options):
        handle = plain_open(*arguments, **options)
        if handle.writable():
            return _Halves(handle, counted(lambda: None))
        return handle

    builtins.open = io.open = open_counted


class _Halves:
    """A file whose writes can be interrupted halfway."""

    def __init__(self, handle, step: Callable[[], None]):
        self._handle, self._step = handle, step

    def write(self, content):
        self._step()
        self._handle.write(content[: len(content) // 2])
        self._handle.flush()
        self._step()
        self._handle.write(content[len(content) // 2 :])

    def __getattr__(self, name: str):
        return getattr(self._handle, name)

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self._handle.close()
