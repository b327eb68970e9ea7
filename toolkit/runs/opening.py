"""A run directory: opening it (start, go on, or nothing to do), and the run that a stage works in."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from toolkit.base import files, ranks
from toolkit.base.errors import RunError
from toolkit.base.files import atomic_folder, write_atomic
from toolkit.config.schema import StageRecipe
from toolkit.runs import checkpoint, layout, manifest, provenance, references, run_lock, seal
from toolkit.runs.run import Run
from toolkit.runtime import hardware

__all__ = ["Run", "State", "atomic_folder", "changed_settings", "examine", "open_run", "write_atomic"]


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
    if not seal.is_run(path) or not has_work(path):
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
    if fresh or not seal.is_run(path):
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
    if not seal.is_sealed(path):
        return State(path, "unfinished", given, parents)
    seal.require_unchanged(path)
    return State(path, "sealed", given, parents)


def has_work(path: Path) -> bool:
    """Whether a run holds anything that took time: it is sealed, or has a checkpoint or a journal."""
    return (
        seal.is_sealed(path) or any(path.glob(f"{layout.CHECKPOINTS}/*")) or any(path.rglob(layout.JOURNAL))
    )


def discard(path: Path, *, runs_dir: Path) -> None:
    """Empty a run that is to start over; nothing happens where there is none.

    Raises:
        RunError: the run is in use, or its place is not ours to delete.
    """
    if seal.is_run(path):
        _refuse_foreign(path, runs_dir, True)
        held = run_lock.hold(path)
        try:
            _empty(path)
        finally:
            held.release()


def _refuse_foreign(path: Path, runs_dir: Path, fresh: bool) -> None:
    """Refuse a place that is not ours to write to, or (fresh) to delete."""
    for ancestor in path.parents:
        if ancestor == runs_dir:
            break
        if seal.is_run(ancestor):
            raise RunError(f"lies inside another run, {ancestor}", where=str(path), fix="give another `run:`")
    if os.path.lexists(path) and not seal.is_run(path):
        if not path.is_dir():
            raise RunError("is not a directory", where=str(path), fix="move it away, or give another `run:`")
        names = (child.name for child in path.iterdir())
        if any(name != layout.IN_USE and not files.is_temporary(name) for name in names):
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
            held = run_lock.share(parent)
            if held:
                stack.callback(held.release)
            if seal.require_unchanged(parent) != digest:
                raise RunError("the run was sealed again just now", where=str(parent), fix="try again")
        if before is not None:
            before()
        state.path.mkdir(parents=True, exist_ok=True)
        stack.callback(run_lock.hold(state.path).release)
        # Another process may have worked here between the look and the lock.
        if not fresh and examine(loaded, runs_dir=runs_dir, data=data).kind != state.kind:
            raise RunError("another process changed the run just now", where=str(state.path), fix="try again")
        run = _begin(loaded, runs_dir=Path(runs_dir), state=state, fresh=fresh)
        try:
            yield run
        finally:
            if not seal.is_sealed(run.path):
                run.close()


def _begin(loaded: Any, *, runs_dir: Path, state: State, fresh: bool) -> Run:
    """Make the directory what the run starts from: empty, or cleaned of leftovers."""
    path = state.path
    if fresh or (state.kind == "new" and seal.is_run(path)):
        _empty(path)
    files.remove_temporaries(path)
    if state.kind == "unfinished":
        content = files.read_json(path / layout.MANIFEST)
        _say_what_changed(path, content, loaded.recipe)
        # The same settings, but perhaps other comments: what is kept is what was given last.
        content.update(manifest.given_as(loaded))
    else:
        content = manifest.create(loaded, given=state.given)
    run = Run(loaded, runs_dir=runs_dir, content=content)
    run._write_manifest()  # first: what has no manifest is no run, and would be refused as someone else's
    files.write_atomic(path / layout.RECIPE, loaded.text)
    run.note_progress()
    return run


def _empty(path: Path) -> None:
    """Delete what is in a run directory: the lock first and the manifest last.

    Killed on the way it is an unfinished run that --fresh may empty, never one that looks finished.
    """
    (path / layout.LOCK).unlink(missing_ok=True)
    files.sync(path)
    for entry in sorted(path.iterdir()):
        if entry.name not in (layout.IN_USE, layout.MANIFEST):
            files.remove(entry)
    (path / layout.MANIFEST).unlink(missing_ok=True)


def _say_what_changed(path: Path, content: dict[str, Any], recipe: StageRecipe) -> None:
    """Say on stderr where the run goes on, what is not as when it last ran, and what that does to the result.

    The manifest keeps it.
    """
    now = provenance.collect()
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
    return content["world_size"] == ranks.world_size() and 0 < before <= hardware.cores()


def _threads_change(content: dict[str, Any], recipe: StageRecipe) -> list[str]:
    """Return a line where the threads of each process cannot stay as they were."""
    before, now = content["facts"].get("threads"), hardware.default_threads(recipe.threads)
    if not before or before == now or keeps_threads(content):
        return []
    return [f"threads: {before} -> {now}"]


def where_from(path: Path) -> str:
    """Say in words from where a run would go on."""
    found = checkpoint.steps(path / layout.CHECKPOINTS)
    return f"step {found[-1][0]}" if found else "the beginning (there is no checkpoint yet)"
