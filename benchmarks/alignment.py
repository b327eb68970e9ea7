"""Win rates of PPO, RLOO, GRPO, DPO and best-of-n over the same fine-tuned model, for several seeds.

    make demo && python benchmarks/alignment.py recipes/tiny
    python benchmarks/alignment.py FOLDER --runs-dir DIR --judge runs/NAME    # another judge

FOLDER contains recipes for the stages ppo, dpo and evaluate, whose `model` and `reward_model` are sealed runs
in `--runs-dir`. Each method is trained once per seed with the settings of its recipe, and from its model: in
recipes/tiny, PPO begins with the model that DPO trained. RLOO and GRPO use the settings of ppo.yaml,
including kl_coefficient, which has another unit in GRPO. All models are evaluated on the same prompts.
Best-of-n selects one of n answers of the fine-tuned model with the reward model, as `win_rate.best_of` of an
evaluate recipe does. Finished runs are not trained again.

The interval of a method is Student's over its seeds; that of best-of-n is over prompts. The output is a
Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import yaml
from commands import compare, evaluation, header, toolkit
from scipy.stats import t as student

METHODS = ("ppo", "rloo", "grpo", "dpo")
BEST_OF = (2, 4, 16)


def train(options: argparse.Namespace, method: str, seed: int) -> str:
    """Train the run unless it exists, and return its name."""
    stage = "dpo" if method == "dpo" else "ppo"
    name = f"{options.folder.name}/{method}-seed{seed}"
    if evaluation(options.runs_dir, name) is None:
        algorithm = [f"algorithm={method}"] if stage == "ppo" else []
        toolkit(
            "run", str(options.folder / f"{stage}.yaml"), f"run={name}", f"seed={seed}", *algorithm,
            *options.overrides, runs_dir=options.runs_dir,
        )  # fmt: skip
    return name


def seeds_interval(values: list[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % Student interval."""
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(student.ppf(0.975, len(values) - 1)) * spread
    return mean, mean - reach, mean + reach


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of recipes, such as recipes/tiny")
    parser.add_argument("overrides", nargs="*", help="overrides for every recipe, such as data.name=FILE")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--judge", help="a reward model, runs/NAME; default: gold")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds: give at least 2 for an interval over seeds")
    names = {method: [train(options, method, seed) for seed in range(1, options.seeds + 1)]
             for method in options.methods}  # fmt: skip
    reward_model = yaml.safe_load((options.folder / "ppo.yaml").read_text())["reward_model"]
    best_of = f"win_rate.best_of={{reward_model: {reward_model}, counts: {list(BEST_OF)}}}"
    models = compare(
        options.folder, [f"runs/{name}" for several in names.values() for name in several],
        name=f"{options.folder.name}/alignment", runs_dir=options.runs_dir, judge=options.judge,
        overrides=[best_of, *filter(lambda text: text.startswith(("data.", "threads=")), options.overrides)],
    )  # fmt: skip
    print(header("method", "win rate over sft [95 %]", "per seed", "KL, nats per answer", "length, tokens"))
    for method, several in names.items():
        rows = [models[name.rpartition("/")[2]] for name in several]
        rates = [row["win_rate"]["estimate"] for row in rows]
        mean, low, high = seeds_interval(rates)
        per_seed = ", ".join(f"{rate:.1%}" for rate in rates)
        kl = np.mean([row["kl_to_baseline"] for row in rows])
        length = np.mean([row["mean_length"] for row in rows])
        print(f"| {method} | {mean:.1%} [{low:.1%}, {high:.1%}] | {per_seed} | {kl:.2f} | {length:.1f} |")
    for name in (f"best of {count}" for count in BEST_OF):
        row = models[name]
        rate, bound = row["win_rate"], row["kl_to_baseline_at_most"]
        won = f"{rate['estimate']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"
        print(f"| {name} | {won} | | at most {bound:.2f} | {row['mean_length']:.1f} |")


if __name__ == "__main__":
    main()
