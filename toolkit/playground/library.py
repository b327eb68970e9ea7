"""The models of the playground: their list, and their engines, which open when they are first used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.base.errors import ToolkitError, UsageError
from toolkit.inference.engine import Engine
from toolkit.inference.opening import open_model, stage_of
from toolkit.runs import index, seal

State = Literal["closed", "loading", "ready", "failed"]
Kind = Literal["language", "reward"]
LANGUAGE_STAGES = ("pretrain", "sft", "dpo", "ppo", "rloo", "grpo")
"""Stages whose model writes text, in the order in which the page lists them."""


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


class Library:
    """The models by id. Thread-safe."""

    def __init__(self, entries: list[Entry]):
        self.entries = {entry.id: entry for entry in entries}
        self._engines: dict[str, Engine] = {}
        self._errors: dict[str, ToolkitError] = {}
        self._loading: set[str] = set()
        self._locks = {name: threading.Lock() for name in self.entries}
        self.closing: list[Callable[[], None]] = []
        """What `close` calls before it closes the models."""

    def close(self) -> None:
        """End every request to a model, before the process ends."""
        for action in self.closing:
            action()
        for engine in list(self._engines.values()):
            engine.close()

    def entry(self, name: str, kind: Kind = "language") -> Entry:
        """Return an entry by id.

        Raises:
            UsageError: there is none of this kind.
        """
        entry = self.entries.get(name)
        if entry is None or entry.kind != kind:
            raise UsageError(f"there is no {kind} model {name!r}", where="model", fix="reload the page")
        return entry

    def engine(self, name: str) -> Engine:
        """Return the engine of a language model, which is loaded if it is not yet; blocks while it loads.

        Raises:
            UsageError: there is no such model.
            ToolkitError: it cannot be loaded.
        """
        entry = self.entry(name)
        with self._locks[name]:
            if name in self._errors:
                raise self._errors[name]
            if name not in self._engines:
                self._loading.add(name)
                try:
                    self._engines[name] = Engine(open_model(entry.reference))
                except ToolkitError as error:
                    self._errors[name] = error
                    raise
                finally:
                    self._loading.discard(name)
            return self._engines[name]

    def loaded(self, name: str) -> Engine | None:
        """Return the engine of a model that is loaded, else None."""
        return self._engines.get(name)

    def state(self, name: str) -> State:
        """Return whether a model is loaded."""
        if name in self._engines:
            return "ready"
        if name in self._errors:
            return "failed"
        return "loading" if name in self._loading else "closed"

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


def entries_of(models: list[str], runs_dir: Path) -> list[Entry]:
    """Return the entries of the models that were named, or of all sealed runs below `runs_dir`.

    Raises:
        RunError: no model is named, and `runs_dir` does not exist.
        UsageError: there is no model at all.
    """
    found = [_named(name) for name in models] if models else _of_runs(runs_dir)
    if not found:
        raise UsageError(
            "there is no finished run with a model",
            where=str(runs_dir),
            fix="run `toolkit run recipes/tiny`, or name a model: `toolkit playground MODEL`",
        )
    return found


def _named(name: str) -> Entry:
    path = Path(name)
    stage = stage_of(path / "model" if (path / "model").is_dir() else path) if path.is_dir() else None
    return Entry(name.rstrip("/"), name, stage, "reward" if stage == "reward" else "language")


def _of_runs(runs_dir: Path) -> list[Entry]:
    runs = [run for run in index.list_runs(runs_dir) if seal.is_sealed(run.path)]
    order = [*LANGUAGE_STAGES, "reward"]
    runs = sorted((run for run in runs if run.stage in order),
                  key=lambda run: (run.reference.rpartition("/")[0], order.index(run.stage)))  # fmt: skip
    return [
        Entry(run.reference, str(run.path), run.stage, "reward" if run.stage == "reward" else "language")
        for run in runs
    ]
