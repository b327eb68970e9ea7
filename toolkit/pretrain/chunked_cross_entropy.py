"""The head and its cross-entropy in blocks of positions, without ever holding the logits of all of them.

Legend: positions = rows * length of a micro-batch, width = of the hidden states, vocabulary = rows of the
head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, block: int, bf16: bool
) -> Tensor:  # fmt: skip
    """Return the mean cross-entropy of hidden (positions, width) @ weight.T (vocabulary, width), a scalar.

    The forward pass also computes the gradients, so that no logits are computed twice; products are in bf16
    if asked for, softmax and sums in fp32 (Wijmans et al., 2024, "Cut Your Losses in Large-Vocabulary
    Language Models", section 4, without its own kernels and without its filter of small gradients).
    """
    return _ChunkedCrossEntropy.apply(hidden, weight, targets, block, bf16)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, weight: Tensor, targets: Tensor, block: int, bf16: bool
    ) -> Tensor:
        dtype = torch.bfloat16 if bf16 else hidden.dtype
        values, matrix = hidden.detach().to(dtype), weight.detach().to(dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_grad = torch.empty_like(values)
        weight_grad = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, len(values), block):
            chunk, chunk_targets = values[start : start + block], targets[start : start + block, None]
            logits = (chunk @ matrix.T).float()  # (block, vocabulary)
            log_normaliser = logits.logsumexp(1, keepdim=True)
            total += (log_normaliser - logits.gather(1, chunk_targets)).sum()
            logits_grad = (logits - log_normaliser).exp_()  # softmax; the gradient is one less at the target
            logits_grad.scatter_add_(1, chunk_targets, torch.full_like(log_normaliser, -1.0))
            logits_grad = logits_grad.div_(len(values)).to(dtype)
            hidden_grad[start : start + block] = logits_grad @ matrix
            weight_grad += (logits_grad.T @ chunk).float()
        ctx.save_for_backward(hidden_grad.to(hidden.dtype), weight_grad.to(weight.dtype))
        return total / len(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, loss_grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * loss_grad, weight_grad * loss_grad, None, None, None
