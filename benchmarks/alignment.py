"""PPO, RLOO, GRPO, DPO and best-of-n from one fine-tuned model: win rates over it, of several seeds.

    make demo && python benchmarks/alignment.py recipes/tiny
    python benchmarks/alignment.py FOLDER --runs-dir DIR --judge runs/NAME    # another reward model judges

FOLDER holds recipes with the stages ppo, dpo and evaluate, whose `model` and `reward_model` are sealed below
`--runs-dir`. Each method is trained once a seed with the recipe's settings, RLOO and GRPO with those of
ppo.yaml (kl_coefficient included, which in GRPO has another unit), and all are evaluated on the same prompts.
Best-of-n is the fine-tuned model's own answers, the one of n that the reward model likes best; its KL is at
most log n - (n - 1) / n (Beirami et al., 2024, https://arxiv.org/abs/2401.01879). What is finished is not
trained again.

The interval of a method is Student's over its seeds; of best-of-n, over prompts. The table is Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import yaml
from commands import compare, evaluation, header, toolkit
from scipy.stats import t as student

from toolkit import sampling, stats
from toolkit.data import chat
from toolkit.evaluate import judges, win_rate
from toolkit.models.load import load_causal_lm, load_reward_model
from toolkit.runs import references
from toolkit.runs.streams import derive

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


def best_of_n(options: argparse.Namespace, settings: dict) -> list[tuple[str, stats.Estimate, float, float]]:
    """(name, win rate, bound of KL, mean length) of each n."""
    ppo = yaml.safe_load((options.folder / "ppo.yaml").read_text())
    model, tokenizer = load_causal_lm(references.model(ppo["model"], runs_dir=options.runs_dir))
    scorer = load_reward_model(references.model(ppo["reward_model"], runs_dir=options.runs_dir))
    judge = judge_of(options)
    lines = (options.runs_dir / options.folder.name / "alignment" / "answers.jsonl").read_text().splitlines()
    baseline = settings["win_rate"]["baseline"].rpartition("/")[2]
    rows = [row for row in map(json.loads, lines) if row["model"] == baseline]
    prompts = [row["prompt"] for row in rows]
    baseline_scores = np.array([row["score"] for row in rows])
    contest = win_rate.Contest(
        prompts, seed=0, max_prompt_tokens=settings["win_rate"].get("max_prompt_tokens", 256),
        max_new_tokens=settings["win_rate"]["max_new_tokens"],
    )  # fmt: skip
    ids = win_rate.encode_prompts((model, tokenizer), contest)
    drawn, scores = [], []
    for turn in range(max(BEST_OF)):
        answers = sampling.generate(
            model, ids, seed=derive(0, "best of n", turn), end_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id, max_new_tokens=contest.max_new_tokens,
        )  # fmt: skip
        texts = [chat.decode_answer(tokenizer, each) for each in answers.ids]
        drawn.append(list(zip(texts, answers.ended, map(len, answers.ids), strict=True)))
        scores.append(sampling.reward_scores(*scorer, prompts, answers=texts, ended=answers.ended))
        print(f"best of n: {turn + 1}/{max(BEST_OF)} answers to each prompt", file=sys.stderr)
    result = []
    for n in BEST_OF:
        best = np.argmax(scores[:n], axis=0)
        chosen = [drawn[turn][place] for place, turn in enumerate(best)]
        judged = judge.score(prompts, [each[0] for each in chosen], [each[1] for each in chosen])
        wins = judges.compare(judged, baseline_scores, tie=judge.tie)
        length = float(np.mean([each[2] for each in chosen]))
        rate = stats.bootstrap_share(wins, seed=0)
        result.append((f"best of {n}", rate, math.log(n) - (n - 1) / n, length))
    return result


def judge_of(options: argparse.Namespace) -> judges.Judge:
    """The same judge as in the evaluation."""
    if not options.judge:
        return judges.gold_judge()
    reference = references.model(options.judge, runs_dir=options.runs_dir)
    return judges.reward_judge(options.judge, reference, device="cpu")


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
    settings = yaml.safe_load((options.folder / "evaluate.yaml").read_text())
    found = compare(
        options.folder, [f"runs/{name}" for several in names.values() for name in several],
        name=f"{options.folder.name}/alignment", runs_dir=options.runs_dir, judge=options.judge,
        overrides=[each for each in options.overrides if each.startswith(("data.", "threads="))],
    )  # fmt: skip
    print(
        header("method", "win rate over sft [95 %]", "of each seed", "KL, nats an answer", "length, tokens")
    )
    for method, several in names.items():
        rows = [found[name.rpartition("/")[2]] for name in several]
        rates = [row["win_rate"]["estimate"] for row in rows]
        mean, low, high = seeds_interval(rates)
        each = ", ".join(f"{rate:.1%}" for rate in rates)
        kl = np.mean([row["kl_to_baseline"] for row in rows])
        length = np.mean([row["mean_length"] for row in rows])
        print(f"| {method} | {mean:.1%} [{low:.1%}, {high:.1%}] | {each} | {kl:.2f} | {length:.1f} |")
    for name, rate, bound, length in best_of_n(options, settings):
        won = f"{rate.estimate:.1%} [{rate.low:.1%}, {rate.high:.1%}]"
        print(f"| {name} | {won} | | at most {bound:.2f} | {length:.1f} |")


if __name__ == "__main__":
    main()
