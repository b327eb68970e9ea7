"""Estimates of the memory in which a checkpoint is trained, from its shape; no torch import.

w = width of a hidden state, i = the largest side of a linear layer (inside the MLP), T = tokens of a row,
tokens = of one forward pass, both answers of pairs included. It is an estimate for a transformer of the usual
kind, with an MLP with or without a gate; what an architecture adds, such as experts, is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.config.schema import LoraSettings
from toolkit.models.checkpoint_shape import CheckpointShape
from toolkit.models.memory import LIBRARIES, SLACK

TRL_LIBRARIES = LIBRARIES + 420 * 2**20
"""Resident bytes of a process after importing trl and datasets, too, and peft."""
LOGIT_BYTES = 14
"""Of each logit: in fp32, its softmax and its gradient, and in bf16 before them."""


@dataclass(frozen=True)
class Pass:
    """What one process computes at once.

    Attributes:
        tokens: of one forward pass, padding included.
        length: tokens of a row.
        scored: positions with logits; 0 for a reward model.
        bf16: whether products are computed in bf16.
        checkpointed: whether activations inside a layer are computed again.
    """

    tokens: int
    length: int
    scored: int
    bf16: bool
    on_gpu: bool
    checkpointed: bool = False


def parts(
    shape: CheckpointShape, computed: Pass, *, state: int, lora: LoraSettings | None = None
) -> dict[str, int]:
    """Return the bytes of each part of one process.

    Args:
        state: of weights, gradients and optimizer, `CheckpointShape.state_bytes`.
    """
    layer = computed.tokens * _layer_bytes(shape, computed, lora)
    kept = computed.tokens * shape.width * 4 * shape.layers + layer if computed.checkpointed else None
    return {
        "libraries": TRL_LIBRARIES,
        "state": state,
        # autocast keeps a copy in bf16 of each weight that multiplies
        "copies": 2 * shape.multiplying * computed.bf16,
        "activations": kept or shape.layers * layer,
        "logits": LOGIT_BYTES * computed.scored * shape.vocabulary,
    }


def peak(needed: dict[str, int]) -> int:
    """Return the bytes of one process at its peak."""
    return needed["libraries"] + int(SLACK * sum(needed.values()) - SLACK * needed["libraries"])


def _layer_bytes(shape: CheckpointShape, computed: Pass, lora: LoraSettings | None) -> int:
    """Return the bytes that one layer keeps for each token.

    The inputs of 2 norms before and after the division (fp32: 16 w), and in the dtype of the products the
    outputs of the norms, query, key and value, attention (6 w), and 4 tensors inside an MLP (i each).
    """
    size = 2 if computed.bf16 else 4
    sides = [max(pair) for pair in shape.linear.values()] or [4 * shape.width]
    total = 16 * shape.width + size * (6 * shape.width + 4 * max(sides))
    if lora is not None:
        # the input of each adapter in fp32, of which autocast makes a copy
        inputs = sum(shape.linear_inputs(lora)) // max(1, shape.layers)
        total += inputs * (6 if computed.bf16 else 0)
    if computed.bf16 and not computed.on_gpu and shape.attention_width:
        # plain matrix products instead of the fused kernel: scores and shares, in fp32, too
        total += 8 * shape.heads * computed.length
    return total
