"""Speed of PPO compared with the last PPOTrainer of TRL; each arm runs in its own process.

    pip install --no-deps --target DIR trl==1.9.2
    python benchmarks/ppo.py --trl DIR

Policy, critic and reward model have 2 million random parameters, so that nearly all answers have the maximum
length: `--prompts` prompts of 12 to 20 tokens, 96 new tokens, 64 answers per rollout, 4 epochs of one
minibatch, and forward passes of 16 answers (32 in bf16, as in a recipe). The first rollout is a warm-up.
"speedup" is the median over rounds of the ratio to the first arm within a round.

Arms: `trl`; `equal`: the same work (separate critic, fp32); `shared`: a critic on the transformer of the
policy; `fast`: shared and bf16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from commands import environment

SHAPE = {"n_layer": 4, "n_head": 3, "n_embd": 192, "n_positions": 128, "vocab_size": 1024}
END, PAD = 0, 1
NEW_TOKENS, ROLLOUT, EPOCHS, MICRO = 96, 64, 4, 16
ARMS = ("trl", "equal", "shared", "fast")


def models():
    """Create policy, reward model and a word tokenizer that covers the vocabulary."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        GPT2Config,
        GPT2ForSequenceClassification,
        GPT2LMHeadModel,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    config = GPT2Config(**SHAPE, eos_token_id=END, bos_token_id=END, pad_token_id=PAD, num_labels=1)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(1024)}, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="w0", pad_token="w1", padding_side="left"
    )
    return GPT2LMHeadModel(config), GPT2ForSequenceClassification(config), tokenizer


def prompts(count: int) -> list[list[int]]:
    """Return prompts of 12 to 20 token ids."""
    generator = np.random.default_rng(0)
    return [generator.integers(3, 1000, size=generator.integers(12, 21)).tolist() for _ in range(count)]


def clock():
    """Return a callback that records when each rollout finished."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self):
            self.times: list[float] = []

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "train_runtime" not in (logs or {}):
                self.times.append(time.perf_counter())

    return Clock()


def run_ours(arm: str, rollouts: int, count: int):
    from datasets import Dataset

    from toolkit.ppo import PPOConfig, PPOTrainer

    policy, reward, tokenizer = models()
    config = PPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
        episodes=rollouts * ROLLOUT, rollout_examples=ROLLOUT, epochs=EPOCHS, max_new_tokens=NEW_TOKENS,
        max_prompt_tokens=32, per_device_train_batch_size=MICRO * (1 + (arm == "fast")), bf16=arm == "fast",
        critic="separate" if arm == "equal" else "shared", logging_steps=EPOCHS,
    )  # fmt: skip
    watch = clock()
    rows = Dataset.from_list([{"prompt": tokenizer.decode(ids)} for ids in prompts(count)])
    trainer = PPOTrainer(
        policy, reward, config, rows, processing_class=tokenizer, reward_processing_classes=tokenizer,
        callbacks=[watch],
    )  # fmt: skip
    trainer.train()
    return watch.times, trainer.state.log_history[-2]["length"]


def run_trl(rollouts: int, count: int):
    from copy import deepcopy

    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, reward, tokenizer = models()
    config = PPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
        total_episodes=rollouts * ROLLOUT, num_ppo_epochs=EPOCHS, response_length=NEW_TOKENS,
        num_mini_batches=1, per_device_train_batch_size=MICRO, gradient_accumulation_steps=ROLLOUT // MICRO,
        local_rollout_forward_batch_size=MICRO, num_sample_generations=0, bf16=False,
        gradient_checkpointing=False, missing_eos_penalty=1.0, stop_token="eos", temperature=1.0,
    )  # fmt: skip
    watch = clock()
    trainer = PPOTrainer(
        config, tokenizer, policy, deepcopy(policy), reward, Dataset.from_list(
            [{"input_ids": ids} for ids in prompts(count)] * -(-ROLLOUT // count)  # it hangs with fewer
        ), deepcopy(reward), callbacks=[watch],
    )  # fmt: skip
    trainer.train()
    return watch.times, float("nan")


def peak_mib() -> float:
    """Return the peak memory of this process; getrusage would start with that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def arm(name: str, rollouts: int, count: int) -> None:
    """Run one arm in this process and print one JSON object on stdout."""
    output, sys.stdout = sys.stdout, sys.stderr
    times, length = run_trl(rollouts, count) if name == "trl" else run_ours(name, rollouts, count)
    seconds = (times[-1] - times[0]) / (len(times) - 1)
    peak = peak_mib()
    row = {"arm": name, "episodes_per_second": ROLLOUT / seconds, "peak_mib": peak, "length": length}
    print(json.dumps(row), file=output)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl", type=Path, help="folder with TRL 1.9.2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--rollouts", type=int, default=4, help="rollouts of each arm in a round, including warm-up"
    )
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        arm(options.arm, options.rollouts, options.prompts)
        return
    names = [name for name in ARMS if name != "trl" or options.trl]
    around = {name: environment(parser, trl=options.trl if name == "trl" else None) for name in names}
    rows: dict[str, list[dict]] = {name: [] for name in names}
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        for name in names:
            command = [sys.executable, __file__, "--arm", name, "--rollouts", str(options.rollouts),
                       "--prompts", str(options.prompts)]  # fmt: skip
            done = subprocess.run(command, env=around[name], capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"arm {name} failed:\n{done.stderr[-3000:]}")
            rows[name].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'arm':10}{'answers/s':>11}{'speedup':>8}{'(range)':>14}{'memory':>11}{'tokens':>8}")
    for name in names:
        speeds = [row["episodes_per_second"] for row in rows[name]]
        ratios = [
            speed / row["episodes_per_second"] for speed, row in zip(speeds, rows[names[0]], strict=True)
        ]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        peak = statistics.median(row["peak_mib"] for row in rows[name])
        print(
            f"{name:10}{statistics.median(speeds):11.1f}{statistics.median(ratios):7.2f}x{spread:>14}"
            f"{peak:7.0f} MiB{rows[name][-1]['length']:8.1f}"
        )


if __name__ == "__main__":
    main()
