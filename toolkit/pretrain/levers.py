"""Which of training's fast paths a model allows; those that it does not allow are switched off."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Levers:
    """The fast paths that compute what a model computes itself. All hold for models from random weights.

    Attributes:
        causal_attention: `loss.causal_attention` in place of the model's own attention.
        plain_head: the logits are the head, a matrix, times the last hidden states, so that they can be
            computed in blocks.
    """

    causal_attention: bool = True
    plain_head: bool = True


ALL = Levers()
