"""`toolkit evaluate --annotations FILE`: win rates, agreement and biases of existing judgements.

The unit is the prompt: the outcomes of all annotators and both orders are averaged for each prompt first.
Lengths are in characters.

Terms: an item is a pair of answers to one prompt, in any order; a judgement is the mean of one annotator's
outcomes of an item in both orders. The outcome refers to the answer that comes first in
`AnnotatedAnswer.order_key`.
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
    """The outcomes of one item by one annotator, for each order in which the answers were shown.

    Attributes:
        outcomes_shown_first: outcomes of `first` where it was shown first, or the order is unknown.
        outcomes_shown_second: outcomes of `first` where it was shown second.
    """

    prompt: str
    first: AnnotatedAnswer
    second: AnnotatedAnswer
    annotator: str
    outcomes_shown_first: list[float] = field(default_factory=list)
    outcomes_shown_second: list[float] = field(default_factory=list)

    @property
    def outcome(self) -> float:
        """The outcome of `first`; it is a tie if the two orders contradict each other."""
        orders = (self.outcomes_shown_first, self.outcomes_shown_second)
        return _mean([_mean(outcomes) for outcomes in orders if outcomes])

    @property
    def length_difference(self) -> int:
        """The length of `first` minus that of `second`, in characters."""
        return len(self.first.text) - len(self.second.text)

    @property
    def item(self) -> tuple[str, AnnotatedAnswer, AnnotatedAnswer]:
        return self.prompt, self.first, self.second

    @property
    def winner(self) -> str:
        """The category that the measures of agreement compare."""
        return "tie" if self.outcome == 0.5 else "first" if self.outcome > 0.5 else "second"


def measure(annotations: Annotations, *, file: str, baseline: str | None, seed: int) -> dict[str, object]:
    """Return win rates, ranking, agreement and biases of annotations, as plain numbers with intervals.

    Args:
        baseline: the model that the others are compared with; by default the one that the file shows first.
    Raises:
        UsageError: no annotation names the baseline.
    """
    judgements = by_item(annotations.rows)
    pairs = by_models(judgements, annotations.rows, baseline)
    if baseline is not None and not any(baseline == other for _, other in pairs):
        names = ", ".join(sorted({name for pair in pairs for name in pair})) or "none"
        raise UsageError(
            f"no annotation compares {baseline!r} with another model; the models are: {names}",
            where="baseline", fix="give one of them, or no baseline",
        )  # fmt: skip
    rates = []
    with Progress("win rates", len(pairs), "pair") as progress:
        for number, ((model, other), pair_judgements) in enumerate(pairs.items(), 1):
            numbers = pair_numbers(pair_judgements, model, seed)
            rates.append({"model": model, "baseline": other, **numbers})
            progress.update(number)
    for row, adjusted in zip(rates, holm([row["p_value"] for row in rates]), strict=True):
        row["p_value_holm"] = adjusted
        row["verdict"] = verdict(row["low"], row["high"], adjusted)
    return {
        "file": file,
        "annotations": len(annotations.rows),
        "left_out": dict(annotations.left_out),
        "items": len({judgement.item for judgement in judgements}),
        "prompts": len({judgement.prompt for judgement in judgements}),
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
    """Return one judgement for each item and annotator, with the outcomes of both orders."""
    judgements: dict[tuple, Judgement] = {}
    for row in rows:
        is_swapped = row.second.order_key < row.first.order_key
        first, second = (row.second, row.first) if is_swapped else (row.first, row.second)
        key = (row.prompt, first, second, row.annotator)
        judgement = judgements.setdefault(key, Judgement(row.prompt, first, second, row.annotator))
        shown_second = is_swapped and row.shown
        outcomes = judgement.outcomes_shown_second if shown_second else judgement.outcomes_shown_first
        outcomes.append(1 - row.outcome if is_swapped else row.outcome)
    return list(judgements.values())


def by_models(
    judgements: Sequence[Judgement], rows: Sequence[Annotation], baseline: str | None
) -> dict[tuple[str, str], list[Judgement]]:
    """Return judgements by (model, baseline); judgements without two named models are left out.

    The baseline of a pair is `baseline` if the pair contains it, else the model that is shown first in
    the first row of the pair (without a known order, the first by name).
    """
    order: dict[frozenset, tuple[str, str]] = {}
    for row in rows:
        names = row.first.model, row.second.model
        if None not in names and names[0] != names[1]:
            other, model = names if row.shown else sorted(names)
            order.setdefault(frozenset(names), (other, model) if model == baseline else (model, other))
    pairs: dict[tuple[str, str], list[Judgement]] = {pair: [] for pair in order.values()}
    for judgement in judgements:
        pair = order.get(frozenset((judgement.first.model, judgement.second.model)))
        if pair is not None:
            pairs[pair].append(judgement)
    return pairs


def pair_numbers(judgements: Sequence[Judgement], model: str, seed: int) -> dict[str, object]:
    """Return the win rate of `model`: raw, length-controlled, and with an anytime-valid interval."""
    signs = [1 if judgement.first.model == model else -1 for judgement in judgements]
    signed = list(zip(judgements, signs, strict=True))
    outcomes = [0.5 + sign * (judgement.outcome - 0.5) for judgement, sign in signed]
    length_differences = [sign * judgement.length_difference for judgement, sign in signed]
    prompts = [judgement.prompt for judgement in judgements]
    rate = win_rate(outcomes, prompts, seed=seed)
    controlled, effect = length_controlled(outcomes, length_differences, prompts, seed=seed)
    outcomes_by_prompt: dict[str, list[float]] = defaultdict(list)
    for prompt, outcome in zip(prompts, outcomes, strict=True):
        outcomes_by_prompt[prompt].append(outcome)
    return {
        **rate.as_dict(),
        **controlled.as_json("length_controlled"),
        **effect.as_json("length_effect"),
        "mean_longer": _mean(length_differences),
        "anytime": anytime([_mean(values) for values in outcomes_by_prompt.values()]).as_json(),
        "power": power_text(rate.bootstrap.n, rate.bootstrap.estimate),
    }


def ranking(
    pairs: dict[tuple[str, str], list[Judgement]], *, file: str, seed: int
) -> dict[str, object] | None:
    """Return Bradley-Terry strengths of three or more models; None for fewer models.

    Raises:
        DataError: the models fall into groups that are never compared with each other.
    """
    comparisons = [
        PairedComparison(judgement.first.model, judgement.second.model, judgement.outcome, judgement.prompt)
        for pair_judgements in pairs.values()
        for judgement in pair_judgements
    ]
    if len({name for pair in pairs for name in pair}) < 3:
        return None
    try:
        return bradley_terry(comparisons, seed=seed).as_json()
    except ValueError as error:
        raise DataError(str(error), where=file, fix="give one file for each group") from None


def annotators(judgements: Sequence[Judgement], seed: int) -> list[dict[str, object]]:
    """Return length bias and position bias of each annotator."""
    by_annotator: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        by_annotator[judgement.annotator].append(judgement)
    rows = []
    for name, own in sorted(by_annotator.items()):
        in_both_orders = [row for row in own if row.outcomes_shown_first and row.outcomes_shown_second]
        shown_first = [_mean(judgement.outcomes_shown_first) for judgement in in_both_orders]
        shown_second = [_mean(judgement.outcomes_shown_second) for judgement in in_both_orders]
        rows.append(
            {
                "annotator": name,
                "items": len(own),
                "tie_share": sum(judgement.winner == "tie" for judgement in own) / len(own),
                "length": length_bias(
                    [judgement.outcome for judgement in own],
                    [judgement.length_difference for judgement in own],
                    seed=seed,
                    groups=[judgement.prompt for judgement in own],
                ),
                "position": position_bias(
                    shown_first,
                    shown_second,
                    seed=seed,
                    groups=[judgement.prompt for judgement in in_both_orders],
                )
                if in_both_orders
                else None,
            }
        )
    return rows


def agreement(judgements: Sequence[Judgement], seed: int) -> dict[str, object] | None:
    """Return alpha of all annotators, accuracy and kappa of each pair; None if no item has two judgements."""
    winners: dict[str, dict[tuple, str]] = defaultdict(dict)
    for judgement in judgements:
        winners[judgement.annotator][judgement.item] = judgement.winner
    names, items = sorted(winners), list(dict.fromkeys(judgement.item for judgement in judgements))
    pairs = []
    for pair in combinations(names, 2):
        common = [item for item in items if all(item in winners[name] for name in pair)]
        if common:
            ratings = [[winners[name][item] for item in common] for name in pair]
            bootstrap = {"seed": seed, "groups": [prompt for prompt, _, _ in common]}
            share_equal, kappa = accuracy(*ratings, **bootstrap), cohen_kappa(*ratings, **bootstrap)
            row = {"annotators": list(pair), "items": len(common), **share_equal.as_json("accuracy")}
            pairs.append({**row, **kappa.as_json("kappa")})
    if not pairs:
        return None
    ratings = [[winners[name].get(item) for item in items] for name in names]
    alpha = krippendorff_alpha(ratings, seed=seed, groups=[prompt for prompt, _, _ in items])
    shared_items = sum(sum(item in winners[name] for name in names) > 1 for item in items)
    return {**alpha.as_json("alpha"), "items": shared_items, "annotators": len(names), "pairs": pairs}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
