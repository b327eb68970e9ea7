"""The kernels that compute a model's layers: faster ones for the same functions, equal up to rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.activations import ACT2FN, GELUTanh, NewGELUActivation

from toolkit.runtime.upstream_private import attention_implementation

_SLOPE = 2 * math.sqrt(2 / math.pi)
_CUBIC = _SLOPE * 0.044715
"""Coefficients of 2 u = slope * x + cubic * x^3, the argument of the sigmoid in `SigmoidGelu`."""


@contextmanager
def use_attention(models: Sequence[PreTrainedModel], name: str) -> Iterator[None]:
    """Use another of transformers' attention implementations inside the block."""
    previous = [attention_implementation(model) for model in models]
    for model in models:
        model.set_attn_implementation(name)
    try:
        yield
    finally:
        for model, previous_name in zip(models, previous, strict=True):
            model.set_attn_implementation(previous_name)


@contextmanager
def fastest_attention(models: Sequence[PreTrainedModel], *, device_type: str, bf16: bool) -> Iterator[None]:
    """Use the fastest attention for training: plain matrix products in bf16 on a CPU, else the model's own.

    On a CPU in bf16 the fused kernel takes 29 ms where matrix products take 11 ms (16 answers, 3 heads, 125
    tokens, head width 64).
    """
    if bf16 and device_type == "cpu":
        with use_attention(models, "eager"):
            yield
    else:
        yield


@contextmanager
def bf16_matmul(*, device_type: str, bf16: bool) -> Iterator[None]:
    """Round the factors of fp32 matrix products to bf16 on a CPU that trains in bf16.

    Products are accumulated and returned in fp32, unlike bf16 logits, whose spacing near 10 is 0.03. Use it
    for training steps only: sampling token by token takes three times as long with it (64 rows).
    PPO's head (2,816 tokens, width 192, vocabulary 1,024), forward and backward on AMX: 5 ms, not 13 ms.
    """
    matmul = torch.backends.mkldnn.matmul
    if not bf16 or device_type != "cpu":
        yield
        return
    previous = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = previous


class SigmoidGelu(nn.Module):
    """`gelu_pytorch_tanh` as x * sigmoid(2 u), because 0.5 (1 + tanh(u)) = sigmoid(2 u).

    u = sqrt(2 / pi) (x + 0.044715 x^3). A CPU computes the vectorised exp faster than tanh, if a compiler
    fuses the other operations.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the activation of values of any shape."""
        return values * torch.sigmoid(values * (_SLOPE + _CUBIC * values * values))


class InPlaceSigmoidGelu(nn.Module):
    """`SigmoidGelu` without gradients and without a compiler, in one buffer.

    786,432 values take 1.3 ms on one core of Zen 3, with tanh 3.1 ms. The order of operations differs from
    `SigmoidGelu`, so the two differ by rounding; the bits of existing runs depend on both orders.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the activation of values of any shape; on a GPU or not in fp32 by PyTorch's kernel."""
        if values.device.type != "cpu" or values.dtype != torch.float32:
            return functional.gelu(values, approximate="tanh")
        result = values * values
        result.mul_(_CUBIC).add_(_SLOPE).mul_(values)
        return result.sigmoid_().mul_(values)


def fuse_gelu(*models: object) -> None:
    """Replace GPT-2's `gelu_new`, eight kernels, by the equal `gelu_pytorch_tanh`, one kernel; for training.

    PPO of 2 million parameters in fp32 on 2 cores makes 1.3 times as many answers per second. Arguments that
    are not modules are ignored.
    """
    for model in models:
        if not isinstance(model, nn.Module):
            continue
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if type(child) is NewGELUActivation:
                    setattr(parent, name, ACT2FN["gelu_pytorch_tanh"])


@contextmanager
def inference_gelu(model: PreTrainedModel) -> Iterator[None]:
    """Compute GPT-2's gelu with `InPlaceSigmoidGelu` inside the block, which must not need gradients."""
    replaced = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, NewGELUActivation | GELUTanh)
    ]
    for parent, name, _ in replaced:
        setattr(parent, name, InPlaceSigmoidGelu())
    try:
        yield
    finally:
        for parent, name, child in replaced:
            setattr(parent, name, child)
