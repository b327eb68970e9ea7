"""The next-token distribution of a model, for `toolkit next` and the Python interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from toolkit.base.rng import derive
from toolkit.inference.opening import OpenModel
from toolkit.inference.sampling import forbidden_bias
from toolkit.inference.token_text import token_text
from toolkit.models.checks import require_finite
from toolkit.models.description import forward


@dataclass(frozen=True)
class Prediction:
    """The distribution of one next token, and the token that was chosen.

    Attributes:
        tokens, probabilities: the most probable tokens, in descending order.
        entropy_bits: of the whole distribution; 2 ** entropy_bits equally likely tokens are as uncertain.
        rest: probability of all tokens that are not listed.
        chosen: the token that was appended to the text.
        rank: of the chosen token; 1 is the most probable.
        chosen_probability: of the chosen token.
    """

    tokens: list[int]
    probabilities: list[float]
    entropy_bits: float
    rest: float
    chosen: int
    rank: int
    chosen_probability: float


def follow(
    opened: OpenModel, ids: list[int], *, top: int, steps: int, temperature: float, seed: int
) -> list[Prediction]:
    """Predict and append `steps` tokens; stops after a stop token.

    Beyond the context length the oldest tokens are dropped.

    Args:
        top: tokens to list in each prediction.
        temperature: 0 chooses the most probable token.
    """
    generator, ids, predictions = np.random.default_rng(derive(seed, "next")), list(ids), []
    options = {"top": top, "temperature": temperature, "generator": generator, "allowed": allowed(opened)}
    for _ in range(steps):
        if opened.context_length is not None and len(ids) > opened.context_length:
            ids = ids[-opened.context_length :]
        predictions.append(choose(distribution(opened, ids), **options))
        ids.append(predictions[-1].chosen)
        if ids[-1] in opened.stop_tokens.ids:
            break
    return predictions


def allowed(opened: OpenModel) -> np.ndarray:
    """Return which tokens can be sampled, (vocabulary,) bool: all but padding."""
    ends = opened.stop_tokens.ids
    bias = forbidden_bias(opened.model, pad_id=opened.tokenizer.pad_token_id, end_id=ends)
    return (bias == 0).cpu().numpy()


@torch.no_grad()
def distribution(opened: OpenModel, ids: list[int]) -> np.ndarray:
    """Return the probabilities of the next token, (vocabulary,) float64, over all entries as in scoring.

    Raises:
        ToolkitError: the model's logits are not finite.
    """
    model = opened.model
    ids = torch.tensor([ids], device=model.device)
    logits = forward(model, ids, use_cache=False, logits_to_keep=1).logits[0, -1]
    require_finite(logits, model)
    return torch.softmax(logits.float().cpu().double(), dim=0).numpy()


def entropy_bits(probabilities: np.ndarray) -> float:
    """Return the entropy of a distribution in bits."""
    positive = probabilities[probabilities > 0]
    return max(0.0, float(-(positive * np.log2(positive)).sum()))


def choose(
    probabilities: np.ndarray,
    *,
    top: int,
    temperature: float,
    generator: np.random.Generator,
    allowed: np.ndarray | None = None,
) -> Prediction:
    """Summarise a distribution and choose a token from it.

    Args:
        allowed: tokens that may be listed and chosen, (vocabulary,) bool; None allows all.
    """
    possible = probabilities if allowed is None else np.where(allowed, probabilities, 0.0)
    order = np.argsort(-possible, kind="stable")
    listed = order[:top][possible[order[:top]] > 0]
    if temperature == 0:
        chosen = int(order[0])
    else:
        logits = np.log(np.maximum(possible, 1e-300)) / temperature
        weights = np.where(possible > 0, np.exp(logits - logits.max()), 0.0)
        chosen = int(generator.choice(len(weights), p=weights / weights.sum()))
    return Prediction(
        tokens=listed.tolist(),
        probabilities=probabilities[listed].tolist(),
        entropy_bits=entropy_bits(probabilities),
        rest=max(0.0, 1.0 - float(probabilities[listed].sum())),
        chosen=chosen,
        rank=int(np.flatnonzero(order == chosen)[0]) + 1,
        chosen_probability=float(probabilities[chosen]),
    )


def as_json(
    opened: OpenModel,
    predictions: list[Prediction],
    about: dict[str, Any],
    truths: Sequence[Mapping[int, float] | None] | None = None,
) -> dict[str, Any]:
    """Return the first prediction at the top level, and all of them under `steps`.

    Args:
        truths: token -> true probability at each prediction, None where it is unknown.
    """
    steps = []
    for index, prediction in enumerate(predictions):
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
                    "probability": prediction.chosen_probability,
                },
                **({} if truths is None else {"truth": truths[index]}),
            }
        )
    return {**about, **steps[0], "steps": steps}
