"""Attention weights of a model for a text, and what its heads do, in numbers.

Shapes: heads = of one layer, length = tokens of the text. `weights[head, i, j]` is how much position i takes
from position j, as the layer itself computes it, after the softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from toolkit.base.errors import ToolkitError
from toolkit.models import checks
from toolkit.models.description import describe, forward, text_config
from toolkit.models.kernels import use_attention

CLEAR = 0.2
"""By how much a head must exceed one that looks at all positions alike for its role to be named."""
SMALLEST_REST = 1e-6
"""Below this share besides the first position nothing is renormalised: it would show rounding."""


@dataclass(frozen=True)
class Attention:
    """The attention weights of every layer that has any.

    Attributes:
        weights: (heads, length, length) float32 of each of these layers.
        layers: all layers of the model; some architectures have layers without attention.
        logits: (length, vocabulary) of the same pass.
    """

    weights: list[np.ndarray]
    layers: int
    logits: torch.Tensor


@torch.no_grad()
def attention(model: PreTrainedModel, ids: Sequence[int]) -> Attention:
    """Return the attention weights for a text.

    Fused kernels do not return weights, so that the pass uses transformers' `eager` attention, and the
    model's own afterwards. Both must give the same logits: Falcon's do not if it is asked for weights
    (transformers 5.23).

    Raises:
        ToolkitError: the architecture has no attention, or does not return its weights.
    """
    given = torch.tensor([list(ids)], device=model.device)
    own = forward(model, given, use_cache=False).logits[0]
    with use_attention([model], "eager"):
        output = forward(model, given, use_cache=False, output_attentions=True)
    found = [layer for layer in getattr(output, "attentions", None) or () if layer is not None]
    shape = (len(ids), len(ids))
    if not found or any(layer.ndim != 4 or tuple(layer.shape[-2:]) != shape for layer in found):
        raise _unavailable(model, "has no attention weights")
    weights = [layer[0].float().cpu() for layer in found]
    causal = all(float(layer.triu(1).abs().max()) == 0 and float(layer.min()) >= 0 for layer in weights)
    if not causal or not checks.agree(output.logits[0], own, model=model, within=checks.ROUNDING):
        raise _unavailable(model, "does not return the attention weights that it uses")
    return Attention([layer.numpy() for layer in weights], text_config(model.config).num_hidden_layers, own)


def _unavailable(model: PreTrainedModel, what: str) -> ToolkitError:
    return ToolkitError(
        f"a {describe(model).class_name} {what}",
        where="attention",
        fix="choose a model such as a GPT-2 or a Llama",
    )


def without_first(weights: np.ndarray) -> np.ndarray:
    """Return weights without the first position, renormalised; NaN in rows where nothing is left.

    Many heads rest on the first position where they have nothing to look for, the attention sink (Xiao et
    al., 2023, https://arxiv.org/abs/2309.17453).

    Args:
        weights: (..., length, length).
    """
    kept = weights.astype(np.float64)
    kept[..., 0] = 0
    rest = kept.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(rest > SMALLEST_REST, kept / rest, np.nan)


@dataclass(frozen=True)
class HeadScores:
    """What each head of a layer does in a text: means over positions, (heads,) float64.

    Positions are counted from 0. Elhage et al. (2021) and Olsson et al. (2022,
    https://arxiv.org/abs/2209.11895) define previous-token and induction heads by such means.

    Attributes:
        first: weight on position 0, over positions i >= 1.
        previous: weight on position i - 1, over i >= 2.
        same: weight on all earlier positions j >= 1 with the token of i, over the i that have one; None if
            no token of the text repeats.
        induction: weight on all positions j + 1 < i that follow such a j, over the i that have one; None if
            there is none.
        entropy_bits: entropy of the weights, over i >= 1.
    """

    first: np.ndarray
    previous: np.ndarray
    same: np.ndarray | None
    induction: np.ndarray | None
    entropy_bits: np.ndarray


def head_scores(weights: np.ndarray, ids: Sequence[int]) -> HeadScores:
    """Return what each head does; `weights` is (heads, length, length) of a text of at least 3 tokens."""
    values, tokens, length = weights.astype(np.float64), np.asarray(ids), len(ids)
    equal = np.tril(tokens[:, None] == tokens[None, :], k=-1)
    equal[:, 0] = False
    after = np.zeros_like(equal)
    after[:, 1:] = equal[:, :-1]
    after &= np.tri(length, k=-1, dtype=bool)
    logs = np.log2(values, out=np.zeros_like(values), where=values > 0)
    return HeadScores(
        first=values[:, 1:, 0].mean(axis=1),
        previous=values[:, np.arange(2, length), np.arange(1, length - 1)].mean(axis=1),
        same=_mean_on(values, equal),
        induction=_mean_on(values, after),
        entropy_bits=-(values * logs).sum(axis=2)[:, 1:].mean(axis=1),
    )


def roles(scores: HeadScores, chance: HeadScores) -> list[str | None]:
    """Return where each head looks most: `first`, `previous`, `same`, `induction`; None if nowhere clearly.

    Args:
        chance: of `uniform` weights in the same text.
    """
    excess = {
        name: getattr(scores, name) - getattr(chance, name)
        for name in ("first", "previous", "same", "induction")
        if getattr(scores, name) is not None
    }
    best = [max(excess, key=lambda name: excess[name][head]) for head in range(len(scores.first))]
    return [name if excess[name][head] >= CLEAR else None for head, name in enumerate(best)]


def _mean_on(values: np.ndarray, places: np.ndarray) -> np.ndarray | None:
    """Return the mean weight of each head on `places` (length, length), over the rows that have any."""
    rows = places.any(axis=1)
    return (values * places).sum(axis=2)[:, rows].mean(axis=1) if rows.any() else None


def uniform(length: int) -> np.ndarray:
    """Return the weights of a head that looks at all positions alike, (1, length, length)."""
    return (np.tri(length) / np.arange(1, length + 1)[:, None])[None]


def pooled(weights: np.ndarray, side: int) -> np.ndarray:
    """Return the largest weight in each of at most `side` x `side` equal squares, for small pictures.

    Args:
        weights: (heads, length, length).
    """
    length = weights.shape[-1]
    block = -(-length // side)
    pad = -length % block
    padded = np.pad(weights, ((0, 0), (0, pad), (0, pad)))
    count = padded.shape[-1] // block
    return padded.reshape(len(weights), count, block, count, block).max(axis=(2, 4))
