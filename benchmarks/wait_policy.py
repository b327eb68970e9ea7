"""How waiting threads of OpenMP wait: pretraining speed with each policy, quiet and beside a busy process.

    python -m benchmarks.wait_policy                     both models, prints a Markdown table
    python -m benchmarks.wait_policy --rounds 1 --steps 1 --warmup 1      a quick try

A thread that has finished its part of a sum waits for the others. By default GNU's OpenMP, which is part of
PyTorch's Linux wheels, lets it spin for some milliseconds; beside another program it then takes a core from
the thread that it waits for. With OMP_WAIT_POLICY=PASSIVE it sleeps at once, with ACTIVE it spins for
minutes, and GOMP_SPINCOUNT sets how long it spins.

Every arm is a process that takes whole steps (forward, backward, clipping, optimizer). In a round each arm
takes its steps alone, and then each once more beside one process that only computes, so that other load
affects all arms alike; arms that are not being measured are suspended. A number is the median of the rounds.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
from contextlib import ExitStack
from dataclasses import replace

from benchmarks import pretrain_arms
from benchmarks.commands import busy_process
from benchmarks.pretrain import Arm, say
from benchmarks.pretrain_arms import Options, Shape
from toolkit.models.shape import num_parameters
from toolkit.runtime import hardware, waiting

SHAPES = {
    "recipes/tiny": Shape(n_layer=2, n_head=6, n_embd=96, vocab_size=917, rows=4),
    "recipes/storyworld-large": Shape(n_layer=2, n_head=6, n_embd=192, vocab_size=4096, rows=8),
}
POLICIES = {
    "ACTIVE": {waiting.WAIT_POLICY: "ACTIVE"},
    "default": {},
    "GOMP_SPINCOUNT=1000": {waiting.SPIN_COUNT: "1000"},
    "PASSIVE": {waiting.WAIT_POLICY: "PASSIVE"},
}


class PolicyArm(Arm):
    """An arm with the speed of each round, in tokens per second, quiet and busy."""

    def __init__(self, shape: Shape, policy: str):
        options = Options(optimizer="muon")
        super().__init__(policy, pretrain_arms.order_for("ours", shape, options, None), POLICIES[policy])
        self.shape, self.policy = shape, policy
        self.speeds: dict[str, list[float]] = {"quiet": [], "busy": []}

    def take(self, steps: int) -> dict:
        """Let the process take some steps, and suspend it until its next turn: idle threads may spin, too."""
        self.process.send_signal(signal.SIGCONT)
        answer = super().take(steps)
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        super().stop()

    def measure_speed(self, steps: int, condition: str) -> None:
        """One round under a condition."""
        self.speeds[condition].append(self.shape.tokens / statistics.median(self.take(steps)["seconds"]))


def make_arms(shape: Shape, threads: int) -> list[PolicyArm]:
    """Return the arms of a model: one thread, and several threads with each policy."""
    one = PolicyArm(replace(shape, threads=1), "default")
    return [one, *(PolicyArm(replace(shape, threads=threads), policy) for policy in POLICIES)]


def measure(arms: list[PolicyArm], args: argparse.Namespace) -> None:
    """Start the arms and run the rounds."""
    with ExitStack() as stack:
        busy = stack.enter_context(busy_process())
        busy.send_signal(signal.SIGSTOP)
        for arm in arms:
            arm.start(args.warmup)
            stack.callback(arm.stop)
        for number in range(args.rounds):
            say(f"round {number + 1} of {args.rounds}")
            for condition in ("quiet", "busy"):
                busy.send_signal(signal.SIGCONT if condition == "busy" else signal.SIGSTOP)
                for arm in arms:
                    arm.measure_speed(args.steps, condition)
            busy.send_signal(signal.SIGSTOP)


def rows(name: str, arms: list[PolicyArm]) -> list[str]:
    """Return the rows of a model's arms."""
    lines = []
    for arm in arms:
        quiet, busy = (statistics.median(arm.speeds[condition]) for condition in ("quiet", "busy"))
        cells = [f"{speed:,.0f} ({min(all_):,.0f}-{max(all_):,.0f})"
                 for speed, all_ in ((quiet, arm.speeds["quiet"]), (busy, arm.speeds["busy"]))]  # fmt: skip
        policy = arm.policy if arm.shape.threads > 1 else "-"
        lines.append(
            f"| {name} | {arm.shape.threads} | {policy} | {' | '.join(cells)} | {busy / quiet:.2f} |"
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", choices=[*SHAPES], default=[*SHAPES])
    parser.add_argument("--threads", type=int, default=hardware.cores())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6, help="steps of each arm in a round")
    parser.add_argument("--warmup", type=int, default=4, help="warm-up steps of each arm")
    args = parser.parse_args(arguments)
    for variable in (waiting.WAIT_POLICY, waiting.SPIN_COUNT):  # they would apply to the arm "default"
        os.environ.pop(variable, None)
    load = os.getloadavg()[0]
    print("| model | threads | waiting | tokens/s, quiet (range) | beside a busy process | ratio |")
    print("|---|---|---|---|---|---|")
    for name in args.models:
        shape = SHAPES[name]
        arms = make_arms(shape, args.threads)
        measure(arms, args)
        print("\n".join(rows(name, arms)), flush=True)
        parameters = num_parameters(shape.model(), vocab_size=shape.vocab_size)
        say(f"{name}: {parameters:,} parameters, {shape.tokens:,} tokens a step")
    say(f"{hardware.processor()['name']}, {hardware.cores()} cores; load before the first round: {load:.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
