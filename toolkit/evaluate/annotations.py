"""`toolkit evaluate --annotations FILE`: win rates, agreement and biases of judgements that exist already.

The unit is the prompt: what several annotators say of one prompt, in both orders, is averaged before anything
is counted. Lengths are in characters.

Legend: an item is two answers to one prompt, in whatever order; a judgement is what one annotator says of an
item, both orders averaged; its outcome is that of the answer that comes first in `AnnotatedAnswer.order_key`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

from toolkit.base.errors import DataError, UsageError
from toolkit.base.progress import Progress
from toolkit.data.chat.annotations import AnnotatedAnswer, Annotation, Annotations
from toolkit.stats.agreement import accuracy, cohen_kappa, krippendorff_alpha, length_bias, position_bias
from toolkit.stats.rankings import PairedComparison, bradley_terry
from toolkit.stats.sequential import anytime
from toolkit.stats.significance import holm, power_text, verdict
from toolkit.stats.win_rates import length_controlled, win_rate


@dataclass
class Judgement:
    """What one annotator says of one item, by the order in which the answers were shown."""

    prompt: str
    first: AnnotatedAnswer
    second: AnnotatedAnswer
    annotator: str
    straight: list[float] = field(default_factory=list)
    turned: list[float] = field(default_factory=list)
    """Outcomes of `first` where it was shown first, and where it was shown second."""

    @property
    def outcome(self) -> float:
        """Of `first`; two orders that contradict each other are a tie."""
        return _mean([_mean(each) for each in (self.straight, self.turned) if each])

    @property
    def longer(self) -> int:
        """Characters of `first` less those of `second`."""
        return len(self.first.text) - len(self.second.text)

    @property
    def item(self) -> tuple[str, AnnotatedAnswer, AnnotatedAnswer]:
        return self.prompt, self.first, self.second

    @property
    def winner(self) -> str:
        """The category in which annotators agree or not."""
        return "tie" if self.outcome == 0.5 else "first" if self.outcome > 0.5 else "second"


def measure(found: Annotations, *, file: str, baseline: str | None, seed: int) -> dict[str, object]:
    """Everything that annotations say, as plain numbers with their intervals.

    Args:
        baseline: the model that the others are compared with; by default the one that a file shows first.
    Raises:
        UsageError: no annotation names the baseline.
    """
    judgements = by_item(found.rows)
    pairs = by_models(judgements, found.rows, baseline)
    if baseline is not None and not any(baseline == other for _, other in pairs):
        names = ", ".join(sorted({name for pair in pairs for name in pair})) or "none"
        raise UsageError(
            f"no annotation compares {baseline!r} with another model; the models are: {names}",
            where="baseline", fix="give one of them, or no baseline",
        )  # fmt: skip
    rates = []
    with Progress("win rates", len(pairs), "pair") as progress:
        for number, ((model, other), their) in enumerate(pairs.items(), 1):
            rates.append({"model": model, "baseline": other, **pair_numbers(their, model, seed)})
            progress.update(number)
    for row, adjusted in zip(rates, holm([row["p_value"] for row in rates]), strict=True):
        row["p_value_holm"] = adjusted
        row["verdict"] = verdict(row["low"], row["high"], adjusted)
    return {
        "file": file,
        "annotations": len(found.rows),
        "left_out": dict(found.left_out),
        "items": len({one.item for one in judgements}),
        "prompts": len({one.prompt for one in judgements}),
        "win_rates": rates,
        "ranking": ranking(pairs, file=file, seed=seed),
        "annotators": annotators(judgements, seed),
        "agreement": agreement(judgements, seed),
        "baseline": baseline,
        "length_unit": "characters",
        "level": 0.95,
        "seed": seed,
    }


def by_item(rows: Sequence[Annotation]) -> list[Judgement]:
    """Both orders of an item together, for each annotator."""
    found: dict[tuple, Judgement] = {}
    for row in rows:
        turned = row.second.order_key < row.first.order_key
        first, second = (row.second, row.first) if turned else (row.first, row.second)
        key = (row.prompt, first, second, row.annotator)
        judgement = found.setdefault(key, Judgement(row.prompt, first, second, row.annotator))
        side = judgement.turned if turned and row.shown else judgement.straight
        side.append(1 - row.outcome if turned else row.outcome)
    return list(found.values())


def by_models(
    judgements: Sequence[Judgement], rows: Sequence[Annotation], baseline: str | None
) -> dict[tuple[str, str], list[Judgement]]:
    """Judgements by (model, baseline), where the file names two models.

    The baseline of a pair is the one asked for, or the one that the file shows first when it first has them.
    """
    order: dict[frozenset, tuple[str, str]] = {}
    for row in rows:
        names = row.first.model, row.second.model
        if None not in names and names[0] != names[1]:
            other, model = names if row.shown else sorted(names)
            order.setdefault(frozenset(names), (other, model) if model == baseline else (model, other))
    pairs: dict[tuple[str, str], list[Judgement]] = {pair: [] for pair in order.values()}
    for one in judgements:
        pair = order.get(frozenset((one.first.model, one.second.model)))
        if pair is not None:
            pairs[pair].append(one)
    return pairs


def pair_numbers(judgements: Sequence[Judgement], model: str, seed: int) -> dict[str, object]:
    """How often `model` is better: raw, at equal lengths, and at any time."""
    sides = [1 if one.first.model == model else -1 for one in judgements]
    outcomes = [0.5 + side * (one.outcome - 0.5) for one, side in zip(judgements, sides, strict=True)]
    longer = [side * one.longer for one, side in zip(judgements, sides, strict=True)]
    prompts = [one.prompt for one in judgements]
    found = win_rate(outcomes, prompts, seed=seed)
    controlled, effect = length_controlled(outcomes, longer, prompts, seed=seed)
    means: dict[str, list[float]] = defaultdict(list)
    for prompt, outcome in zip(prompts, outcomes, strict=True):
        means[prompt].append(outcome)
    return {
        **found.as_dict(),
        **controlled.as_json("length_controlled"),
        **effect.as_json("length_effect"),
        "mean_longer": sum(longer) / len(longer),
        "anytime": anytime([sum(each) / len(each) for each in means.values()]).as_json(),
        "power": power_text(found.bootstrap.n, found.bootstrap.estimate),
    }


def ranking(
    pairs: dict[tuple[str, str], list[Judgement]], *, file: str, seed: int
) -> dict[str, object] | None:
    """Bradley-Terry strengths of more than two models; `problem` where they cannot be had."""
    comparisons = [
        PairedComparison(one.first.model, one.second.model, one.outcome, one.prompt)
        for their in pairs.values()
        for one in their
    ]
    if len({name for pair in pairs for name in pair}) < 3:
        return None
    try:
        return bradley_terry(comparisons, seed=seed).as_json()
    except ValueError as error:
        raise DataError(str(error), where=file, fix="give one file for each group") from None


def annotators(judgements: Sequence[Judgement], seed: int) -> list[dict[str, object]]:
    """What else than the answers each annotator may have listened to: their place, their length."""
    theirs: dict[str, list[Judgement]] = defaultdict(list)
    for one in judgements:
        theirs[one.annotator].append(one)
    rows = []
    for name, mine in sorted(theirs.items()):
        both = [one for one in mine if one.straight and one.turned]
        orders = [_mean(one.straight) for one in both], [_mean(one.turned) for one in both]
        rows.append(
            {
                "annotator": name,
                "items": len(mine),
                "tie_share": sum(one.winner == "tie" for one in mine) / len(mine),
                "length": length_bias(
                    [one.outcome for one in mine],
                    [one.longer for one in mine],
                    seed=seed,
                    groups=[one.prompt for one in mine],
                ),
                "position": position_bias(*orders, seed=seed, groups=[one.prompt for one in both])
                if both
                else None,
            }
        )
    return rows


def agreement(judgements: Sequence[Judgement], seed: int) -> dict[str, object] | None:
    """Alpha of all annotators, accuracy and kappa of every two; None where no item has two judgements."""
    said: dict[str, dict[tuple, str]] = defaultdict(dict)
    for one in judgements:
        said[one.annotator][one.item] = one.winner
    names, items = sorted(said), list(dict.fromkeys(one.item for one in judgements))
    pairs = []
    for one, other in combinations(names, 2):
        common = [item for item in items if item in said[one] and item in said[other]]
        if common:
            ratings = [[said[name][item] for item in common] for name in (one, other)]
            how = {"seed": seed, "groups": [prompt for prompt, _, _ in common]}
            same, kappa = accuracy(*ratings, **how), cohen_kappa(*ratings, **how)
            row = {"annotators": [one, other], "items": len(common), **same.as_json("accuracy")}
            pairs.append({**row, **kappa.as_json("kappa")})
    if not pairs:
        return None
    ratings = [[said[name].get(item) for item in items] for name in names]
    alpha = krippendorff_alpha(ratings, seed=seed, groups=[prompt for prompt, _, _ in items])
    twice = sum(sum(item in said[name] for name in names) > 1 for item in items)
    return {**alpha.as_json("alpha"), "items": twice, "annotators": len(names), "pairs": pairs}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
