"""Seconds and results of `make demo` for several seeds, as Markdown tables.

    python -m benchmarks.demo --runs-dir DIR                 four seeds, recipes/tiny
    python -m benchmarks.demo --runs-dir DIR --busy          beside one process that only computes
    python -m benchmarks.demo --runs-dir DIR --prompts 2400  and whether each seed reaches its goals
    python -m benchmarks.demo recipes/tiny --seeds 0 --runs-dir DIR precision=fp32

Each seed is a whole chain, from the tokenizer to the evaluation, in `DIR/seed-N`; a finished chain is not run
again, and its whole time is then not known. Intervals of a seed are over prompts, those over seeds Student's.
Seconds are those of the stages' timing.json, and of the whole command.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import demo_goals
from benchmarks.commands import busy_process, header, toolkit
from toolkit.config import loader
from toolkit.stats import student_mean

RATES = {
    "wish_rate": "wishes met",
    "answer_accuracy": "answers right",
    "refusal_rate": "unkind refused",
    "over_refusal_rate": "kind refused",
    "wellformed": "well-formed",
}


@dataclass(frozen=True)
class Chain:
    """The finished chain of one seed.

    Attributes:
        seconds: of each stage, in the order in which they finished.
        elapsed: seconds of the whole command; None if it was finished before.
        evaluation: evaluation.json of the evaluate run.
    """

    seed: int
    seconds: dict[str, float]
    elapsed: float | None
    evaluation: Mapping[str, Any]


def run_chain(folder: Path, seed: int, *, runs_dir: Path, options: Sequence[str]) -> Chain:
    """Run a folder of recipes with a seed, unless it is finished, and read its results."""
    names = {loaded.recipe.stage: loaded.name for loaded in loader.load_folder(folder, ())}
    root = runs_dir / f"seed-{seed}"
    finished = (root / names["evaluate"] / "lock.json").is_file()
    began = time.perf_counter()
    toolkit("run", str(folder), *options, f"seed={seed}", runs_dir=root)
    elapsed = None if finished else time.perf_counter() - began
    seconds = {
        stage: json.loads((root / name / "timing.json").read_text())["seconds"]
        for stage, name in names.items()
    }
    evaluation = json.loads((root / names["evaluate"] / "evaluation.json").read_text())
    return Chain(seed, seconds, elapsed, evaluation)


def time_table(chains: Sequence[Chain]) -> Iterator[str]:
    """Yield the lines of a table of seconds, one row for each seed."""
    stages = list(chains[0].seconds)
    yield header("seed", *stages, "sum", "whole command")
    for chain in chains:
        cells = [f"{chain.seconds[stage]:.0f}" for stage in stages]
        whole = "" if chain.elapsed is None else f"{chain.elapsed:.0f}"
        yield f"| {chain.seed} | {' | '.join(cells)} | {sum(chain.seconds.values()):.0f} | {whole} |"


def result_table(chains: Sequence[Chain]) -> Iterator[str]:
    """Yield the lines of a table of results: each model with each seed, and its mean over seeds."""
    yield header("model", "seed", "win rate [95 %]", "KL", *RATES.values(), "bits per byte")
    for model in chains[0].evaluation["models"]:
        rows = [chain.evaluation["models"][model] for chain in chains]
        for chain, row in zip(chains, rows, strict=True):
            yield _line(model, str(chain.seed), row)
        if len(rows) > 1:
            yield _mean_line(model, rows)


def _line(model: str, seed: str, row: Mapping[str, Any]) -> str:
    won, rates = row.get("win_rate"), row["gold"]["rates"]
    cells = [
        f"{won['estimate']:.1%} [{won['low']:.1%}, {won['high']:.1%}]" if won else "",
        _number(row.get("kl_to_baseline")) if won else "",
        *(f"{rates[rate]:.1%}" for rate in RATES),
        f"{row['bits_per_byte']:.4f}",
    ]
    return f"| {model} | {seed} | {' | '.join(cells)} |"


def _mean_line(model: str, rows: Sequence[Mapping[str, Any]]) -> str:
    def mean(values: list[float], form: str) -> str:
        estimate = student_mean(values)
        return f"**{estimate.estimate:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]**"

    won = [row["win_rate"]["estimate"] for row in rows if row.get("win_rate")]
    cells = [
        mean(won, ".1%") if won else "",
        mean([row["kl_to_baseline"] for row in rows], ".2f") if won else "",
        *(mean([row["gold"]["rates"][rate] for row in rows], ".1%") for rate in RATES),
        mean([row["bits_per_byte"] for row in rows], ".4f"),
    ]
    return f"| {model} | mean | {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("recipes/tiny"))
    parser.add_argument("overrides", nargs="*", help="overrides for every recipe, such as precision=bf16")
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--busy", action="store_true", help="run beside one process that only computes")
    parser.add_argument("--jobs", type=int, help="stages side by side; default as `toolkit run`")
    parser.add_argument("--prompts", type=int, help="evaluate once more on so many prompts, with goals")
    options = parser.parse_intermixed_args(arguments)
    jobs = [] if options.jobs is None else ["--jobs", str(options.jobs)]
    with busy_process() if options.busy else contextlib.nullcontext():
        chains = [
            run_chain(options.folder, seed, runs_dir=options.runs_dir, options=[*options.overrides, *jobs])
            for seed in options.seeds
        ]
    print("\n".join(time_table(chains)), end="\n\n")
    print("\n".join(result_table(chains)))
    if options.prompts is not None:
        values = {
            seed: demo_goals.measure(
                options.folder, runs_dir=options.runs_dir / f"seed-{seed}", prompts=options.prompts
            )
            for seed in options.seeds
        }
        print("", *demo_goals.goal_table(values), "", sep="\n")
        print(f"Prompts: {demo_goals.prompt_counts(values[options.seeds[0]])}.")


if __name__ == "__main__":
    main()
