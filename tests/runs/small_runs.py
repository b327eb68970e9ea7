"""Small recipes and runs without torch."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks import disk_faults
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
            disk_faults.kill_at(number)
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
