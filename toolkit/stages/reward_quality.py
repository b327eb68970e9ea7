"""Measuring a reward model: accuracy, calibration, length bias, and invariance to padding.

Shapes: pairs = held-out preferences, each with a chosen and a rejected answer. A pair's margin is the score
of the chosen answer minus that of the rejected one; under Bradley and Terry (1952) sigmoid(margin) is the
probability that the model assigns to the label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit import stats
from toolkit.base.errors import DataError
from toolkit.data.chat.pairs import HeldOutPairs, Pair, held_out_pairs, wins
from toolkit.inference.reward_scores import score_ids
from toolkit.models.context_length import context_length, context_length_or_default
from toolkit.runs.evaluation import AnnotatorBin, LengthBias, RewardMetrics, ScoreBias
from toolkit.stages.reward_biases import score_biases
from toolkit.stats.calibration import calibration

ANNOTATOR_BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Edges of the probability with which the annotator prefers the likelier answer."""
INVARIANCE_PAIRS = 100
"""The first pairs, which are scored again without end-of-text and with padding."""
EXTRA_PADDING = 16
"""Padding tokens added to an answer, which must not change its score."""


def fitting_pairs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, preferences: Sequence[Mapping], *, where: str
) -> HeldOutPairs:
    """Tokenize the preferences that fit in the context of a reward model.

    Both answers of a pair follow the same prompt, and none is cut: see `data.chat.pairs.encode`.

    Raises:
        DataError: no preference fits.
    """
    limit = context_length_or_default(model)
    pairs = held_out_pairs(preferences, tokenizer, max_length=limit)
    if not pairs.pairs:
        raise DataError(
            f"none of {pairs.lengths.left_out} preferences fits in the {limit} tokens of the reward model",
            where=where, fix="give shorter preferences, or a model with a longer context",
        )  # fmt: skip
    return pairs


def preference_accuracy(
    model: PreTrainedModel, pairs: Sequence[Pair], *, pad_id: int, seed: int, shown_as: str | None = None
) -> stats.Estimate:
    """Return how often the chosen answer has the higher score; a tie counts half."""
    chosen, rejected = pair_scores(model, pairs, pad_id=pad_id, shown_as=shown_as)
    return stats.bootstrap_share(wins(chosen - rejected), seed=seed)


def pair_scores(
    model: PreTrainedModel, pairs: Sequence[Pair], *, pad_id: int, shown_as: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the chosen and of the rejected answers, (pairs,) float64 each.

    Args:
        shown_as: as in `score_ids`.
    """
    rows = [pair.prompt + pair.chosen for pair in pairs] + [pair.prompt + pair.rejected for pair in pairs]
    values = score_ids(model, rows, pad_id=pad_id, shown_as=shown_as)
    return values[: len(pairs)], values[len(pairs) :]


def measure(
    model: PreTrainedModel, held_out: HeldOutPairs, *, pad_id: int, seed: int, shown_as: str | None = None
) -> RewardMetrics:
    """Return all measurements of a reward model on held-out preferences.

    Args:
        shown_as: as in `score_ids`.
    """
    if not held_out.pairs:
        return RewardMetrics(n=0, nulls=frozenset({"accuracy", "accuracy_interval", "bayes_accuracy"}))
    chosen, rejected = pair_scores(model, held_out.pairs, pad_id=pad_id, shown_as=shown_as)
    scores, margins = np.concatenate([chosen, rejected]), chosen - rejected
    end_of_text, padding = _invariances(
        model, held_out.pairs[:INVARIANCE_PAIRS], chosen, pad_id=pad_id, seed=seed, shown_as=shown_as
    )
    return RewardMetrics(
        accuracy=stats.bootstrap_share(wins(margins), seed=seed),
        ties=int((margins == 0).sum()),
        n=len(held_out.pairs),
        bayes_accuracy=held_out.bayes_accuracy(),
        gold_accuracy=_gold_accuracy(margins, held_out.utility_margin, seed),
        held_out_loss=float(np.logaddexp(0, -margins).mean()),
        margin=float(margins.mean()),
        score_mean=float(scores.mean()),
        score_std=float(scores.std()),
        calibration=confidence(margins, seed=seed),
        by_annotator=by_annotator(margins, held_out.probability),
        length_bias=length_bias(margins, held_out.pairs, seed=seed),
        score_biases=_score_biases(margins, held_out, seed=seed),
        end_of_text=end_of_text,
        padding=padding,
        nulls=frozenset(
            {"bayes_accuracy", "gold_accuracy", "gold_accuracy_interval", "length_bias", "padding"}
        ),
    )


def _gold_accuracy(
    margins: np.ndarray, utility_margins: Sequence[float | None], seed: int
) -> stats.Estimate | None:
    """Return how often the reward model agrees with the true utility rather than the noisy labels.

    None where the true utilities are unknown.
    """
    decided = [index for index, utility in enumerate(utility_margins) if utility]
    if not decided:
        return None
    signs = np.sign([utility_margins[index] for index in decided])
    return stats.bootstrap_share(wins(margins[decided] * signs), seed=seed)


def _score_biases(margins: np.ndarray, held_out: HeldOutPairs, *, seed: int) -> list[ScoreBias] | None:
    """Return `reward_biases.score_biases` over the pairs of known utility; None if there is none."""
    known = [index for index, utility in enumerate(held_out.utility_margin) if utility is not None]
    if not known:
        return None
    chosen, rejected = zip(*(held_out.answers[index] for index in known), strict=True)
    utilities = np.array([held_out.utility_margin[index] for index in known], dtype=float)
    return score_biases(margins[known], utilities, chosen, rejected, seed=seed)


def confidence(margins: np.ndarray, *, seed: int) -> dict[str, Any]:
    """Return the calibration of sigmoid(|margin|), the model's confidence in the answer that it prefers.

    A `slope` below 1 means overconfidence; `bins` are the points of the reliability diagram.
    """
    return calibration(1 / (1 + np.exp(-np.abs(margins))), wins(margins), seed=seed).as_json()


def by_annotator(margins: np.ndarray, probability: Sequence[float | None]) -> list[AnnotatorBin]:
    """Return the accuracy by how consistent the annotator is, beside the Bayes accuracy.

    Pairs are binned by the probability with which the annotator prefers the likelier answer; without such
    probabilities the list is empty.
    """
    has_probability = np.array([p is not None for p in probability])
    if not has_probability.any():
        return []
    right = wins(margins)[has_probability]
    probabilities = np.array([p for p in probability if p is not None])
    agreement = np.maximum(probabilities, 1 - probabilities)
    rows = []
    for low, high in pairwise(ANNOTATOR_BINS):
        inside = (agreement >= low) & ((agreement < high) | (high == ANNOTATOR_BINS[-1]))
        if inside.any():
            share = stats.wilson(float(right[inside].sum()), int(inside.sum()))
            bayes = float(agreement[inside].mean())
            rows.append(AnnotatorBin(agreement=[low, high], n=share.n, accuracy=share, bayes=bayes))
    return rows


def length_bias(margins: np.ndarray, pairs: Sequence[Pair], *, seed: int) -> LengthBias | None:
    """Return how much more often the model prefers the longer answer than the annotators did.

    `bias` is the difference of the two shares over the pairs whose answers differ in length, in tokens. None
    if there is no such pair.
    """
    longer = np.array([np.sign(len(pair.chosen) - len(pair.rejected)) for pair in pairs])
    differs = longer != 0
    if not differs.any():
        return None
    people = (longer[differs] > 0).astype(float)
    model = wins(margins[differs] * longer[differs])
    return LengthBias(
        people=float(people.mean()),
        model=float(model.mean()),
        bias=stats.paired_difference(model, people, seed=seed),
        n=int(differs.sum()),
    )


def _invariances(
    model: PreTrainedModel,
    pairs: Sequence[Pair],
    chosen: np.ndarray,
    *,
    pad_id: int,
    seed: int,
    shown_as: str | None,
) -> tuple[stats.Estimate, float | None]:
    """Return what end-of-text adds to a score, and by how much padding changes one (it must not).

    The change is None if all answers fill the context.
    """
    rows = [pair.prompt + pair.chosen for pair in pairs]
    score = partial(score_ids, model, pad_id=pad_id)
    without_end = score([row[:-1] for row in rows], shown_as=shown_as and f"{shown_as} without end-of-text")
    cost = chosen[: len(rows)] - without_end
    limit = context_length(model)
    short = [row for row in rows if limit is None or len(row) + EXTRA_PADDING <= limit]
    shown_as = shown_as and f"{shown_as} with padding"
    padded = score(short, extra_padding=EXTRA_PADDING, shown_as=shown_as)
    change = np.abs(padded - score(short, shown_as=shown_as)).max() if short else None
    return stats.bootstrap_mean(cost, seed=seed), None if change is None else float(change)
