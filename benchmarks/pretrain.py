"""Pretraining speed of the toolkit, the toolkit without each optimization, transformers.Trainer and nanoGPT.

    python benchmarks/pretrain.py --nanogpt DIR          12.2 million parameters, best settings of the machine
    python benchmarks/pretrain.py --shape gpt2 --rows 32 --nanogpt DIR        GPT-2's size on a GPU
    python benchmarks/pretrain.py --curves 100           losses of the fast path and of plain fp32

Every arm runs in its own process. On a CPU the arms take steps in alternation for several rounds, and a ratio
is the median of the ratios within a round, so that other load affects all arms alike. On a GPU the arms run
one after another.

MFU = tokens/s * FLOPs per token / peak, with 6 N + 12 L H Q T FLOPs per token (toolkit/models/shape.py: the
full square of attention counts). The peak is that of the GPU's data sheet. On a CPU it is the rate of the
matrix products of the step in the same rounds (arm `products`), so that MFU is the share of the upper limit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SHAPES = {
    "cpu": {},
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257, "length": 1024, "rows": 16},
    "toy": {"n_layer": 2, "n_head": 2, "n_embd": 64, "vocab_size": 256, "length": 64, "rows": 4},
}
PRODUCTS = "products"


def arguments() -> argparse.Namespace:
    """Parse the command line; usage errors exit with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shape", choices=[*SHAPES], default="cpu", help="model and batch; default: cpu, 12.2M parameters"
    )
    parser.add_argument("--rows", type=int, help="sequences per batch; default: that of the shape")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--compile", choices=["auto", "yes", "no"], default="auto", help="compile the arm `ours`"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--nanogpt", metavar="DIR", help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="steps of each arm in a round")
    parser.add_argument("--warmup", type=int, default=3, help="warm-up steps of each arm")
    parser.add_argument("--arms", nargs="*", help="only arms whose name contains one of these words")
    parser.add_argument("--curves", type=int, metavar="N", help="compare losses over N steps instead")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    if args.nanogpt and not (Path(args.nanogpt) / "model.py").is_file():
        parser.error(f"--nanogpt {args.nanogpt}: this folder has no model.py")
    return args


class Arm:
    """The process of an arm and its measurements."""

    def __init__(self, name: str, order: str, variables: dict[str, str] | None = None):
        self.name, self.order, self.variables = name, order, variables or {}
        self.rounds: list[float] = []
        """Seconds of a step, the median of each round."""
        self.losses: list[float] = []
        self.first_seconds = self.peak_bytes = 0.0

    def start(self, warmup: int) -> None:
        """Start the process and take the warm-up steps."""
        from toolkit.runtime import signals

        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"}
        environment |= self.variables
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "pretrain_arms.py")], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=None if os.environ.get("VERBOSE") else subprocess.DEVNULL,
            preexec_fn=signals.die_with_parent,
        )  # fmt: skip
        self.process.stdin.write(self.order)
        self.first_seconds = self.take(1)["since_start"]
        self.take(max(0, warmup - 1))

    def take(self, steps: int) -> dict:
        """Let the process take some steps."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the process ended; set VERBOSE=1 to see its output")
        answer = json.loads(line)
        self.peak_bytes = answer["peak_bytes"]
        self.losses += answer["losses"]
        return answer

    def measure(self, steps: int) -> None:
        """One round."""
        self.rounds.append(statistics.median(self.take(steps)["seconds"]))

    def stop(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def make_arms(args: argparse.Namespace) -> tuple[list[Arm], dict]:
    """Return the arms in running order, and the shape."""
    import torch

    from benchmarks import pretrain_arms as arms
    from toolkit.runtime import devices

    device = devices.select(args.device).type
    precision = devices.precision(args.precision, torch.device(device))
    shape = arms.Shape(**SHAPES[args.shape], precision=precision, device=device, threads=args.threads)
    shape = replace(shape, rows=args.rows or shape.rows)
    compiled = args.compile == "yes" or (args.compile == "auto" and (device == "cuda" or precision == "bf16"))
    on_cpu = device == "cpu"
    options = arms.Options(compile=compiled, logistic_gelu=compiled and on_cpu, keep_memory=on_cpu)
    named = {"ours": options}
    named |= {f"ours without {name}": change for name, change in arms.without(options).items()}
    if args.curves:
        shape32 = replace(shape, precision="fp32")
        plain = arms.Options(causal_attention=False, fused=False, activation="gelu_new", keep_memory=False)
        selected = [Arm("ours", arms.order_for("ours", shape, options, None)),
                 Arm("plain fp32", arms.order_for("ours", shape32, plain, None))]  # fmt: skip
        return selected, facts(shape)
    selected = [Arm(name, arms.order_for(name, shape, option, None)) for name, option in named.items()]
    others = [PRODUCTS, "Trainer"]
    if args.nanogpt:
        others += ["nanoGPT", "nanoGPT compiled"]
    selected[1:1] = [Arm(name, arms.order_for(name, shape, options, args.nanogpt)) for name in others]
    if args.arms:
        selected = [
            arm for arm in selected if arm.name == "ours" or any(word in arm.name for word in args.arms)
        ]
    return selected, facts(shape)


def facts(shape) -> dict:
    """Return the description of the measured configuration."""
    import torch

    from toolkit.models.shape import flops_per_token, num_parameters
    from toolkit.pretrain import throughput

    flops = flops_per_token(shape.model(), vocab_size=shape.vocab_size, sequence_length=shape.length)
    peak = None
    if shape.device == "cuda":
        peak = throughput.peak_flops(torch.device("cuda"), shape.precision).flops
        hardware = torch.cuda.get_device_name(0)
    else:
        from toolkit.runtime.hardware import processor

        cpu = processor()
        hardware = f"{cpu['name']} {' '.join(cpu['bf16'])}".strip() + f", {shape.threads} threads"
    return {
        "hardware": hardware, "torch": torch.__version__, "precision": shape.precision,
        "parameters": num_parameters(shape.model(), vocab_size=shape.vocab_size),
        "tokens_per_step": shape.tokens, "flops_per_token": flops, "peak_flops": peak,
    }  # fmt: skip


def measure(arms: list[Arm], args: argparse.Namespace, *, in_turn: bool) -> None:
    """Run the rounds."""
    if not in_turn:
        for arm in arms:
            say(f"{arm.name} ...")
            arm.start(args.warmup)
            for _ in range(args.rounds):
                arm.measure(args.steps)
            arm.stop()
        return
    for arm in arms:
        say(f"starting {arm.name} ...")
        arm.start(args.warmup)
    for number in range(args.rounds):
        say(f"round {number + 1} of {args.rounds}")
        for arm in arms:
            arm.measure(args.steps)
    for arm in arms:
        arm.stop()


def results(arms: list[Arm], about: dict) -> list[dict]:
    """Return one row per arm: tokens/s, speedup of `ours` (median over the rounds), MFU, memory."""
    by_name = {arm.name: arm for arm in arms}
    ours, products = by_name["ours"], by_name.get(PRODUCTS)
    peak = about["peak_flops"]
    work = about["flops_per_token"] * about["tokens_per_step"]
    rows = []
    for arm in arms:
        ratios = [theirs / own for theirs, own in zip(arm.rounds, ours.rounds, strict=True)]
        seconds = statistics.median(arm.rounds)
        if products is not None and peak is None:
            shares = [best / own for best, own in zip(products.rounds, arm.rounds, strict=True)]
            used = statistics.median(shares)
        else:
            used = work / seconds / peak if peak else None
        rows.append({
            "arm": arm.name, "tokens_per_second": about["tokens_per_step"] / seconds,
            "ours_is_faster_by": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)],
            "mfu": used, "peak_bytes": arm.peak_bytes, "first_step_seconds": arm.first_seconds,
        })  # fmt: skip
    return rows


def show(rows: list[dict], about: dict) -> None:
    """Print the table."""
    print(f"{about['parameters']:,} parameters, {about['tokens_per_step']:,} tokens per step, "
          f"{about['precision']}, {about['hardware']}, torch {about['torch']}")  # fmt: skip
    heads = f"{'arm':36s} {'tokens/s':>9s} {'speedup':>8s} {'(range)':>13s}"
    print(f"{heads} {'MFU':>6s} {'memory':>9s} {'first step':>10s}")
    for row in rows:
        low, high = row["ratio_range"]
        used = "-" if row["mfu"] is None else f"{row['mfu']:.1%}"
        print(
            f"{row['arm']:36s} {row['tokens_per_second']:9,.0f} {row['ours_is_faster_by']:7.2f}x "
            f"{f'{low:.2f}-{high:.2f}':>13s} {used:>6s} {row['peak_bytes'] / 2**20:5,.0f} MiB "
            f"{row['first_step_seconds']:9.1f}s"
        )


def curves(arms: list[Arm], steps: int) -> dict:
    """Train both arms from the same weights on the same tokens and compare their losses."""
    for arm in arms:
        say(f"{arm.name}: {steps} steps ...")
        arm.start(1)
        arm.take(steps - 1)
        arm.stop()
    first, second = (arm.losses for arm in arms)
    apart = [abs(a - b) for a, b in zip(first, second, strict=True)]
    marks = sorted({0, *(steps * part // 10 - 1 for part in range(1, 11) if steps * part // 10)})
    points = [{"step": m + 1, **{arm.name: arm.losses[m] for arm in arms}} for m in marks]
    moves = [abs(b - a) for a, b in itertools.pairwise(second)]
    return {"points": points, "mean_difference": statistics.fmean(apart), "largest_difference": max(apart),
            "mean_change_from_step_to_step": statistics.fmean(moves)}  # fmt: skip


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    args = arguments()
    arms, about = make_arms(args)
    if args.curves:
        result = curves(arms, args.curves)
        print(json.dumps({**about, **result}) if args.json else json.dumps(result, indent=1))
        return 0
    measure(arms, args, in_turn="cuda" not in arms[0].order)
    rows = results(arms, about)
    if args.json:
        print(json.dumps({**about, "load": os.getloadavg()[0], "arms": rows}))
    else:
        show(rows, about)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
