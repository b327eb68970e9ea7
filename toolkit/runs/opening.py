"""Opening a run directory: to start a run, to resume it, or because nothing is left to do."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from toolkit.base import files, ranks, system_errors
from toolkit.base.console import tell
from toolkit.base.errors import RunError
from toolkit.config import history, loader, shipped_recipes
from toolkit.config.loader import LoadedRecipe
from toolkit.config.schema import StageRecipe
from toolkit.runs import checkpoint, layout, manifest, metrics, provenance, references, run_lock, seal
from toolkit.runs.decisions import Decisions
from toolkit.runs.manifest import Inputs, Manifest
from toolkit.runs.run import Run
from toolkit.runtime import hardware


@dataclasses.dataclass(frozen=True)
class State:
    """What a run directory is, before anything is written."""

    path: Path
    kind: Literal["new", "unfinished", "sealed"]
    given: Inputs
    parents: dict[Path, str]
    """Parents that are runs, with their lock digests."""


def changed_settings(loaded: LoadedRecipe, *, runs_dir: Path) -> list[str]:
    """Return the settings in which a recipe differs from its existing run; compares only settings.

    Raises:
        RunError: the run was made from a shipped recipe that has another name now.
    """
    path = references.below(loaded.name, runs_dir)
    if not seal.is_run(path) or not holds_work(path):
        return []
    settings = manifest.settings(loaded.recipe)
    changes = manifest.recipe_differences(_recorded(path, loaded)["settings"], settings)
    if changes:
        _refuse_renamed(loaded, path, len(changes))
    return changes


def _recorded(path: Path, loaded: LoadedRecipe) -> Inputs:
    """Return the inputs of a run's manifest, its references as those of a run of the recipe's name.

    Settings of which `history.recorded` accepts any value have the one that applied if the recipe gives one.
    """
    content = manifest.read(path)
    inputs = manifest.as_named(content["inputs"], content["name"], new_name=loaded.name)
    made, given = history.as_made(content["stage"], inputs["settings"]), loaded.recipe.model_fields_set
    kept = {key: value for key, value in made.items() if key in inputs["settings"] or key in given}
    return {**inputs, "settings": kept}


def _refuse_renamed(loaded: LoadedRecipe, path: Path, differences: int) -> None:
    """Raise RunError for a run made from a shipped recipe that has another name now.

    That is so if the run has fewer differences from the recipe of that name than from the given one.
    """
    folder, _, stem = loaded.name.rpartition("/")
    name, shipped = history.RENAMED_FOLDERS.get(folder), shipped_recipes.root()
    if name is None or shipped is None or not (shipped / name / f"{stem}.yaml").is_file():
        return
    renamed = loader.load(shipped / name / f"{stem}.yaml")
    recorded = _recorded(path, renamed)["settings"]
    if recorded["stage"] != renamed.recipe.stage:
        return
    if len(manifest.recipe_differences(recorded, manifest.settings(renamed.recipe))) < differences:
        moved = path.parent.parent / name
        raise RunError(
            f"was made from the recipes that are now called recipes/{name}, not from this recipes/{folder}",
            where=str(path.parent),
            fix=f"rename it: `mv {path.parent} {moved}` (its runs stay valid, and `toolkit run "
            f"recipes/{name}` continues them), name another --runs-dir, or start over with --fresh",
        )


def examine(
    loaded: LoadedRecipe, *, runs_dir: Path, fresh: bool = False, data: Mapping[str, str] | None = None
) -> State:
    """Look at a run directory and at its parents; write nothing.

    Args:
        loaded: the recipe.
        runs_dir: the root of all runs.
        fresh: the run would start over, so that changed inputs are allowed.
        data: {key of the recipe: digest} of the data that it reads.

    Raises:
        RunError: parents that are not sealed, inputs that differ from those of the existing run, a directory
            that is not a run, or a finished run whose bytes changed.
    """
    path = references.below(loaded.name, runs_dir)
    refuse_foreign(path, Path(runs_dir), fresh=fresh)
    if not fresh:
        changed_settings(loaded, runs_dir=runs_dir)
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
    changed = manifest.differences(_recorded(path, loaded), given)
    if changed and not holds_work(path):
        return State(path, "new", given, parents)  # it failed before its first checkpoint; nothing is lost
    if changed:
        raise RunError(
            "the existing run was made from other inputs:\n    " + "\n    ".join(changed),
            where=str(path),
            fix="put them back, give another `run:`, or start over with --fresh",
        )
    if not seal.is_sealed(path):
        return State(path, "unfinished", given, parents)
    seal.require_unchanged(path)
    return State(path, "sealed", given, parents)


def changes(loaded: LoadedRecipe, *, runs_dir: Path, data: Mapping[str, str]) -> list[str]:
    """Return why an existing run is not what its recipe would make now, one line each; empty if it is.

    Raises:
        RunError: a parent is not sealed.
    """
    path = references.below(loaded.name, runs_dir)
    given = manifest.inputs(loaded.recipe, path=path, runs_dir=runs_dir, data=data)
    try:
        changed = manifest.differences(_recorded(path, loaded), given)
        if not changed and seal.is_sealed(path):
            seal.require_unchanged(path)
    except RunError as error:
        return [error.what]
    return changed


def holds_work(path: Path) -> bool:
    """Return whether a run holds anything worth keeping.

    It is sealed, or has a checkpoint, a journal, or sampled answers.
    """
    return (
        seal.is_sealed(path)
        or any(path.glob(f"{layout.CHECKPOINTS}/*"))
        or _has_shards(path)
        or any(path.glob(f"{layout.SAMPLED_ANSWERS}/*.json"))
    )


def _has_shards(path: Path) -> bool:
    """Return whether a corpus has written a part, or has begun to."""
    names = (layout.JOURNAL, layout.TOKEN_INDEX)
    return any(entry.name in names for entry in path.glob(f"{layout.CORPUS}/*/*.json"))


def discard(path: Path, *, runs_dir: Path) -> None:
    """Empty a run that is to start over; do nothing where there is none.

    Raises:
        RunError: the run is in use, or it is reached through a link.
    """
    if seal.is_run(path):
        refuse_foreign(path, runs_dir, fresh=True)
        lock = run_lock.hold(path)
        try:
            _empty(path)
        finally:
            lock.release()


def refuse_foreign(path: Path, runs_dir: Path, *, fresh: bool) -> None:
    """Raise RunError for a path that the toolkit must not write to, or (fresh) must not empty."""
    for ancestor in path.parents:
        if ancestor == runs_dir:
            break
        if seal.is_run(ancestor):
            raise RunError(f"is inside another run, {ancestor}", where=str(path), fix="give another `run:`")
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
            "is reached through a link: --fresh would delete files elsewhere",
            where=str(path),
            fix="delete it yourself, or give the real path with --runs-dir",
        )


@contextmanager
def open_run(
    loaded: LoadedRecipe,
    *,
    runs_dir: Path,
    fresh: bool = False,
    data: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Iterator[Run | None]:
    """Open a run for work and hold its lock; yield None, with a message, where there is nothing to do.

    Args:
        loaded, runs_dir, fresh, data: as `examine`.
        before: called after all checks, before anything is written or deleted; may raise.

    Raises:
        RunError: as `examine`; the run is in use; a parent changed since it was sealed.
    """
    state = examine(loaded, runs_dir=runs_dir, fresh=fresh, data=data)
    if state.kind == "sealed":
        tell(f"{state.path}: finished already, nothing to do (--fresh starts over)")
        yield None
        return
    system_errors.require_writable(state.path)
    if state.kind == "unfinished":
        # or they would be found at the end of the training
        seal.require_own_bytes(state.path)
        metrics.read(state.path / layout.METRICS)
    with ExitStack() as stack:
        for parent, digest in state.parents.items():
            lock = run_lock.share(parent)
            if lock:
                stack.callback(lock.release)
            if seal.require_unchanged(parent) != digest:
                raise RunError("the run was sealed again just now", where=str(parent), fix="try again")
        if before is not None:
            before()
        state.path.mkdir(parents=True, exist_ok=True)
        stack.callback(run_lock.hold(state.path).release)
        # Another process may have worked here between the examination and the lock.
        if not fresh and examine(loaded, runs_dir=runs_dir, data=data).kind != state.kind:
            raise RunError("another process changed the run just now", where=str(state.path), fix="try again")
        run = _begin(loaded, runs_dir=Path(runs_dir), state=state, fresh=fresh)
        try:
            yield run
        finally:
            if not seal.is_sealed(run.path):
                run.close()


def _begin(loaded: LoadedRecipe, *, runs_dir: Path, state: State, fresh: bool) -> Run:
    """Prepare the directory, empty or cleaned of temporary files, and return its run."""
    path = state.path
    if fresh or (state.kind == "new" and seal.is_run(path)):
        _empty(path)
    files.remove_temporaries(path)
    begun = resume_point(path) if state.kind == "unfinished" else None
    if begun is not None:
        content: Any = files.read_checked_json(path / layout.MANIFEST)
        tell(f"{path}: not finished yet, resuming from {begun}")
        _report_changes(content, loaded.recipe)
        # The settings are the same, but comments may differ: the last recipe is kept.
        content.update(manifest.recipe_record(loaded))
    else:
        if state.kind == "unfinished":  # and nothing of it is used: what it decided is decided again
            tell(f"{path}: not finished yet, starting from the beginning: there is no checkpoint")
        content = manifest.create(loaded, given=state.given)
    run = Run(loaded, runs_dir=runs_dir, content=content)
    for line in manifest.settings_differences(*map(manifest.settings, (loaded.recipe, run.recipe))):
        tell(f"{path}: keeping what the run began with, not what it would choose now: {line}")
    run.begin()
    return run


def _empty(path: Path) -> None:
    """Delete the content of a run directory: lock.json first and the manifest last.

    After a kill in between it is an unfinished run, which --fresh may empty, and never looks finished.
    """
    (path / layout.LOCK).unlink(missing_ok=True)
    files.sync(path)
    for entry in sorted(path.iterdir()):
        if entry.name not in (layout.IN_USE, layout.MANIFEST):
            files.remove(entry)
    (path / layout.MANIFEST).unlink(missing_ok=True)


def _report_changes(content: Manifest, recipe: StageRecipe) -> None:
    """Print what changed since the last attempt of a run, and the effect on the result.

    Changes are also recorded in the manifest.
    """
    now = provenance.collect()
    changed = manifest.environment_differences(content, now)
    lines = changed + _threads_change(content, recipe)
    if lines:
        # Cores matter only through the threads, which have a line of their own.
        harmless = ["hardware.processor.cores:"]
        exact = getattr(recipe, "exact", False)
        if exact:
            harmless.append("world_size:")
        if not all(line.startswith(tuple(harmless)) for line in lines):
            bits = "; the same bits are not promised"
        else:
            bits = " and computes the same bits" + (" (exact: true)" if exact else "")
        shown = "\n    ".join(lines)
        tell(f"  changed since the last attempt:\n    {shown}\n  each step still reads the same data{bits}")
    if changed:
        content["resumed"].append(now)


def keeps_threads(content: Manifest) -> bool:
    """Return whether a resumed run keeps the number of threads that it began with.

    With another number of processes the bits differ anyway; then the cores are divided again.
    """
    before = Decisions.of(content["facts"]).threads or 0
    return content["world_size"] == ranks.world_size() and 0 < before <= hardware.cores()


def _threads_change(content: Manifest, recipe: StageRecipe) -> list[str]:
    """Return a line where the threads of each process cannot stay the same."""
    before, now = Decisions.of(content["facts"]).threads, hardware.default_threads(recipe.threads)
    if not before or before == now or keeps_threads(content):
        return []
    return [f"threads: {before} -> {now}"]


def resume_point(path: Path) -> str | None:
    """Return in words from where an unfinished run would resume; None: it would start from the beginning."""
    saved = reversed(checkpoint.steps(path / layout.CHECKPOINTS))
    step = next((step for step, folder in saved if checkpoint.is_whole(folder)), None)
    if step is not None:
        is_evaluation = files.read_json(path / layout.MANIFEST)["stage"] == "evaluate"
        if is_evaluation:
            return f"the measurements of {step} model{'s' * (step > 1)}"
        return f"step {step}"
    if any(path.glob(f"{layout.SAMPLED_ANSWERS}/*.json")):
        return "the answers sampled so far"
    return "the text encoded so far" if _has_shards(path) else None


def resumption(path: Path) -> str:
    """Return in words what the same command would do with a run that was interrupted."""
    begun = resume_point(path)
    return f"resumes from {begun}" if begun else "starts from the beginning: there is no checkpoint yet"
