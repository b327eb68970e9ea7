"""Time of PPO to a gold win rate: TRL 1.9.2 and the toolkit with the same models and prompts.

    pip install --no-deps --target DIR trl==1.9.2
    toolkit run recipes/storyworld-large && python benchmarks/ppo_quality.py --trl DIR

The fine-tuned model and the reward model come from recipes/storyworld-large. Prompts, episodes, epochs,
learning rate, KL coefficient and missing-end penalty are those of its ppo.yaml. The recipe applies the last
two to normalized scores; TRL uses raw scores, so they are multiplied by the standard deviation that the
reward run measured. Seconds are those of whole commands, including imports. All models answer the same unseen
prompts, and the gold judge compares their answers with those of the fine-tuned model.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from commands import compare, environment, header

RECIPE = Path("recipes/storyworld-large/ppo.yaml")
QUICKER = ["preset=fast", "trainer.learning_rate=4e-4"]
ARMS = {
    "ours": [],
    "ours, preset: fast": ["preset=fast"],
    "ours, fast, learning rate 4e-4": QUICKER,
    "ours, fast, 4e-4, three quarters of the episodes": [*QUICKER, "trainer.episodes=960"],
    "ours, fast, 4e-4, 0.6 of the episodes, two minibatches": [
        *QUICKER, "trainer.episodes=768", "trainer.minibatches=2",
    ],
    "ours, fast, half of the episodes, two minibatches": [
        "preset=fast", "trainer.episodes=640", "trainer.minibatches=2",
    ],
}  # fmt: skip


def run_trl(runs_dir: Path, output: Path) -> None:
    """Train with TRL and the settings of the recipe, and save the policy in `output`."""
    from copy import deepcopy

    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from toolkit.config import loader
    from toolkit.data.chat import fitting, sources
    from toolkit.models.loading import load_causal_lm, load_reward_model, save_model

    recipe = loader.load(RECIPE).recipe
    settings = recipe.trainer
    policy, own = load_causal_lm((str(runs_dir / "storyworld-large/sft/model"), None))
    reward, tokenizer = load_reward_model((str(runs_dir / "storyworld-large/reward/model"), None))
    tokenizer.padding_side = "left"
    unit = reward.config.score_std
    rows = sources.prompts(recipe.data, part="train", seed=0)
    longest = settings.max_prompt_tokens
    dataset = Dataset.from_list(
        [{"input_ids": fitting.prompt_ids(own, row["prompt"], max_tokens=longest)} for row in rows]
    )
    config = PPOConfig(
        output_dir=str(output / "trl"), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
        total_episodes=settings.episodes, num_ppo_epochs=settings.epochs, num_mini_batches=1,
        response_length=settings.max_new_tokens, learning_rate=settings.learning_rate,
        kl_coef=settings.kl_coefficient * unit, per_device_train_batch_size=16, gradient_accumulation_steps=4,
        local_rollout_forward_batch_size=16, num_sample_generations=0, bf16=False,
        gradient_checkpointing=False, missing_eos_penalty=settings.missing_end_penalty * unit,
        stop_token="eos", temperature=1.0, seed=0,
    )  # fmt: skip
    trainer = PPOTrainer(config, tokenizer, policy, deepcopy(policy), reward, dataset, deepcopy(reward))
    trainer.train()
    save_model(trainer.model.policy, own, output / "trl-1.9.2")


def timed(command: list[str], around: dict[str, str] | None = None) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr, env=around)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--prompts", type=int, default=1600)
    parser.add_argument(
        "--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help="arms of the toolkit"
    )
    parser.add_argument("--trl", type=Path, required=True, help="folder with TRL 1.9.2")
    parser.add_argument("--only-trl", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_trl:
        run_trl(options.runs_dir, options.only_trl)
        return
    common = ["--runs-dir", str(options.runs_dir)]
    output = options.runs_dir / "ppo-quality-trl"
    output.mkdir(exist_ok=True)
    command = [sys.executable, __file__, "--trl", str(options.trl), "--only-trl", str(output), *common]
    seconds = {"TRL 1.9.2": timed(command, environment(parser, trl=options.trl))}
    models = {"TRL 1.9.2": str((output / "trl-1.9.2").resolve())}  # a folder, not a run
    for number, name in enumerate(options.arms):
        run = f"storyworld-large/ppo-quality-{number}"
        command = [sys.executable, "-m", "toolkit", "run", str(RECIPE), f"run={run}", *ARMS[name], *common]
        seconds[name], models[name] = timed([*command, "--fresh"]), f"runs/{run}"
    results = compare(
        RECIPE.parent, list(models.values()), name="storyworld-large/ppo-quality", runs_dir=options.runs_dir,
        overrides=[f"data.held_out_examples={options.prompts}"],
    )  # fmt: skip
    print(header("arm", "seconds", "relative to TRL", "gold win rate over sft [95 %]", "KL", "length"))
    for name, row in zip(models, list(results.values())[1:], strict=True):
        rate = row["win_rate"]
        won = f"{rate['estimate']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"
        share = seconds[name] / seconds["TRL 1.9.2"]
        numbers = f"{row['kl_to_baseline']:.2f} | {row['mean_length']:.1f}"
        print(f"| {name} | {seconds[name]:.0f} | {share:.2f} | {won} | {numbers} |")


if __name__ == "__main__":
    main()
