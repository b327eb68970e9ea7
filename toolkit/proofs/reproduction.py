"""A finished run rerun from scratch in another folder, and every file compared."""

from __future__ import annotations

import json as json_format
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from toolkit.base import files
from toolkit.base.console import tell
from toolkit.base.errors import RunError, ToolkitError, UsageError
from toolkit.config import history, loader
from toolkit.config.loader import LoadedRecipe
from toolkit.data import files as data_files
from toolkit.execution import launching
from toolkit.proofs import rebuild
from toolkit.runs import layout, manifest, seal
from toolkit.runtime import devices

SAME, DIFFERS, APART = "same", "differs", "not compared"

TIMES = frozenset(
    {
        "time", "seconds", "step_time", "timed_tokens", "tokens_per_second", "mfu", "peak_flops",
        "threads", "device", "versions", "local_files_only", "is_local", "held_out_in_training",
        "also_in_training", "base_model_name_or_path",
    }
)  # fmt: skip
"""Keys of JSON files that are not compared: measured times, what follows from them, and the machine.

`base_model_name_or_path` of an adapter is the place of its parent on this disk, or relative to its run.

Older runs have `local_files_only` and `is_local` in tokenizer_config.json, which follow HF_HUB_OFFLINE and
the cache.
Older corpora lack `held_out_in_training`, and older evaluations `also_in_training`; both follow from data.
"""
NOT_OUTPUTS = {
    layout.RECIPE: "it went in",
    layout.RESOLVED: "it went in",
    layout.TIMING: "times",
    layout.CHECKPOINT_SEAL: "hashes of the files beside it",
}


class RerunFailed(ToolkitError):
    """The stage that was rerun ended with another exit status than 0."""

    def __init__(self, run: Path, exit_status: int):
        self.exit_status = exit_status
        super().__init__(f"{run} could not be rerun (exit status {exit_status})")


@dataclass(frozen=True)
class FileComparison:
    """One file of a run and of its rerun."""

    name: str
    result: str
    """`same`, `differs` or `not compared`."""
    note: str = ""


@dataclass(frozen=True)
class Reproduction:
    """What came out when a run was rerun.

    Attributes:
        tier: of the promise that holds on this machine.
        environment: what differs between this machine and the run's.
        rerun: the new run, where it was kept.
    """

    run: Path
    tier: str
    environment: list[str]
    files: list[FileComparison]
    rerun: Path | None = None

    @property
    def same(self) -> bool:
        return all(file.result != DIFFERS for file in self.files)

    def as_json(self) -> dict[str, object]:
        files = [{"file": file.name, "result": file.result, "note": file.note} for file in self.files]
        return {
            "run": str(self.run), "same": self.same, "tier": self.tier, "environment": self.environment,
            "files": files,
        }  # fmt: skip


def reproduce(run: Path, *, output: Path | None = None, launch: Path | None = None) -> Reproduction:
    """Rerun a finished run and compare every sealed file.

    Args:
        output: keep the new run below this folder, which must be empty.
        launch: an Accelerate configuration to start it with.

    Raises:
        ToolkitError: a run that is not finished, or whose bytes, parents or data have changed.
        RerunFailed: the stage failed, with its exit status.
    """
    seal.require_unchanged(run)
    rebuild.require_parents(run)
    launching.check_launch(launching.RunOptions(run.parent, launch=launch))
    with ExitStack() as stack:
        runs_dir = _runs_dir(output, stack)
        loaded = _recipe(run, runs_dir, stack)
        _require_data(run, loaded)
        environment = _environment(run, launched=launch is not None)
        tier = rebuild.tier(environment, exact=getattr(loaded.recipe, "exact", False))
        tell(f"{run}: rerunning it\n  {rebuild.promise(tier, environment)}")
        status = launching.run(loaded, launching.RunOptions(runs_dir, launch=launch))
        if status != 0:
            raise RerunFailed(run, status)
        files = compare(run, runs_dir / loaded.name)
        _unlink(runs_dir)
    return Reproduction(run, tier, environment, files, output / loaded.name if output else None)


def _runs_dir(output: Path | None, stack: ExitStack) -> Path:
    if output is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="toolkit-reproduce-")))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError("is not an empty folder", where=str(output), fix="name another folder")
    output.mkdir(parents=True, exist_ok=True)
    return output


def _recipe(run: Path, runs_dir: Path, stack: ExitStack) -> LoadedRecipe:
    """Write the run's settings as one recipe that needs no base and no overrides, and read it back."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="toolkit-recipe-"))
    recipe = rebuild.recipe(run, runs_dir=runs_dir)
    file = Path(folder, "recipes", *Path(rebuild.content(run)["name"]).parts)
    file = file.with_name(f"{file.name}.yaml")
    file.parent.mkdir(parents=True)
    content = recipe.model_dump(mode="json", exclude_defaults=True)
    head = "# Every setting that differs from its default, with what the run decided for `auto`.\n"
    file.write_text(head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    loaded = loader.load(file)
    assert manifest.settings(loaded.recipe) == manifest.settings(recipe), "a setting was not read as written"
    return loaded


def _require_data(run: Path, loaded: LoadedRecipe) -> None:
    before, now = rebuild.content(run)["inputs"]["data"], data_files.digests(loaded.recipe)
    changed = [key for key in before if now.get(key) != before[key]]
    if changed:
        raise RunError(
            f"{', '.join(changed)}: the data is not what the run was made from",
            where=str(run), fix="restore it; relative paths start from the current folder",
        )  # fmt: skip


def _environment(run: Path, *, launched: bool) -> list[str]:
    """Return what differs here; a launcher decides about the number of processes."""
    lines = rebuild.environment_differences(run, accelerators=devices.accelerators())
    return [line for line in lines if not (launched and line.startswith("world_size:"))]


def _unlink(runs_dir: Path) -> None:
    """Remove the links to the parents; the manifest names their targets."""
    for path in sorted(runs_dir.rglob("*")):
        if path.is_symlink():
            path.unlink()


def compare(before: Path, again: Path) -> list[FileComparison]:
    """Compare every file that two finished runs sealed."""
    old, new = (files.read_json(path / layout.LOCK)["files"] for path in (before, again))
    return [_compare_file(name, before, again, old, new) for name in sorted(old.keys() | new.keys())]


def _compare_file(
    name: str, before: Path, again: Path, old: dict[str, Any], new: dict[str, Any]
) -> FileComparison:
    reason = NOT_OUTPUTS.get(Path(name).name)
    if reason is not None:
        return FileComparison(name, APART, reason)
    if name not in old or name not in new:
        where = "the first" if name in old else "the new"
        if name.startswith("checkpoints/"):  # which ones stay depends on where a run was interrupted
            return FileComparison(name, APART, f"only {where} run kept this checkpoint")
        return FileComparison(name, DIFFERS, f"only in {where} run")
    if old[name]["sha256"] == new[name]["sha256"]:
        return FileComparison(name, SAME)
    if Path(name).suffix in (".json", ".jsonl"):
        difference = _number_difference(_read(before / name), _read(again / name))
        if difference:
            return FileComparison(name, DIFFERS, difference)
        return FileComparison(name, SAME, "apart from times")
    sizes = f"{old[name]['bytes']:,} -> {new[name]['bytes']:,} bytes"
    return FileComparison(name, DIFFERS, "bytes" if old[name]["bytes"] == new[name]["bytes"] else sizes)


def _read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        content = json_format.loads(text)
        if (
            path.name == layout.EVALUATION and {"models", "settings"} <= content.keys()
        ):  # settings that old evaluations lack
            content["settings"] = history.recorded("evaluate", content["settings"])
        if path.name == layout.EVALUATION:  # the locations of rows; old evaluations lack it
            content.pop("data", None)
        return _timeless(content)
    lines = enumerate(text.splitlines(), 1)
    return {f"line {number}": _timeless(json_format.loads(line)) for number, line in lines}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _number_difference(old: Any, new: Any) -> str:
    """Return the first key whose value differs, `key: old -> new`; empty where none does."""
    before, now = manifest.flatten(old), manifest.flatten(new)
    for key in [*before, *(key for key in now if key not in before)]:
        first, second = before.get(key, "(missing)"), now.get(key, "(missing)")
        if repr(first) != repr(second):  # as written: 1 is not 1.0, and a NaN is itself
            return f"{key}: {first!r} -> {second!r}"
    return ""
