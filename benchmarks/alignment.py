"""PPO, RLOO, GRPO, DPO and best-of-n from one fine-tuned model: win rates over it, of several seeds.

    make demo && python benchmarks/alignment.py recipes/tiny
    python benchmarks/alignment.py FOLDER --runs-dir DIR --judge runs/NAME    # another reward model judges

FOLDER holds recipes with the stages ppo, dpo and evaluate, whose `model` and `reward_model` are sealed below
`--runs-dir`. Each method is trained once a seed with the recipe's settings, RLOO and GRPO with those of
ppo.yaml (kl_coefficient included, which in GRPO has another unit), and all are evaluated on the same prompts.
Best-of-n is the fine-tuned model's own answers, the one of n that the reward model likes best, as an evaluate
recipe's `win_rate.best_of` has it. What is finished is not trained again.

The interval of a method is Student's over its seeds; of best-of-n, over prompts. The table is Markdown.
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
    """The name of the run, which is trained unless it is there."""
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
    """Mean, and Student's 95 % interval of it."""
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(student.ppf(0.975, len(values) - 1)) * spread
    return mean, mean - reach, mean + reach


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="recipes, such as recipes/tiny")
    parser.add_argument("overrides", nargs="*", help="for every recipe, such as data.name=FILE")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--judge", help="runs/NAME of a reward model; default gold")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("an interval over seeds needs at least 2")
    names = {method: [train(options, method, seed) for seed in range(1, options.seeds + 1)]
             for method in options.methods}  # fmt: skip
    reward_model = yaml.safe_load((options.folder / "ppo.yaml").read_text())["reward_model"]
    best_of = f"win_rate.best_of={{reward_model: {reward_model}, counts: {list(BEST_OF)}}}"
    models = compare(
        options.folder, [f"runs/{name}" for several in names.values() for name in several],
        name=f"{options.folder.name}/alignment", runs_dir=options.runs_dir, judge=options.judge,
        overrides=[best_of, *filter(lambda text: text.startswith(("data.", "threads=")), options.overrides)],
    )  # fmt: skip
    print(
        header("method", "win rate over sft [95 %]", "of each seed", "KL, nats an answer", "length, tokens")
    )
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
