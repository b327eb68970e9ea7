"""The models of the playground: their list, and their engines, which open when they are first used.

The list needs no torch: the page is shown, with its models, while torch is imported.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar

from toolkit.base import files
from toolkit.base.errors import ToolkitError, UsageError
from toolkit.config import registry
from toolkit.config.inputs import is_local
from toolkit.config.registry import Product
from toolkit.inference.engine import Engine
from toolkit.models import checkpoint_folder
from toolkit.runs import index, layout, seal

T = TypeVar("T")
State = Literal["closed", "loading", "ready", "failed"]
Kind = Literal["language", "reward"]


@dataclass(frozen=True)
class Entry:
    """A model that the page can use.

    Attributes:
        id: what the browser calls it: the name under `--runs-dir`, or as it was given on the command line.
        reference: what `open_model` takes; it never reaches the browser, nor comes from there.
        stage: of its run; None outside of a run.
        kind: `language` or `reward`.
    """

    id: str
    reference: str
    stage: str | None
    kind: Kind


class Loader:
    """A thread that imports libraries and loads models, one after another.

    transformers changes functions of torch while it loads a model, so two must not load at the same time.
    """

    def __init__(self) -> None:
        self._jobs: queue.PriorityQueue[tuple[bool, int, Callable[[], Any], Future[Any]]]
        self._jobs = queue.PriorityQueue()
        self._numbers = count()
        self._thread = threading.Thread(target=self._work, name="loader", daemon=True)
        self._started = threading.Lock()

    def submit(self, job: Callable[[], T], *, later: bool = False) -> Future[T]:
        """Return the future result of a job; it cannot be cancelled, because others may wait for it, too.

        Args:
            later: after all jobs that are not.
        """
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        self._jobs.put((later, next(self._numbers), job, future))
        if self._started.acquire(blocking=False):
            self._thread.start()
        return future

    def _work(self) -> None:
        while True:
            self._do(*self._jobs.get()[2:])

    @staticmethod
    def _do(job: Callable[[], Any], future: Future[Any]) -> None:  # nothing holds the last model afterwards
        try:
            result = job()
        except BaseException as error:  # for the one who waits
            future.set_exception(error)
        else:
            future.set_result(result)


class Library:
    """The models by id. Thread-safe."""

    def __init__(self, entries: list[Entry]):
        self.entries = {entry.id: entry for entry in entries}
        self.loader = Loader()
        self.closing: list[Callable[[], None]] = []
        """What `close` calls before it closes the models."""
        self._engines: dict[str, Future[Engine]] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """End every request to a model, before the process ends."""
        for action in self.closing:
            action()
        for future in list(self._engines.values()):
            if future.done() and future.exception() is None:
                future.result().close()

    def entry(self, name: str, kind: Kind = "language") -> Entry:
        """Return an entry by id.

        Raises:
            UsageError: there is none of this kind.
        """
        entry = self.entries.get(name)
        if entry is None or entry.kind != kind:
            raise UsageError(f"there is no {kind} model {name!r}", where="model", fix="reload the page")
        return entry

    def opening(self, name: str, kind: Kind = "language") -> Future[Engine]:
        """Return the future engine of a model, which begins to load if it is not loaded yet.

        Its exception is a ToolkitError.

        Raises:
            UsageError: there is no such model.
        """
        entry = self.entry(name, kind)
        with self._lock:
            if name not in self._engines:
                self._engines[name] = self.loader.submit(lambda: _opened(entry))
            return self._engines[name]

    def engine(self, name: str) -> Engine:
        """Return the engine of a language model; blocks while it loads.

        Raises:
            UsageError: there is no such model.
            ToolkitError: it cannot be loaded.
        """
        return self.opening(name).result()

    def loaded(self, name: str) -> Engine | None:
        """Return the engine of a model that is loaded, else None."""
        return self._engines[name].result() if self.state(name) == "ready" else None

    def state(self, name: str) -> State:
        """Return whether a model is loaded."""
        future = self._engines.get(name)
        if future is None:
            return "closed"
        if not future.done():
            return "loading"
        return "ready" if future.exception() is None else "failed"

    def to_json(self) -> list[dict[str, Any]]:
        """Return what the browser knows of each model."""
        return [self.describe(entry) for entry in self.entries.values()]

    def describe(self, entry: Entry) -> dict[str, Any]:
        """Return an entry as a JSON object; what only a loaded model tells is null before."""
        engine = self.loaded(entry.id)
        return {
            "id": entry.id,
            "stage": entry.stage,
            "kind": entry.kind,
            "state": self.state(entry.id),
            "chat": None if engine is None else engine.opened.is_chat_model,
            "parameters": None if engine is None else engine.opened.model.num_parameters(),
            "vocabulary": None if engine is None else len(engine.opened.tokenizer),
            "context": None if engine is None else engine.opened.context_length,
        }


def _opened(entry: Entry) -> Engine:
    from toolkit.inference.opening import open_model
    from toolkit.inference.reward_probe import open_reward_model

    try:
        return Engine((open_reward_model if entry.kind == "reward" else open_model)(entry.reference))
    except ToolkitError:
        raise
    except Exception as error:  # of foreign code: the page tells it, and the other models still load
        raise ToolkitError(f"cannot be loaded: {error}", where=entry.id) from error


def entries_of(models: list[str], runs_dir: Path) -> list[Entry]:
    """Return the entries of the models that were named, or of all sealed runs below `runs_dir`.

    A name is a folder, a run as it is called below `runs_dir` (`tiny/sft`), or a Hub id.

    Raises:
        UsageError: a folder that is named does not exist or holds no model, or there is no model at all.
    """
    found = [_named(name, runs_dir) for name in models] if models else _of_runs(runs_dir)
    if not found:
        raise UsageError(
            "there is no finished run with a model",
            where=str(runs_dir),
            fix="run `toolkit run recipes/tiny`, or name a model: `toolkit playground MODEL`",
        )
    return found


def _named(name: str, runs_dir: Path) -> Entry:
    path = Path(name).expanduser()
    if not path.is_dir() and (runs_dir / path).is_dir():
        path = runs_dir / path
    if not path.is_dir():
        if is_local(name, kind="model"):
            raise UsageError(
                "there is no such folder",
                where=name,
                fix="name a run, a model folder or a Hub id",
            )
        return Entry(name, name, None, "language")
    run = seal.run_of(path)
    folder = path / layout.MODEL if (path / layout.MODEL).is_dir() else path
    if not checkpoint_folder.holds_model(folder):
        raise UsageError(
            "there is no model in this folder",
            where=name,
            fix=f"`toolkit playground --runs-dir {name}` shows the models of the runs below a folder",
        )
    stage = files.read_json(run / layout.MANIFEST)["stage"] if run else None
    is_reward = stage == "reward" if run else checkpoint_folder.is_classifier(folder)
    return Entry(name.rstrip("/"), str(path), stage, "reward" if is_reward else "language")


def _of_runs(runs_dir: Path) -> list[Entry]:
    if not runs_dir.is_dir():
        return []
    runs = [run for run in index.list_runs(runs_dir) if seal.is_sealed(run.path)]
    order = [*registry.makers(Product.LANGUAGE_MODEL), *registry.makers(Product.REWARD_MODEL)]
    runs = sorted((run for run in runs if run.stage in order),
                  key=lambda run: (run.reference.rpartition("/")[0], order.index(run.stage)))  # fmt: skip
    return [
        Entry(run.reference, str(run.path), run.stage, "reward" if run.stage == "reward" else "language")
        for run in runs
    ]
