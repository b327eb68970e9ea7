"""The run that a stage works in: its paths, its files, and what it records about itself."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from toolkit.base import files, ranks
from toolkit.base.errors import RunError
from toolkit.config.schema import StageRecipe
from toolkit.runs import layout, manifest, metrics, references, seal
from toolkit.runs.layout import TIMING


class Run:
    """A run in use: the same on every rank, and only rank 0 writes.

    Args:
        loaded: the recipe with its name and text (reader.LoadedRecipe).
        runs_dir: what `runs/...` in a recipe is below.
        content: the manifest; `facts` of it are what earlier attempts recorded.
    """

    def __init__(self, loaded: Any, *, runs_dir: Path, content: dict[str, Any]):
        self.recipe: StageRecipe = loaded.recipe
        self.name: str = loaded.name
        self.runs_dir = Path(runs_dir)
        self.path = references.below(loaded.name, self.runs_dir)
        self.is_main = ranks.rank() == 0
        self.manifest = content
        self._kept = set(content["facts"])
        self._timing = _Timing(self.path / TIMING)
        self.metrics = metrics.Metrics(
            self.path / layout.METRICS, active=self.is_main, seconds_before=self._timing.before
        )

    @property
    def seed(self) -> int:
        """The root of every random stream of the stage."""
        return self.recipe.seed

    @property
    def model_dir(self) -> Path:
        """Where the stage puts its model, tokenizer included."""
        return self.path / layout.MODEL

    @property
    def scratch(self) -> Path:
        """What the stage needs only until the run is sealed, which removes it; no output."""
        return self.path / layout.SCRATCH

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints; it is there only after the first."""
        return self.path / layout.CHECKPOINTS

    def reference(self, reference: str) -> Path | str:
        """Return a sealed run's directory, a local folder, or a hub id (see references.resolve)."""
        return references.resolve(reference, runs_dir=self.runs_dir)

    def model_reference(self, reference: str) -> tuple[str, str | None]:
        """Return (path or hub id, revision) of a model (see references.model)."""
        return references.model(reference, runs_dir=self.runs_dir)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run, atomically; main process only."""
        if self.is_main:
            files.write_json(self._place(name), value)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the run, atomically; main process only."""
        if self.is_main:
            files.write_atomic(self._place(name), text)

    def _place(self, name: str) -> Path:
        path = references.below(name, self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def record(self, key: str, value: Any, *, keep: bool = True) -> Any:
        """Record an effective value in manifest.json and resolved.yaml, and return the value to use.

        A run that goes on gets the value that it began with (`precision: auto` must not change on the way);
        `keep=False` records the new one, for what only describes this attempt.
        """
        value = json.loads(json.dumps(value, allow_nan=False))
        if keep and key in self._kept:
            began = self.manifest["facts"][key]
            if self.is_main:
                for line in manifest.settings_differences({key: value}, {key: began}):
                    print(
                        f"{self.path}: going on as the run began, not as it would begin now: {line}",
                        file=sys.stderr,
                    )
            return began
        if self.manifest["facts"].get(key, _ABSENT) != value:
            self.manifest["facts"][key] = value
            self._write_manifest()
        return value

    def note_progress(self) -> None:
        """Write down the seconds so far; called at each checkpoint, so that a kill loses little of them."""
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
            files.write_json(self.path / layout.MANIFEST, self.manifest)
            files.write_atomic(self.path / layout.RESOLVED, manifest.resolved(self.manifest))


_ABSENT = object()


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
