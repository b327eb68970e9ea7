"""A run directory: opening it (start, go on, or nothing to do), and the run that a stage works in."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from toolkit.recipe.errors import RunError
from toolkit.recipe.schema import StageRecipe
from toolkit.runs import checkpoint, facts, files, lock, manifest, metrics, references, usage
from toolkit.runs.files import atomic_folder, write_atomic

__all__ = ["Run", "State", "atomic_folder", "changed_settings", "examine", "open_run", "write_atomic"]

TIMING = "timing.json"


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
        self.is_main = facts.rank() == 0
        self.manifest = content
        self._kept = set(content["facts"])
        self._timing = _Timing(self.path / TIMING)
        self.metrics = metrics.Metrics(
            self.path / "metrics.jsonl", active=self.is_main, seconds_before=self._timing.before
        )

    @property
    def seed(self) -> int:
        """The root of every random stream of the stage."""
        return self.recipe.seed

    @property
    def model_dir(self) -> Path:
        """Where the stage puts its model, tokenizer included."""
        return self.path / "model"

    @property
    def scratch(self) -> Path:
        """What the stage needs only until the run is sealed, which removes it; no output."""
        return self.path / lock.SCRATCH

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints; it is there only after the first."""
        return self.path / "checkpoints"

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

    def _write_manifest(self) -> None:
        if self.is_main:
            files.write_json(self.path / lock.MANIFEST, self.manifest)
            files.write_atomic(self.path / manifest.RESOLVED, manifest.resolved(self.manifest))


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
        self._attempts.append({"started": started, "seconds": 0.0, "world_size": facts.world_size()})

    def write(self) -> None:
        self._attempts[-1]["seconds"] = round(time.monotonic() - self._begin, 3)
        total = round(self.before + self._attempts[-1]["seconds"], 3)
        files.write_json(self._path, {"seconds": total, "attempts": self._attempts})


@dataclasses.dataclass(frozen=True)
class State:
    """What a run directory is, before anything is written: `new`, `unfinished` or `sealed`."""

    path: Path
    kind: str
    given: dict[str, Any]
    parents: dict[Path, str]
    """Parents that are runs, with their lock digests."""


def changed_settings(loaded: Any, *, runs_dir: Path) -> list[str]:
    """Return the settings in which a recipe differs from the run that is there; nothing else is looked at."""
    path = references.below(loaded.name, runs_dir)
    if not lock.is_run(path) or not has_work(path):
        return []
    return manifest.recipe_differences(
        manifest.read(path)["inputs"]["settings"], manifest.settings(loaded.recipe)
    )


def examine(
    loaded: Any, *, runs_dir: Path, fresh: bool = False, data: Mapping[str, str] | None = None
) -> State:
    """Look at a run directory and at its parents; write nothing.

    Args:
        loaded: the recipe (reader.LoadedRecipe).
        runs_dir: the root of all runs.
        fresh: the run would be started over: other inputs are no mistake.
        data: {key of the recipe: digest} of the data that it reads.

    Raises:
        RunError: parents that are not sealed, other inputs than the run that is there, a directory that is
            no run, or a finished run whose bytes changed.
    """
    path = references.below(loaded.name, runs_dir)
    _refuse_foreign(path, Path(runs_dir), fresh)
    given = manifest.inputs(loaded.recipe, path=path, runs_dir=runs_dir, data=data)
    parents = {
        Path(os.path.normpath(path.resolve() / parent["path"])): parent["digest"]
        for parent in given["parents"].values()
        if parent["kind"] == "run"
    }
    if path.resolve() in parents:
        raise RunError("the recipe refers to its own run", where=str(path), fix="name another run")
    if fresh or not lock.is_run(path):
        return State(path, "new", given, parents)
    changed = manifest.differences(manifest.read(path)["inputs"], given)
    if changed and not has_work(path):
        return State(path, "new", given, parents)  # it failed before its first checkpoint: nothing is lost
    if changed:
        raise RunError(
            "the run that is there was made from other inputs:\n    " + "\n    ".join(changed),
            where=str(path),
            fix="put them back, give another `run:`, or start over with --fresh",
        )
    if not lock.is_sealed(path):
        return State(path, "unfinished", given, parents)
    lock.require_unchanged(path)
    return State(path, "sealed", given, parents)


def has_work(path: Path) -> bool:
    """Whether a run holds anything that took time: it is sealed, or has a checkpoint or a journal."""
    return lock.is_sealed(path) or any(path.glob("checkpoints/*")) or any(path.rglob("journal.json"))


def discard(path: Path, *, runs_dir: Path) -> None:
    """Empty a run that is to start over; nothing happens where there is none.

    Raises:
        RunError: the run is in use, or its place is not ours to delete.
    """
    if lock.is_run(path):
        _refuse_foreign(path, runs_dir, True)
        held = usage.hold(path)
        try:
            _empty(path)
        finally:
            held.release()


def _refuse_foreign(path: Path, runs_dir: Path, fresh: bool) -> None:
    """Refuse a place that is not ours to write to, or (fresh) to delete."""
    for ancestor in path.parents:
        if ancestor == runs_dir:
            break
        if lock.is_run(ancestor):
            raise RunError(f"lies inside another run, {ancestor}", where=str(path), fix="give another `run:`")
    if os.path.lexists(path) and not lock.is_run(path):
        if not path.is_dir():
            raise RunError("is not a directory", where=str(path), fix="move it away, or give another `run:`")
        if [name for name in os.listdir(path) if name != lock.IN_USE and not files.is_temporary(name)]:
            raise RunError(
                "is not empty and is not a run of this toolkit",
                where=str(path),
                fix="move it away, or give another `run:`",
            )
    if fresh and path.resolve() != runs_dir.resolve() / path.relative_to(runs_dir):
        raise RunError(
            "is reached through a link: --fresh would delete what lies elsewhere",
            where=str(path),
            fix="delete it yourself, or name the real place with --runs-dir",
        )


@contextmanager
def open_run(
    loaded: Any,
    *,
    runs_dir: Path,
    fresh: bool = False,
    data: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Iterator[Run | None]:
    """Open a run for work and hold its lock; yields None, after saying so, where there is nothing to do.

    Args:
        loaded, runs_dir, fresh, data: as `examine`.
        before: called when all checks passed, before anything is written or deleted; may raise.

    Raises:
        RunError: as `examine`; the run is in use; a parent's bytes are not what was sealed.
    """
    state = examine(loaded, runs_dir=runs_dir, fresh=fresh, data=data)
    if state.kind == "sealed":
        print(f"{state.path}: finished already, nothing to do (--fresh starts over)", file=sys.stderr)
        yield None
        return
    with ExitStack() as stack:
        for parent, digest in state.parents.items():
            held = usage.share(parent)
            if held:
                stack.callback(held.release)
            if lock.require_unchanged(parent) != digest:
                raise RunError("the run was sealed again just now", where=str(parent), fix="try again")
        if before is not None:
            before()
        state.path.mkdir(parents=True, exist_ok=True)
        stack.callback(usage.hold(state.path).release)
        # Another process may have worked here between the look and the lock.
        if not fresh and examine(loaded, runs_dir=runs_dir, data=data).kind != state.kind:
            raise RunError("another process changed the run just now", where=str(state.path), fix="try again")
        run = _begin(loaded, runs_dir=Path(runs_dir), state=state, fresh=fresh)
        try:
            yield run
        finally:
            if not lock.is_sealed(run.path):
                run.close()


def _begin(loaded: Any, *, runs_dir: Path, state: State, fresh: bool) -> Run:
    """Make the directory what the run starts from: empty, or cleaned of leftovers."""
    path = state.path
    if fresh or (state.kind == "new" and lock.is_run(path)):
        _empty(path)
    files.remove_temporaries(path)
    if state.kind == "unfinished":
        content = files.read_json(path / lock.MANIFEST)
        _say_what_changed(path, content, loaded.recipe)
        # The same settings, but perhaps other comments: what is kept is what was given last.
        content.update(manifest.given_as(loaded))
    else:
        content = manifest.create(loaded, given=state.given)
    run = Run(loaded, runs_dir=runs_dir, content=content)
    run._write_manifest()  # first: what has no manifest is no run, and would be refused as someone else's
    files.write_atomic(path / manifest.RECIPE, loaded.text)
    run.note_progress()
    return run


def _empty(path: Path) -> None:
    """Delete what is in a run directory: the lock first and the manifest last.

    Killed on the way it is an unfinished run that --fresh may empty, never one that looks finished.
    """
    (path / lock.LOCK).unlink(missing_ok=True)
    files.sync(path)
    for entry in sorted(path.iterdir()):
        if entry.name not in (lock.IN_USE, lock.MANIFEST):
            files.remove(entry)
    (path / lock.MANIFEST).unlink(missing_ok=True)


def _say_what_changed(path: Path, content: dict[str, Any], recipe: StageRecipe) -> None:
    """Say on stderr where the run goes on, what is not as when it last ran, and what that does to the result.

    The manifest keeps it.
    """
    now = facts.collect()
    changed = manifest.environment_differences(content, now)
    lines = changed + _threads_change(content, recipe)
    print(f"{path}: not finished yet, going on from {where_from(path)}", file=sys.stderr)
    if lines:
        # Cores decide only through the threads, which have a line of their own.
        harmless = ["hardware.processor.cores:"]
        exact = getattr(recipe, "exact", False)
        if exact:
            harmless.append("world_size:")
        if not all(line.startswith(tuple(harmless)) for line in lines):
            bits = "; the same bits are not promised"
        else:
            bits = " and computes the same bits" + (" (exact: true)" if exact else "")
        shown = "\n    ".join(lines)
        print(
            f"  not as it last ran:\n    {shown}\n  each step still reads the same data{bits}",
            file=sys.stderr,
        )
    if changed:
        content["resumed"].append(now)


def keeps_threads(content: dict[str, Any]) -> bool:
    """Say whether a run that goes on gets the threads that it began with.

    With another number of processes the bits differ anyway: then the cores are shared anew.
    """
    before = content["facts"].get("threads", 0)
    return content["world_size"] == facts.world_size() and 0 < before <= facts.cores()


def _threads_change(content: dict[str, Any], recipe: StageRecipe) -> list[str]:
    """Return a line where the threads of each process cannot stay as they were."""
    before, now = content["facts"].get("threads"), facts.default_threads(recipe.threads)
    if not before or before == now or keeps_threads(content):
        return []
    return [f"threads: {before} -> {now}"]


def where_from(path: Path) -> str:
    """Say in words from where a run would go on."""
    found = checkpoint.steps(path / "checkpoints")
    return f"step {found[-1][0]}" if found else "the beginning (there is no checkpoint yet)"
