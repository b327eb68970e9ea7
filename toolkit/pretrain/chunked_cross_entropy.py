"""The head and its cross-entropy a block of positions at a time: the logits of all of them never exist.

Legend: positions = rows * length of a micro-batch, width = of the hidden states, vocabulary = rows of the
head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def blockwise_loss(hidden: Tensor, weight: Tensor, targets: Tensor, *, block: int, bf16: bool) -> Tensor:
    """Return the mean cross-entropy of hidden (positions, width) @ weight.T (vocabulary, width), a scalar.

    The gradients are made with the logits at hand, so none are computed twice; products are in bf16 if asked
    for, softmax and sums in fp32 (Wijmans et al., 2024, "Cut Your Losses in Large-Vocabulary Language
    Models", section 4, without its own kernels and without its filter of small gradients).
    """
    return _Blockwise.apply(hidden, weight, targets, block, bf16)


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, block: int, bf16: bool) -> Tensor:
        dtype = torch.bfloat16 if bf16 else hidden.dtype
        values, matrix = hidden.detach().to(dtype), weight.detach().to(dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_grad = torch.empty_like(values)
        weight_grad = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, len(values), block):
            part, wanted = values[start : start + block], targets[start : start + block, None]
            logits = (part @ matrix.T).float()  # (block, vocabulary)
            highest = logits.logsumexp(1, keepdim=True)
            total += (highest - logits.gather(1, wanted)).sum()
            slope = (logits - highest).exp_()  # softmax; minus one at the target it is the gradient
            slope.scatter_add_(1, wanted, torch.full_like(highest, -1.0))
            slope = slope.div_(len(values)).to(dtype)
            hidden_grad[start : start + block] = slope @ matrix
            weight_grad += (slope.T @ part).float()
        ctx.save_for_backward(hidden_grad.to(hidden.dtype), weight_grad.to(weight.dtype))
        return total / len(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * slope, weight_grad * slope, None, None, None
