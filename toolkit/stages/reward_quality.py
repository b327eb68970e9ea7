"""What a reward model is worth: how often it is right, when, and what else than the answer it listens to.

Shapes: pairs = preferences; each has a chosen and a rejected answer with a score each, and a margin, the
chosen one's score less the other's. Under Bradley and Terry (1952) sigmoid(margin) is the probability that
the model gives to the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from toolkit import stats
from toolkit.data.chat.pairs import HeldOutPairs, Pair, wins
from toolkit.stats.calibration import calibration

ANNOTATOR_BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the probability of what the annotator would rather say."""
INVARIANCE_PAIRS = 100
"""The first so many are scored again without their end, and with padding."""
EXTRA_PADDING = 16
"""Tokens to the right of every answer, which must not change its score."""


@torch.no_grad()
def scores(
    model: PreTrainedModel,
    rows: Sequence[list[int]],
    *,
    pad_id: int,
    batch_tokens: int = 16384,
    extra_padding: int = 0,
) -> np.ndarray:
    """Score whole conversations given as ids, (rows,) float64; read at the last token that is not padding."""
    result, start = np.zeros(len(rows)), 0
    by_length = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    while start < len(rows):
        longest = len(rows[by_length[start]]) + extra_padding
        batch = by_length[start : start + max(1, batch_tokens // longest)]
        ids = torch.full((len(batch), longest), pad_id)
        for place, row in enumerate(batch):
            ids[place, : len(rows[row])] = torch.tensor(rows[row])
        ids = ids.to(model.device)
        logits = model(input_ids=ids, attention_mask=(ids != pad_id).long(), use_cache=False).logits
        result[batch] = logits[:, 0].double().cpu().numpy()
        start += len(batch)
    return result


def pair_scores(
    model: PreTrainedModel, pairs: Sequence[Pair], *, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the chosen and of the rejected answers, (pairs,) each."""
    rows = [pair.prompt + pair.chosen for pair in pairs] + [pair.prompt + pair.rejected for pair in pairs]
    values = scores(model, rows, pad_id=pad_id)
    return values[: len(pairs)], values[len(pairs) :]


def measure(model: PreTrainedModel, held_out: HeldOutPairs, *, pad_id: int, seed: int) -> dict[str, Any]:
    """Everything that held-out preferences say of a reward model, as it goes into evaluation.json.

    Accuracy counts a tie half. `bayes_accuracy` and `gold_accuracy` are None for people's preferences.
    """
    if not held_out.pairs:
        return {"accuracy": None, "accuracy_interval": None, "n": 0, "bayes_accuracy": None}
    chosen, rejected = pair_scores(model, held_out.pairs, pad_id=pad_id)
    both, margins = np.concatenate([chosen, rejected]), chosen - rejected
    return {
        **stats.bootstrap_share(wins(margins), seed=seed).as_json("accuracy"),
        "ties": int((margins == 0).sum()),
        "n": len(held_out.pairs),
        "bayes_accuracy": held_out.bayes_accuracy(),
        **_gold_accuracy(margins, held_out.utility_margin, seed),
        "held_out_loss": float(np.logaddexp(0, -margins).mean()),
        "margin": float(margins.mean()),
        "score_mean": float(both.mean()),
        "score_std": float(both.std()),
        "calibration": confidence(margins, seed=seed),
        "by_annotator": by_annotator(margins, held_out.probability),
        "length_bias": length_bias(margins, held_out.pairs, seed=seed),
        **_invariances(model, held_out.pairs[:INVARIANCE_PAIRS], chosen, pad_id=pad_id, seed=seed),
    }


def _gold_accuracy(margins: np.ndarray, utility_margins: Sequence[float | None], seed: int) -> dict[str, Any]:
    """How often the reward model agrees with the true utility, which the noisy labels only follow."""
    known = [i for i, utility in enumerate(utility_margins) if utility]
    if not known:
        return {"gold_accuracy": None, "gold_accuracy_interval": None}
    signs = np.sign([utility_margins[i] for i in known])
    return stats.bootstrap_share(wins(margins[known] * signs), seed=seed).as_json("gold_accuracy")


def confidence(margins: np.ndarray, *, seed: int) -> dict[str, Any]:
    """Whether the model is right as often as it says: sigmoid(|margin|) of what it prefers, and the labels.

    `slope` below 1 says that it is too sure. With `bins`, the points of the reliability diagram.
    """
    return calibration(1 / (1 + np.exp(-np.abs(margins))), wins(margins), seed=seed).as_json()


def by_annotator(margins: np.ndarray, probability: Sequence[float | None]) -> list[dict[str, Any]]:
    """Accuracy where annotators hardly and where they always agree: of pairs with such a probability of what
    they would rather say, beside the accuracy of one who knows it; empty where it is not known."""
    known = np.array([p is not None for p in probability])
    if not known.any():
        return []
    right = wins(margins)[known]
    given = np.array([p for p in probability if p is not None])
    agreement = np.maximum(given, 1 - given)
    rows = []
    for low, high in pairwise(ANNOTATOR_BINS):
        inside = (agreement >= low) & ((agreement < high) | (high == ANNOTATOR_BINS[-1]))
        if inside.any():
            share = stats.wilson(float(right[inside].sum()), int(inside.sum()))
            bayes = float(agreement[inside].mean())
            rows.append({"agreement": [low, high], "n": share.n, **share.as_json("accuracy"), "bayes": bayes})
    return rows


def length_bias(margins: np.ndarray, pairs: Sequence[Pair], *, seed: int) -> dict[str, Any] | None:
    """How much more often the model prefers the longer answer than people did; None without such pairs.

    `bias` is the difference of the two shares, over pairs whose answers differ in length, in tokens.
    """
    longer = np.array([np.sign(len(pair.chosen) - len(pair.rejected)) for pair in pairs])
    differs = longer != 0
    if not differs.any():
        return None
    people = (longer[differs] > 0).astype(float)
    model = wins(margins[differs] * longer[differs])
    return {
        "people": float(people.mean()),
        "model": float(model.mean()),
        **stats.paired_difference(model, people, seed=seed).as_json("bias"),
        "n": int(differs.sum()),
    }


def _invariances(
    model: PreTrainedModel, pairs: Sequence[Pair], chosen: np.ndarray, *, pad_id: int, seed: int
) -> dict[str, Any]:
    """What a missing end-of-text costs an answer, and what padding does, which must be nothing."""
    whole = [pair.prompt + pair.chosen for pair in pairs]
    cost = chosen[: len(whole)] - scores(model, [row[:-1] for row in whole], pad_id=pad_id)
    positions = getattr(model.config, "max_position_embeddings", None)
    room = [row for row in whole if positions is None or len(row) + EXTRA_PADDING <= positions]
    padded = scores(model, room, pad_id=pad_id, extra_padding=EXTRA_PADDING)
    change = np.abs(padded - scores(model, room, pad_id=pad_id)).max() if room else None
    return {
        **stats.bootstrap_mean(cost, seed=seed).as_json("end_of_text"),
        "padding": None if change is None else float(change),
    }
