"""The run that a stage works in: its paths, its files, and what it decides."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from toolkit.base import files, ranks
from toolkit.base.console import tell
from toolkit.base.errors import RunError
from toolkit.config import history
from toolkit.config.loader import LoadedRecipe
from toolkit.config.schema import StageRecipe
from toolkit.runs import decisions, hub, layout, manifest, metrics, references, seal
from toolkit.runs.decisions import Decisions
from toolkit.runs.hub import Reference
from toolkit.runs.manifest import Manifest

Value = TypeVar("Value")


class Run:
    """A run in use. It is the same on every rank, and only rank 0 writes.

    Args:
        loaded: the recipe with its name and text.
        runs_dir: the directory that `runs/...` in a recipe is below.
        content: the manifest; its `facts` are what earlier attempts decided.

    Attributes:
        recipe: the recipe; of a run that an earlier version began, with the values that applied then.
    """

    def __init__(self, loaded: LoadedRecipe, *, runs_dir: Path, content: Manifest):
        self.recipe = _as_begun(loaded.recipe, content)
        self.name = loaded.name
        self.text = loaded.text
        self.runs_dir = Path(runs_dir)
        self.path = references.below(loaded.name, self.runs_dir)
        self.is_main = ranks.rank() == 0
        self.manifest = content
        self._decided_before = frozenset(content["facts"])
        self._timing = _Timing(self.path / layout.TIMING)
        self.metrics = metrics.Metrics(
            self.path / layout.METRICS, active=self.is_main, seconds_before=self._timing.before
        )

    @property
    def seed(self) -> int:
        """The root seed of all random streams of the stage."""
        return self.recipe.seed

    @property
    def model_dir(self) -> Path:
        """The folder of the model, tokenizer included."""
        return self.path / layout.MODEL

    @property
    def scratch(self) -> Path:
        """The folder for temporary files, which are no output; sealing removes it."""
        return self.path / layout.SCRATCH

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints; it exists after the first checkpoint."""
        return self.path / layout.CHECKPOINTS

    def reference(self, reference: str) -> Path | str:
        """Return a sealed run's directory, a local folder, or a hub id with its commit, `id@commit`.

        Raises:
            ToolkitError: as `references.resolve` and `hub.commit_of`.
        """
        resolved = references.resolve(reference, runs_dir=self.runs_dir)
        if isinstance(resolved, Path):
            return resolved
        name, _, revision = resolved.partition("@")
        return f"{name}@{self._commit(reference, (name, revision or None))}"

    def model_reference(self, reference: str) -> Reference:
        """Return (path or hub id, revision) of a model; the revision of a hub id is its commit.

        Raises:
            ToolkitError: as `references.model` and `hub.commit_of`.
        """
        name, revision = references.model(reference, runs_dir=self.runs_dir)
        return name, self._commit(reference, (name, revision))

    def _commit(self, reference: str, resolved: Reference) -> str | None:
        """Return the commit of a hub id, recorded at its first use: `main` may move until the run resumes."""
        commits = self.decisions.hub_commits or {}
        if reference in commits:
            return commits[reference]
        commit = hub.commit_of(resolved)
        if commit is not None:
            self.describe("hub_commits", {**commits, reference: commit})
        return commit

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run, atomically; main process only."""
        if self.is_main:
            files.write_json(self._output(name), value)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the run, atomically; main process only."""
        if self.is_main:
            files.write_atomic(self._output(name), text)

    def _output(self, name: str) -> Path:
        path = references.below(name, self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def decisions(self) -> Decisions:
        """What the run has decided so far."""
        return Decisions.of(self.manifest["facts"])

    def decide(self, name: str, value: Value) -> Value:
        """Return what the run decided when it began; if it has not decided yet, record `value` and return it.

        For example `precision: auto` must not change when a run resumes on another machine.

        Args:
            name: a field of `Decisions`.
        """
        if name in self._decided_before:
            first = self.manifest["facts"][name]
            if self.is_main:
                for line in manifest.settings_differences({name: _as_json(value)}, {name: first}):
                    tell(
                        f"{self.path}: keeping what the run began with, not what it would choose now: {line}"
                    )
            return first
        return self.describe(name, value)

    def describe(self, name: str, value: Value) -> Value:
        """Record what describes only this attempt, in place of what an earlier attempt recorded.

        Args:
            name: a field of `Decisions`.

        Returns:
            The value as JSON holds it.
        """
        if name not in decisions.NAMES:
            raise TypeError(f"{name!r} is not a field of Decisions")
        recorded = _as_json(value)
        if self.manifest["facts"].get(name, _ABSENT) != recorded:
            self.manifest["facts"][name] = recorded
            self._write_manifest()
        return recorded

    def begin(self) -> None:
        """Write the files that a run has before its stage starts."""
        self._write_manifest()  # first: a directory without a manifest would be refused as foreign
        if self.is_main:
            files.write_atomic(self.path / layout.RECIPE, self.text)
        self.note_progress()

    def note_progress(self) -> None:
        """Record the seconds so far; called at each checkpoint, so that a kill loses few of them."""
        if self.is_main:
            self._timing.write()

    def close(self) -> None:
        """Flush the metrics and the time spent."""
        self.metrics.close()
        self.note_progress()

    def seal(self) -> str:
        """Finish the run: close its files, hash every output, and write lock.json last; main process only.

        Returns:
            The digest of lock.json.

        Raises:
            RunError: an output is a link.
        """
        self.close()
        return seal.seal(self.path)

    def _write_manifest(self) -> None:
        if self.is_main:
            files.write_checked_json(self.path / layout.MANIFEST, dict(self.manifest))
            files.write_atomic(self.path / layout.RESOLVED, manifest.resolved(self.manifest))


_ABSENT = object()


def _as_json(value: Any) -> Any:
    """Return a value as reading it back from JSON gives it."""
    return json.loads(json.dumps(value, allow_nan=False))


def _as_begun(recipe: StageRecipe, content: Manifest) -> StageRecipe:
    settings = content["inputs"]["settings"]
    made = history.as_made(recipe.stage, settings)
    return recipe.model_copy(update={key: value for key, value in made.items() if key not in settings})


class _Timing:
    """Seconds of a run, over all attempts: {"seconds": sum, "attempts": [{started, seconds, world_size}]}."""

    def __init__(self, path: Path):
        self._path, self._begin = path, time.monotonic()
        try:
            self._attempts = list(files.read_json(path)["attempts"])
        except (RunError, KeyError, TypeError):
            self._attempts = []
        self.before = float(sum(attempt["seconds"] for attempt in self._attempts))
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self._attempts.append({"started": started, "seconds": 0.0, "world_size": ranks.world_size()})

    def write(self) -> None:
        self._attempts[-1]["seconds"] = round(time.monotonic() - self._begin, 3)
        total = round(self.before + self._attempts[-1]["seconds"], 3)
        files.write_json(self._path, {"seconds": total, "attempts": self._attempts})
