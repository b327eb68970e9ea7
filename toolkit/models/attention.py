"""How a model's layers are computed: the same functions by other kernels."""

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

_ROOT = math.sqrt(2 / math.pi)


@contextmanager
def attention(models: Sequence[PreTrainedModel], implementation: str) -> Iterator[None]:
    """Compute with another attention implementation of transformers meanwhile."""
    before = [attention_implementation(model) for model in models]
    for model in models:
        model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        for model, name in zip(models, before, strict=True):
            model.set_attn_implementation(name)


@contextmanager
def bf16_products(*, device_type: str, bf16: bool) -> Iterator[None]:
    """On a CPU that trains in bf16, let the products of fp32 matrices round their factors to it, too.

    They add up and answer in fp32: unlike bf16 logits, which near 10 are 0.03 apart, these are not rounded.
    For the steps that train only: sampling token by token takes three times as long with it (64 rows).
    PPO's head, 2,816 tokens of 192 and a vocabulary of 1,024, forward and backward on AMX: 13 ms, so 5 ms.
    """
    products = torch.backends.mkldnn.matmul
    if not bf16 or device_type != "cpu":
        yield
        return
    before = products.fp32_precision
    products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


@contextmanager
def fast_attention(models: Sequence[PreTrainedModel], *, device_type: str, bf16: bool) -> Iterator[None]:
    """Plain products of matrices where they are the fastest: in bf16 on a CPU.

    The kernel takes 29 ms there where plain products take 11 (16 answers, 3 heads, 125 tokens, 64 wide).
    """
    if bf16 and device_type == "cpu":
        with attention(models, "eager"):
            yield
    else:
        yield


def fuse_activations(*models: object) -> None:
    """Compute GPT-2's `gelu_new` in one kernel instead of eight: the same function but for rounding.

    PPO of 2 million parameters in fp32 on 2 cores: 1.3 times as many answers a second. What is no module is
    passed over.
    """
    for model in models:
        if not isinstance(model, nn.Module):
            continue
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if type(child) is NewGELUActivation:
                    setattr(parent, name, ACT2FN["gelu_pytorch_tanh"])


class _SigmoidGelu(nn.Module):
    """`gelu_pytorch_tanh` without gradients, by 0.5 (1 + tanh(u)) = sigmoid(2 u), exact but for rounding.

    A CPU's sigmoid is faster than its tanh: 786,432 numbers take 1.3 ms on one core of Zen 3, not 3.1.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if values.device.type != "cpu" or values.dtype != torch.float32:
            return functional.gelu(values, approximate="tanh")
        scaled = values * values
        scaled.mul_(2 * _ROOT * 0.044715).add_(2 * _ROOT).mul_(values)
        return scaled.sigmoid_().mul_(values)


@contextmanager
def fast_activations(model: PreTrainedModel) -> Iterator[None]:
    """Compute GPT-2's gelu by fewer and faster kernels meanwhile, where no gradient is wanted."""
    replaced = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, NewGELUActivation | GELUTanh)
    ]
    for parent, name, _ in replaced:
        setattr(parent, name, _SigmoidGelu())
    try:
        yield
    finally:
        for parent, name, child in replaced:
            setattr(parent, name, child)
