"""Helpers of benchmarks: toolkit commands, finished runs, a busy process, and the last PPO trainer of TRL."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from toolkit.runtime import signals


def toolkit(*arguments: str, runs_dir: Path) -> None:
    """Run a toolkit command; its messages go to stderr."""
    command = [sys.executable, "-m", "toolkit", *arguments, "--runs-dir", str(runs_dir)]
    subprocess.run(command, check=True, stdout=sys.stderr)


@contextmanager
def busy_process() -> Iterator[subprocess.Popen[bytes]]:
    """Keep one core busy inside the block; the process may be suspended by SIGSTOP."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"], preexec_fn=signals.die_with_parent)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def evaluation(runs_dir: Path, name: str) -> dict | None:
    """Return evaluation.json of a run, or None if it does not exist yet."""
    path = runs_dir / name / "evaluation.json"
    return json.loads(path.read_text()) if path.is_file() else None


def header(*columns: str) -> str:
    """Return the header lines of a Markdown table."""
    return f"| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|"


def compare(
    folder: Path,
    models: Sequence[str],
    *,
    name: str,
    runs_dir: Path,
    judge: str | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, dict]:
    """Run the evaluate recipe of a folder on these models and return the results by model.

    Args:
        name: name of the run, which is started over.
        judge: replaces the judge of the recipe.
    """
    recipe = yaml.safe_load((folder / "evaluate.yaml").read_text())
    recipe |= {"run": name, "perplexity": None, "samples": []}
    recipe["models"] = [recipe["win_rate"]["baseline"], *models]
    if judge:
        recipe["win_rate"]["judge"] = judge
    path = runs_dir / f"{name.replace('/', '-')}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    toolkit("run", str(path), *overrides, "--fresh", runs_dir=runs_dir)
    return evaluation(runs_dir, name)["models"]


def environment(parser: argparse.ArgumentParser, *, trl: Path | None = None) -> dict[str, str]:
    """Return the environment of a process that imports this checkout and TRL 1.9.2 from its folder."""
    if trl is not None and not (trl / "trl").is_dir():
        parser.error(f"{trl} does not contain trl; run pip install --no-deps --target {trl} trl==1.9.2")
    path = os.pathsep.join(str(entry) for entry in (trl, Path(__file__).resolve().parents[1]) if entry)
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": path}
