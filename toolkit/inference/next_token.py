"""`toolkit next`: what a model expects next, as numbers and bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from toolkit.base.rng import derive
from toolkit.inference.opening import OpenModel
from toolkit.inference.sampling import forbidden_bias
from toolkit.inference.token_text import token_text


@dataclass(frozen=True)
class Prediction:
    """The distribution of one next token.

    Attributes:
        tokens, probabilities: the most probable ones, in that order.
        entropy_bits: of the whole distribution; 2 ** entropy equally likely tokens would be as uncertain.
        rest: probability of all tokens that are not listed.
        chosen, rank, chance: the token that was followed, its place (1 is the most probable) and probability.
    """

    tokens: list[int]
    probabilities: list[float]
    entropy_bits: float
    rest: float
    chosen: int
    rank: int
    chance: float


def follow(
    opened: OpenModel, ids: list[int], *, top: int, steps: int, temperature: float, seed: int
) -> list[Prediction]:
    """Predict, choose, append, and predict again; stops after end-of-text or a full context window."""
    generator, ids, predictions = np.random.default_rng(derive(seed, "next")), list(ids), []
    choice = {"top": top, "temperature": temperature, "generator": generator, "allowed": allowed(opened)}
    for _ in range(steps):
        if opened.positions is not None and len(ids) > opened.positions:
            ids = ids[-opened.positions :]
        probabilities = distribution(opened, ids)
        predictions.append(choose(probabilities, **choice))
        ids.append(predictions[-1].chosen)
        if ids[-1] == opened.end_id:
            break
    return predictions


def allowed(opened: OpenModel) -> np.ndarray:
    """Which tokens can be sampled, (vocabulary,) bool: not the padding."""
    bias = forbidden_bias(opened.model, pad_id=opened.tokenizer.pad_token_id, end_id=opened.end_id)
    return (bias == 0).cpu().numpy()


@torch.no_grad()
def distribution(opened: OpenModel, ids: list[int]) -> np.ndarray:
    """Probabilities of the next token, (vocabulary,) float64, as in scoring: what padding takes is lost."""
    model = opened.model
    logits = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
    return torch.softmax(logits.float().double().cpu(), dim=0).numpy()


def choose(
    probabilities: np.ndarray,
    *,
    top: int,
    temperature: float,
    generator: np.random.Generator,
    allowed: np.ndarray | None = None,
) -> Prediction:
    """Sum up a distribution and choose one token of it.

    Args:
        allowed: tokens that may be listed and chosen, (vocabulary,) bool; None allows all.
    """
    possible = probabilities if allowed is None else np.where(allowed, probabilities, 0.0)
    order = np.argsort(-possible, kind="stable")
    listed = order[:top][possible[order[:top]] > 0]  # what can never come is no candidate
    positive = probabilities[probabilities > 0]
    if temperature == 0:
        chosen = int(order[0])
    else:
        logits = np.log(np.maximum(possible, 1e-300)) / temperature
        weights = np.where(possible > 0, np.exp(logits - logits.max()), 0.0)
        chosen = int(generator.choice(len(weights), p=weights / weights.sum()))
    return Prediction(
        tokens=listed.tolist(),
        probabilities=probabilities[listed].tolist(),
        entropy_bits=float(-(positive * np.log2(positive)).sum()),
        rest=max(0.0, 1.0 - float(probabilities[listed].sum())),
        chosen=chosen,
        rank=int(np.flatnonzero(order == chosen)[0]) + 1,
        chance=float(probabilities[chosen]),
    )


def as_json(opened: OpenModel, predictions: list[Prediction], about: dict[str, Any]) -> dict[str, Any]:
    """The first prediction at the top, and every step under `steps`."""
    steps = []
    for prediction in predictions:
        candidates = [
            {"rank": rank, "id": token, "token": token_text(opened.tokenizer, token), "probability": share}
            for rank, (token, share) in enumerate(
                zip(prediction.tokens, prediction.probabilities, strict=True), 1
            )
        ]
        steps.append(
            {
                "candidates": candidates,
                "entropy_bits": prediction.entropy_bits,
                "rest": prediction.rest,
                "chosen": {
                    "id": prediction.chosen,
                    "token": token_text(opened.tokenizer, prediction.chosen),
                    "rank": prediction.rank,
                    "probability": prediction.chance,
                },
            }
        )
    return {**about, **steps[0], "steps": steps}
