"""`toolkit reproduce`: a finished run made again from nothing in another place, and every file compared."""

from __future__ import annotations

import json as json_format
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from toolkit.base import files
from toolkit.base.errors import RunError, UsageError
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
        "time", "seconds", "timed_tokens", "tokens_per_second", "mfu", "peak_flops",
        "threads", "device", "versions",
    }
)  # fmt: skip
"""Keys that are measured times, or follow from them, and what the machine decides. Left out of JSON."""
NOT_OUTPUTS = {
    layout.RECIPE: "it went in",
    layout.RESOLVED: "it went in",
    layout.TIMING: "times",
    layout.CHECKPOINT_SEAL: "hashes of the files beside it",
}


@dataclass(frozen=True)
class Row:
    """One file of a run and of the run made again."""

    name: str
    result: str
    """`same`, `differs` or `not compared`."""
    note: str = ""


def reproduce_command(
    run: Path, *, output: Path | None = None, launch: Path | None = None, json: bool = False
) -> int:
    """Make a finished run again and compare; 0 where every weight and number is the same, 1 where not.

    Args:
        output: keep the new run below this folder, which must be empty.
        launch: an Accelerate configuration to start it with.

    Raises:
        ToolkitError: a run that is not finished, or whose bytes, parents or data are not as they were.
    """
    seal.require_unchanged(run)
    rebuild.require_parents(run)
    if launch is not None:
        launching.check_configuration(launch)
    with ExitStack() as stack:
        runs_dir = _place(output, stack)
        loaded = _recipe(run, runs_dir, stack)
        _require_data(run, loaded)
        other = _environment(run, launched=launch is not None)
        exact = getattr(loaded.recipe, "exact", False)
        tier = rebuild.tier(other, exact=exact)
        print(f"{run}: making it again\n  {rebuild.promise(tier, other)}", file=sys.stderr)
        status = launching.start(loaded, launching.RunOptions(runs_dir, launch=launch))
        if status != 0:
            print(f"error: {run} could not be made again (exit status {status})", file=sys.stderr)
            return status
        rows = compare(run, runs_dir / loaded.name)
        _unlink(runs_dir)
    wrong = [row for row in rows if row.result == DIFFERS]
    _show(run, rows)
    if output is not None:
        print(f"the new run: {output / loaded.name}", file=sys.stderr)
    if json:
        listed = [{"file": row.name, "result": row.result, "note": row.note} for row in rows]
        result = {"run": str(run), "same": not wrong, "tier": tier, "environment": other, "files": listed}
        print(json_format.dumps(result, ensure_ascii=False, allow_nan=False))
    return 1 if wrong else 0


def _place(output: Path | None, stack: ExitStack) -> Path:
    if output is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="toolkit-reproduce-")))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError("is not an empty folder", where=str(output), fix="give --output another name")
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
    head = "# Every setting of the run that differs from its default, with what it decided by itself.\n"
    file.write_text(head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    loaded = loader.load(file)
    assert manifest.settings(loaded.recipe) == manifest.settings(recipe), "a setting was not read as written"
    return loaded


def _require_data(run: Path, loaded: LoadedRecipe) -> None:
    before, now = rebuild.content(run)["inputs"]["data"], data_files.digests(loaded.recipe)
    wrong = [key for key in before if now.get(key) != before[key]]
    if wrong:
        raise RunError(
            f"{', '.join(wrong)}: the data is not what the run was made from",
            where=str(run), fix="put it back; a path is looked for from the folder that you are in",
        )  # fmt: skip


def _environment(run: Path, *, launched: bool) -> list[str]:
    """What differs here; with a launcher it decides about the number of processes."""
    lines = rebuild.environment_differences(run, accelerators=devices.accelerators())
    return [line for line in lines if not (launched and line.startswith("world_size:"))]


def _unlink(runs_dir: Path) -> None:
    """Remove the links to the parents: a manifest names the places that they lead to."""
    for path in sorted(runs_dir.rglob("*")):
        if path.is_symlink():
            path.unlink()


def compare(before: Path, again: Path) -> list[Row]:
    """Compare every file that two finished runs sealed."""
    old, new = (files.read_json(path / layout.LOCK)["files"] for path in (before, again))
    return [_row(name, before, again, old, new) for name in sorted(old.keys() | new.keys())]


def _row(name: str, before: Path, again: Path, old: dict[str, Any], new: dict[str, Any]) -> Row:
    reason = NOT_OUTPUTS.get(Path(name).name)
    if reason is not None:
        return Row(name, APART, reason)
    if name not in old or name not in new:
        where = "the first" if name in old else "the new"
        if name.startswith("checkpoints/"):  # which ones stay depends on where a run was interrupted
            return Row(name, APART, f"only {where} run kept this checkpoint")
        return Row(name, DIFFERS, f"only in {where} run")
    if old[name]["sha256"] == new[name]["sha256"]:
        return Row(name, SAME)
    if Path(name).suffix in (".json", ".jsonl"):
        found = _number_difference(_read(before / name), _read(again / name))
        return Row(name, DIFFERS, found) if found else Row(name, SAME, "apart from times")
    sizes = f"{old[name]['bytes']:,} -> {new[name]['bytes']:,} bytes"
    return Row(name, DIFFERS, "bytes" if old[name]["bytes"] == new[name]["bytes"] else sizes)


def _read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        content = json_format.loads(text)
        if path.name == "evaluation.json" and "models" in content:  # settings that old evaluations lack
            content["settings"] = history.recorded("evaluate", content["settings"])
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


def _show(run: Path, rows: list[Row]) -> None:
    table = Table("file", "", "", box=None, pad_edge=False)
    table.columns[0].min_width = max(len(row.name) for row in rows)  # a name that is cut says nothing
    for row in rows:
        style = {SAME: "", DIFFERS: "[red]", APART: "[dim]"}[row.result]
        table.add_row(row.name, f"{style}{row.result}", f"{style}{row.note}")
    Console(stderr=True, highlight=False).print(table)
    wrong = [row for row in rows if row.result == DIFFERS]
    compared = sum(row.result != APART for row in rows)
    if wrong:
        print(
            f"error: {run}: {len(wrong)} of {compared} files differ, first {wrong[0].name}", file=sys.stderr
        )
    else:
        print(f"{run}: made again, all {compared} files that came out are the same", file=sys.stderr)
