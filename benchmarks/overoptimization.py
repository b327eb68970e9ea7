"""Over-optimization: long PPO trainings against reward models trained on different amounts of data.

    toolkit run recipes/storyworld-large
    python benchmarks/overoptimization.py --picture docs/overoptimization.svg

After Gao et al., 2023 (https://arxiv.org/abs/2210.10760): the policy of recipes/storyworld-large is trained
for many rollouts without a KL penalty, or with a small one (`--kl-coefficient`). Every few rollouts the gold
judge and the reward model score answers to held-out prompts. The figure shows both scores against the square
root of KL and marks the highest gold score. Finished runs are not trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
from commands import evaluation, header, toolkit

matplotlib.use("svg")
import matplotlib.pyplot as plt

from toolkit.report import figures

COLOURS = (figures.ROSE, figures.ORANGE, figures.GREEN, figures.BLUE)


def train(options: argparse.Namespace, pairs: int) -> dict:
    """Return evaluation.json of PPO against a reward model of `pairs` pairs, and that model's accuracy."""
    reward = f"storyworld-large/overoptimization-reward-{pairs}-{options.epochs}"
    how = (options.kl_coefficient, options.rollouts, options.every, options.prompts, options.epochs)
    policy = f"storyworld-large/overoptimization-ppo-{pairs}-" + "-".join(map(str, how))
    folder, threads = Path("recipes/storyworld-large"), f"threads={options.threads or 'null'}"
    if evaluation(options.runs_dir, reward) is None:
        toolkit("run", str(folder / "reward.yaml"), f"run={reward}", f"data.examples={pairs}",
                f"trainer.num_train_epochs={options.epochs}", threads, runs_dir=options.runs_dir)  # fmt: skip
    if evaluation(options.runs_dir, policy) is None:
        every, prompts = options.every, options.prompts
        judge = f"{{judge: gold, every_rollouts: {every}, prompts: {prompts}, patience: null}}"
        toolkit(
            "run", str(folder / "ppo.yaml"), f"run={policy}", f"reward_model=runs/{reward}",
            f"early_stopping={judge}", f"trainer.episodes={64 * options.rollouts}",
            f"trainer.kl_coefficient={options.kl_coefficient}", "trainer.guard=warn",
            "trainer.schedule=constant", threads, runs_dir=options.runs_dir,
        )  # fmt: skip
    accuracy = evaluation(options.runs_dir, reward)["gold_accuracy"]
    return {"pairs": pairs, "accuracy": accuracy, "looks": evaluation(options.runs_dir, policy)["looks"]}


def draw(curves: list[dict], path: Path) -> None:
    with plt.rc_context(figures.STYLE):
        figure, (gold, proxy) = plt.subplots(1, 2, figsize=(10, 4))
        for curve, colour in zip(curves, COLOURS, strict=False):
            looks = sorted(curve["looks"], key=lambda look: look["rollout"])
            x = [max(look["kl"], 0) ** 0.5 for look in looks]
            y = [look["score"] for look in looks]
            low, high = zip(*(look["score_interval"] for look in looks), strict=True)
            label = f"{curve['pairs']:,} pairs (right in {curve['accuracy']:.0%})"
            gold.plot(x, y, color=colour, label=label)
            gold.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
            best = max(range(len(y)), key=y.__getitem__)
            gold.plot(x[best], y[best], "o", color=colour, markersize=8)
            proxy.plot(x, [look["proxy"] for look in looks], color=colour)
        gold.set_title("Gold utility of held-out answers, and its peak")
        proxy.set_title("What the reward model says of them")
        for axes in (gold, proxy):
            axes.set_xlabel("square root of KL, nats per answer")
        gold.legend()
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--pairs", type=int, nargs="+", default=[90, 360, 2880])
    parser.add_argument("--epochs", type=int, default=1, help="epochs of the reward models")
    parser.add_argument("--rollouts", type=int, default=80)
    parser.add_argument("--every", type=int, default=4, help="rollouts between two evaluations by the judge")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--kl-coefficient", type=float, default=0.0)
    parser.add_argument("--threads", type=int, help="threads of each training; default: all cores")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    curves = [train(options, pairs) for pairs in options.pairs]
    print(header(
        "pairs", "reward model accuracy", "initial gold", "peak gold [95 %]", "rollout, KL at the peak",
        "final gold [95 %]", "final KL", "reward model's score: initial, peak, final",
    ))  # fmt: skip
    for curve in curves:
        first, last = curve["looks"][0], curve["looks"][-1]
        best = max(curve["looks"], key=lambda look: look["score"])
        intervals = [f"{look['score']:.2f} [{look['score_interval'][0]:.2f}, {look['score_interval'][1]:.2f}]"
                     for look in (best, last)]  # fmt: skip
        print(
            f"| {curve['pairs']:,} | {curve['accuracy']:.1%} | {first['score']:.2f} | {intervals[0]} "
            f"| {best['rollout']}, {best['kl']:.1f} | {intervals[1]} | {last['kl']:.1f} "
            f"| {first['proxy']:.2f}, {best['proxy']:.2f}, {last['proxy']:.2f} |"
        )
    if options.picture:
        draw(curves, options.picture)


if __name__ == "__main__":
    main()
