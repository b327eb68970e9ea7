"""Random initial weights of a model of any architecture, from named random streams."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import PreTrainedModel

from toolkit.base.rng import derive

INITIAL_STD = 0.02
"""Standard deviation of the initial weights (Radford et al., 2019)."""


@torch.no_grad()
def draw(model: PreTrainedModel, seed: int, *, layers: int, residual: tuple[str, ...]) -> None:
    """Draw all weights as GPT-2 does: N(0, 0.02), residual projections smaller by sqrt(2 * layers).

    Norms start at one and biases at zero (Radford et al., 2019, section 2.3: 1/sqrt(N) for N residual
    additions). Every parameter draws from its own stream of `seed`.

    Args:
        residual: how the names of the matrices that write to the residual stream end.
    """
    residual_std = INITIAL_STD / math.sqrt(2 * layers)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            (nn.init.zeros_ if name.endswith("bias") else nn.init.ones_)(parameter)
            continue
        generator = torch.Generator().manual_seed(derive(seed, "initial weights", name))
        std = residual_std if name.endswith(residual) else INITIAL_STD
        parameter.normal_(0.0, std, generator=generator)


@torch.no_grad()
def pad_vocabulary(model: PreTrainedModel, vocab_size: int) -> None:
    """Set the rows of the embedding after `vocab_size` to zero, and exclude them from sampling.

    They stay in the softmax, so whatever probability they get counts against the model in every loss and
    every measurement; training makes them improbable within some hundred steps.
    `generation_config.suppress_tokens` names them, so that `generate` never draws one, not even from an
    untrained model.
    """
    weight = model.get_input_embeddings().weight
    weight[vocab_size:] = 0
    if len(weight) > vocab_size:
        model.generation_config.suppress_tokens = list(range(vocab_size, len(weight)))
