"""How close to the alignment frontier methods come, on a storyworld.

    toolkit run recipes/tiny
    python -m benchmarks.frontier runs/tiny/sft runs/tiny/dpo runs/tiny/ppo \\
        --reward-model runs/tiny/reward --figure frontier.svg --json frontier.json

The first model is the reference. It samples `--answers` answers to each held-out prompt at temperature 1.
Their gold utilities give the frontier, best-of-n chosen by gold and, with --reward-model, best-of-n chosen by
the reward model. Every further model samples `--method-answers` answers to the same prompts. Its KL to the
reference is the mean of log p(model) - log p(reference) over its own answers.

The output is a Markdown table with 95% intervals over prompts:

    fraction   (utility - reference) / (frontier - reference) at the same KL; empty at a KL of 0
    reliable   whether the frontier at this KL rests on at least 10 effective answers per prompt

The KL of best-of-n is an upper bound, so that its fraction is a lower one. A model with a larger KL than any
policy on the sampled answers is compared with the best of the answers to each prompt.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from transformers.utils.logging import disable_progress_bar

from benchmarks.commands import header
from toolkit.base.errors import ToolkitError, UsageError
from toolkit.base.progress import Progress
from toolkit.base.rng import derive
from toolkit.evaluate import win_rate
from toolkit.evaluate.answers import Answers
from toolkit.evaluate.naming import display_names, models_by_name
from toolkit.evaluate.win_rate import Contest, LoadedModel
from toolkit.inference.reward_scores import reward_scores
from toolkit.models.loading import load_causal_lm, load_reward_model
from toolkit.report import figures
from toolkit.runs import provenance
from toolkit.runs.references import named_model
from toolkit.runtime import devices
from toolkit.stats import frontier as frontiers
from toolkit.stats.frontier import Frontier
from toolkit.stats.intervals import Estimate, bootstrap_mean, estimate_text, ratio_bootstrap
from toolkit.storyworld import WORLDS, get_world

MAX_NEW_TOKENS = {"small": 80, "large": 112}
"""As in recipes/tiny and recipes/storyworld-large."""
GRID = 12
"""Points of the frontier; their distance grows with the KL, because the frontier is steepest at 0."""
LARGEST_IN_GRID = 0.95
"""KL of the last point, relative to the largest KL of policies on the sampled answers."""
TICKS = (0, 0.1, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256)
METHOD_COLOURS = (figures.ROSE, figures.VIOLET, figures.BLUE)


@dataclass(frozen=True)
class Point:
    """A row of the table.

    Attributes:
        kind: reference, frontier, best of n by gold, best of n by the reward model, or method.
        fraction: fraction of the frontier; None for the reference and the frontier, and at a KL of 0.
        reliable: whether the frontier at this KL is; None at a KL of 0.
    """

    kind: str
    label: str
    kl: Estimate
    utility: Estimate
    fraction: Estimate | None = None
    reliable: bool | None = None

    def as_json(self) -> dict[str, object]:
        """Return the keys of the JSON form."""
        no_fraction: dict[str, object] = {"fraction": None, "fraction_interval": None}
        return {
            "kind": self.kind,
            "label": self.label,
            **self.kl.as_json("kl"),
            **self.utility.as_json("utility"),
            **(self.fraction.as_json("fraction") if self.fraction else no_fraction),
            "reliable": self.reliable,
        }

    def as_row(self) -> str:
        """Return the row of the Markdown table."""
        fraction = estimate_text(self.fraction, percent=True) if self.fraction else ""
        reliable = {True: "yes", False: "no", None: ""}[self.reliable]
        kl, utility = estimate_text(self.kl, digits=2), estimate_text(self.utility, digits=2)
        return f"| {self.label} | {kl} | {utility} | {fraction} | {reliable} |"


@dataclass(frozen=True)
class Measured:
    """What is known of the answers of the reference and of the methods.

    Attributes:
        utilities: gold utilities of the reference's answers, (prompts, answers).
        scores: scores of the reward model for the same answers; None without a reward model.
        methods: name -> mean gold utility and mean KL of each prompt, both (prompts,).
    """

    utilities: np.ndarray
    scores: np.ndarray | None
    methods: dict[str, tuple[np.ndarray, np.ndarray]]


def measure(options: argparse.Namespace) -> Measured:
    """Sample the answers and measure them.

    Raises:
        ToolkitError: a model that cannot be loaded, or with another vocabulary than the reference.
    """
    disable_progress_bar()  # of loading weights
    device = devices.select("auto")
    reference = load_causal_lm(named_model(options.models[0]), device=device)
    names = models_by_name(options.models[1:])
    methods = {name: load_causal_lm(named_model(model), device=device) for name, model in names.items()}
    for name, (_, tokenizer) in methods.items():
        if tokenizer.get_vocab() != reference[1].get_vocab():
            raise UsageError(
                "its vocabulary differs from that of the reference, so that there is no KL",
                where=names[name],
                fix="give models that were tuned from the reference",
            )
    reward = options.reward_model and load_reward_model(named_model(options.reward_model), device=device)

    contest = contest_of(options, "reference", options.answers)
    answers = sample(reference, contest, options.models[0])
    scores = None
    if reward:
        texts = {"answers": answers.texts, "ended": answers.ended}
        scores = reward_scores(*reward, contest.prompts, **texts).reshape(-1, options.answers)
    utilities = gold(answers, contest).reshape(-1, options.answers)
    contest = contest_of(options, "method", options.method_answers)
    measured = {}
    for name, method in methods.items():
        answers = sample(method, contest, names[name])
        kl = win_rate.kl_to_baseline(method, reference, answers, contest)
        measured[name] = contest.by_unit(gold(answers, contest)), contest.by_unit(kl)
    return Measured(utilities, scores, measured)


def contest_of(options: argparse.Namespace, stream: str, answers: int) -> Contest:
    """Return the held-out prompts with the settings of sampling: temperature 1 without truncation."""
    world = get_world(options.world)
    rows = world.rows("prompts", options.seed, "held_out", options.prompts)
    return Contest(
        prompts=[row["prompt"] for row in rows for _ in range(answers)],
        samples_per_prompt=answers,
        seed=derive(options.seed, stream),
        world=world,
        max_new_tokens=options.max_new_tokens,
    )


def sample(loaded: LoadedModel, contest: Contest, name: str) -> Answers:
    with Progress(name, len(contest.prompts), "answer") as progress:
        return win_rate.answer(loaded, contest, progress=progress.update)


def gold(answers: Answers, contest: Contest) -> np.ndarray:
    """Return the gold utility of each answer, (answers,)."""
    pairs = zip(contest.prompts, answers.texts, strict=True)
    return np.array([contest.world.utility(prompt, text).total for prompt, text in pairs])


def estimate_frontier(utilities: np.ndarray, seed: int) -> Frontier:
    """Return the frontier at `GRID` KLs.

    Raises:
        ToolkitError: the answers to each prompt have equal utilities, so that no policy on them is better.
    """
    largest = frontiers.largest_kl(utilities)
    if largest <= 0:
        raise ToolkitError(
            "all answers of the reference to the same prompt have the same utility: there is no frontier",
            fix="give a fine-tuned reference, or more --answers",
        )
    kls = LARGEST_IN_GRID * largest * (np.arange(1, GRID + 1) / GRID) ** 2
    return frontiers.frontier(utilities, kls=kls.tolist(), seed=seed)


def compare(
    kind: str, label: str, utilities: np.ndarray, reached: np.ndarray, kls: np.ndarray, *, seed: int
) -> Point:
    """Compare a method with the frontier at its KL.

    Args:
        utilities: utilities of the reference's answers, (prompts, answers).
        reached, kls: utility and KL of the method for each prompt, (prompts,).
    """
    mean_kl, largest = float(np.mean(kls)), frontiers.largest_kl(utilities)
    if 0 < mean_kl < largest * (1 - frontiers.NEAREST_TO_LARGEST):
        point = frontiers.compare_with_frontier(utilities, reached, kls, seed=seed)
        return Point(kind, label, point.kl, point.utility, point.fraction, point.frontier.reliable)
    own = Point(kind, label, bootstrap_mean(kls, seed=seed), bootstrap_mean(reached, seed=seed))
    if mean_kl <= 0:
        return own
    best, reference = utilities.max(1), utilities.mean(1)
    ties = (utilities == best[:, None]).sum(1)  # effective sample size of choosing one of the best answers
    return replace(
        own,
        fraction=ratio_bootstrap(reached - reference, best - reference, seed=seed),
        reliable=bool(1 / np.mean(1 / ties) >= frontiers.FEWEST_EFFECTIVE),
    )


def points_of(measured: Measured, found: Frontier, *, reference: str, seed: int) -> list[Point]:
    """Return all rows of the table."""
    utilities = measured.utilities

    def exact(kl: float) -> Estimate:
        return Estimate(kl, math.nan, math.nan, len(utilities))

    points = [Point("reference", f"{reference} (reference)", exact(0.0), found.reference)]
    points += [
        Point("frontier", "frontier", exact(point.kl), point.utility, reliable=point.reliable)
        for point in found.points
    ]
    choosers = {"gold": utilities} | (
        {} if measured.scores is None else {"the reward model": measured.scores}
    )
    for chooser, scores in choosers.items():
        n = 2
        while n <= utilities.shape[1] // 4:  # near the number of answers the frontier is too low
            best = frontiers.expected_best(utilities, n, scores=scores)
            kl = frontiers.best_of_n_kl(scores, n)
            kind, label = f"best of n by {chooser}", f"best of {n} by {chooser}"
            points.append(compare(kind, label, utilities, best, kl, seed=seed))
            n *= 2
    for name, (reached, kl) in measured.methods.items():
        points.append(compare("method", name, utilities, reached, kl, seed=seed))
    return points


def draw(points: Sequence[Point], largest_kl: float, best: float, path: Path) -> None:
    """Draw utility over KL as SVG with a white background.

    Args:
        best: mean utility of the best answer to each prompt, the frontier from `largest_kl` on.
    """
    with rc_context(figures.STYLE):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.subplots()
        farthest = 1.05 * max(largest_kl, *(_right_end(point.kl) for point in points))
        x, y = _coordinates(points, "reference", "frontier")
        x, y = [*x, largest_kl, farthest], [*y, best, best]
        count = 1 + sum(point.kind == "frontier" and bool(point.reliable) for point in points)
        line = {"color": figures.INK, "zorder": 2}
        axes.plot(x[:count], y[:count], label="frontier", **line)
        axes.plot(x[count - 1 :], y[count - 1 :], "--", linewidth=1.5, label="frontier, unreliable", **line)
        for chooser, colour in (("gold", figures.GREEN), ("the reward model", figures.ORANGE)):
            kind = f"best of n by {chooser}"
            if any(point.kind == kind for point in points):
                x, y = _coordinates(points, "reference", kind)
                axes.plot(x, y, "o-", color=colour, markersize=4, linewidth=1.5, label=kind)
        _draw_methods(axes, points)
        # The frontier rises with the square root of the KL at first.
        axes.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
        axes.set_xlim(0, farthest)
        axes.set_xticks([tick for tick in TICKS if tick < farthest])
        axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.margins(y=0.1)
        axes.set_xlabel("KL to the reference, nats per answer (square root scale)")
        axes.set_ylabel("gold utility")
        figure.legend(loc="outside upper center", ncols=4, columnspacing=1.2, fontsize=9)
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})


def _draw_methods(axes: Axes, points: Sequence[Point]) -> None:
    """Draw the reference and the methods as points with their names, the methods with both intervals."""
    methods = [point for point in points if point.kind in ("reference", "method")]
    for number, point in enumerate(methods):
        is_method = point.kind == "method"
        colour = METHOD_COLOURS[(number - 1) % len(METHOD_COLOURS)] if is_method else figures.INK
        x, y = max(0.0, point.kl.estimate), point.utility.estimate
        bars = {"xerr": _bar(point.kl), "yerr": _bar(point.utility)} if is_method else {}
        axes.errorbar(
            x, y, fmt="o", color=colour, markersize=7, elinewidth=1.5, clip_on=False, zorder=3, **bars
        )
        axes.annotate(
            point.label, (x, y), xytext=(8, -6), textcoords="offset points", va="top", color=colour,
            fontweight="bold",
        )  # fmt: skip


def _right_end(kl: Estimate) -> float:
    return kl.high if math.isfinite(kl.high) else kl.estimate


def _coordinates(points: Sequence[Point], *kinds: str) -> tuple[list[float], list[float]]:
    chosen = [point for point in points if point.kind in kinds]
    return [point.kl.estimate for point in chosen], [point.utility.estimate for point in chosen]


def _bar(value: Estimate) -> np.ndarray:
    """Return the lengths of an interval below and above the estimate, (2, 1)."""
    below, above = value.estimate - value.low, value.high - value.estimate
    return np.maximum(0.0, [[below], [above]])


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; usage errors exit with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.frontier",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="the reference, then models tuned from it")
    parser.add_argument("--world", choices=WORLDS, default="small")
    parser.add_argument("--prompts", type=int, default=100, help="held-out prompts; default: 100")
    parser.add_argument("--answers", type=int, default=64, help="per prompt, of the reference; default: 64")
    parser.add_argument(
        "--method-answers", type=int, default=4, help="per prompt, of each further model; default: 4"
    )
    parser.add_argument("--max-new-tokens", type=int, help="default: 80 in the small world, 112 in the large")
    parser.add_argument("--reward-model", metavar="MODEL", help="also best-of-n chosen by this reward model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the points as SVG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the points and the settings")
    options = parser.parse_args(given)
    if options.max_new_tokens is None:
        options.max_new_tokens = MAX_NEW_TOKENS[options.world]
    least = {"prompts": 2, "answers": 2, "method_answers": 1, "max_new_tokens": 1, "threads": 1}
    for name, bound in least.items():
        if getattr(options, name) < bound:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)}: give at least {bound}")
    for name in ("figure", "json"):
        path = getattr(options, name)
        if path is not None and not path.parent.is_dir():
            parser.error(f"--{name} {path}: the folder {path.parent} does not exist")
    return options


def main(given: Sequence[str] | None = None) -> int:
    """Print the table, and write the JSON file and the figure."""
    options = arguments(given)
    torch.set_num_threads(options.threads)
    try:
        measured = measure(options)
        found = estimate_frontier(measured.utilities, options.seed)
    except ToolkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    reference = display_names(options.models[:1])[options.models[0]]
    points = points_of(measured, found, reference=reference, seed=options.seed)
    print(
        header("policy", "KL, nats per answer [95 %]", "gold utility [95 %]", "fraction [95 %]", "reliable")
    )
    for point in points:
        print(point.as_row())
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name not in ("json", "figure")}
        content = {
            "settings": settings,
            "frontier": found.as_json(),
            "points": [point.as_json() for point in points],
            "versions": provenance.versions(),
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if options.figure:
        best = float(measured.utilities.max(1).mean())
        draw(points, found.largest_kl, best, options.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
