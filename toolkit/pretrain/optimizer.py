"""AdamW, and Muon for the matrices of the transformer blocks; their state as named tensors.

Legend: layers = matrices of one shape, stacked; inputs, outputs = sides of a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel

from toolkit.base.errors import ToolkitError
from toolkit.config.schema import OptimizerSettings
from toolkit.models.architectures import blocks
from toolkit.pretrain import sharding

ADAM_LEARNING_RATE = 1e-3
ADAM_LEARNING_RATE_WITH_MUON = 3e-3
MUON_LEARNING_RATE = 0.02
CHECKPOINT_SCALE = 0.1
"""Learning rates that are not set are this fraction of the above where training goes on from a checkpoint."""
MUON_MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (Jordan, 2024, https://kellerjordan.github.io/posts/muon/)."""

NEWTON_SCHULZ_STEPS = 5
CONV1D_NAMES = ("c_attn", "c_proj", "c_fc")
"""GPT-2's matrices, which are stored transposed."""
LINEAR_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The matrices of Llama and of models built like it (Mistral, Qwen2, Qwen3, Gemma ...)."""
MAX_GATHERED_ELEMENTS = 2**26
"""Elements of sharded matrices that are gathered together (256 MB in fp32): gathering those of all blocks
would take as much memory as the full weights."""


def build(
    model: PreTrainedModel, settings: OptimizerSettings, *, bf16: bool = False, from_checkpoint: bool = False
) -> list[Optimizer]:
    """Return the optimizers of a model; each parameter group's `peak_lr` is its highest learning rate.

    Weight decay applies to matrices, not to norms and biases (Brown et al., 2020, as in nanoGPT).

    Args:
        bf16: Muon iterates in bfloat16; its state and the weights stay in fp32.
        from_checkpoint: the weights are trained ones; learning rates that are not set are lower.

    Raises:
        ToolkitError: muon for a model whose matrices it does not know.
    """
    scale = CHECKPOINT_SCALE if from_checkpoint else 1.0
    named = list(model.named_parameters())
    muon = settings.name == "muon"
    in_blocks = _block_matrices(model) if muon else set()
    matrices = [(name, parameter) for name, parameter in named if id(parameter) in in_blocks]
    rate = settings.learning_rate or scale * ADAM_LEARNING_RATE
    if muon:
        rate = settings.adam_learning_rate or scale * ADAM_LEARNING_RATE_WITH_MUON
        named = [(name, parameter) for name, parameter in named if id(parameter) not in in_blocks]
    groups = [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = [
        AdamW(groups, lr=rate, betas=(settings.beta1, settings.beta2), eps=1e-8, fused=settings.fused)
    ]
    if muon:
        optimizers.append(Muon(
            matrices, lr=settings.learning_rate or scale * MUON_LEARNING_RATE,
            weight_decay=settings.weight_decay, steps=settings.muon_steps,
            dtype=torch.bfloat16 if bf16 else torch.float32,
        ))  # fmt: skip
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _block_matrices(model: PreTrainedModel) -> set[int]:
    """Return the ids of the parameters that Muon updates: the matrices inside the transformer blocks.

    Raises:
        ToolkitError: a matrix that may be several in one, such as fused queries, keys and values or stacked
            experts, whose parts would have to be orthogonalised separately.
    """
    known = CONV1D_NAMES if model.config.model_type == "gpt2" else LINEAR_NAMES
    matrices: set[int] = set()
    for block in blocks(model):
        for name, parameter in block.named_parameters():
            if parameter.ndim < 2:
                continue
            layer = name.removesuffix(".weight").rpartition(".")[2]
            if layer not in known or parameter.ndim > 2:
                raise ToolkitError(
                    f"muon does not know the matrix {name} of {model.config.model_type}",
                    where="optimizer.name", fix="use name: adamw",
                )  # fmt: skip
            matrices.add(id(parameter))
    if not matrices:
        raise ToolkitError(
            f"muon finds no blocks in {model.config.model_type}", where="optimizer.name",
            fix="use name: adamw",
        )  # fmt: skip
    return matrices


class Muon(Optimizer):
    """Momentum, orthogonalised by Newton-Schulz (Jordan et al., 2024), for the matrices of the blocks.

    As torch.optim.Muon with its default adjustment of the learning rate, except:
    * GPT-2's `Conv1D` stores (inputs, outputs) where `Linear` stores (outputs, inputs), so the factor
      sqrt(max(1, outputs / inputs)) swaps the sides; torch's would halve the step of c_fc and double that of
      mlp.c_proj;
    * the query, key and value matrices that GPT-2's `c_attn` concatenates are orthogonalised separately;
    * matrices of the same shape are iterated as one batch.

    Args:
        named: (name, parameter) of the matrices; the names of `Conv1D` matrices contain `c_attn`, `c_proj` or
            `c_fc`.
        dtype: of the iteration. It was tuned in bfloat16, which takes 49 instead of 112 ms for 4 layers of
            192 on a CPU core that supports it.
        steps: number of iterations.
    """

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], *, lr: float, weight_decay: float,
        dtype: torch.dtype = torch.float32, steps: int = NEWTON_SCHULZ_STEPS,
    ):  # fmt: skip
        named = list(named)
        conv1d = [(name, p) for name, p in named if any(word in name for word in CONV1D_NAMES)]
        linear = [p for name, p in named if not any(word in name for word in CONV1D_NAMES)]
        groups = [
            {"params": [p for name, p in conv1d if "c_attn" in name], "parts": 3, "outputs": 1},
            {"params": [p for name, p in conv1d if "c_attn" not in name], "parts": 1, "outputs": 1},
            {"params": linear, "parts": 1, "outputs": 0},
        ]
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": MUON_MOMENTUM}
        self.dtype, self.steps = dtype, steps
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all matrices that have a gradient; every process must call it if they are sharded."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, matrices in by_shape.items():
                sharded = sharding.is_sharded(matrices)
                count = max(1, MAX_GATHERED_ELEMENTS // shape.numel()) if sharded else len(matrices)
                for first in range(0, len(matrices), count):
                    self._update(matrices[first : first + count], group)

    def _update(self, matrices: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Update matrices of the same shape.

        The iteration needs full matrices. If they are sharded, each process gathers them, does the same
        arithmetic as with full weights, and keeps its part of the result.
        """
        parts, rate = group["parts"], group["lr"]
        updates = [sharding.full_tensor(self._nesterov(matrix, group["momentum"])) for matrix in matrices]
        stacked = torch.stack([part for update in updates for part in update.chunk(parts, dim=1)])
        del updates
        sides = stacked.shape[1:]
        scale = math.sqrt(max(1.0, sides[group["outputs"]] / sides[1 - group["outputs"]]))
        directions = orthogonalise(stacked.to(self.dtype), self.steps).to(stacked.dtype)
        for matrix, direction_parts in zip(matrices, directions.split(parts), strict=True):
            direction = sharding.shard_like(matrix, torch.cat(tuple(direction_parts), dim=1))
            local = sharding.local_part(matrix)
            local.mul_(1 - rate * group["weight_decay"])
            local.add_(sharding.local_part(direction), alpha=-rate * scale)

    def _nesterov(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Return the gradient after Nesterov momentum, sharded as the gradient is."""
        state, grad = self.state[parameter], parameter.grad
        assert grad is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"]
        buffer.lerp_(grad, 1 - momentum)
        return grad.lerp(buffer, momentum)


def orthogonalise(matrices: Tensor, steps: int = NEWTON_SCHULZ_STEPS) -> Tensor:
    """Map all singular values of (layers, inputs, outputs) to 0.7 to 1.2 and keep the singular vectors."""
    tall = matrices.shape[1] > matrices.shape[2]
    values = matrices.transpose(1, 2) if tall else matrices
    values = values / values.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    wide = values.shape[2] >= 2 * values.shape[1] and values.dtype == torch.float32
    values = _iterate_gram(values, steps) if wide else _iterate(values, steps)
    return values.transpose(1, 2) if tall else values


def _iterate(values: Tensor, steps: int) -> Tensor:
    """Apply the Newton-Schulz iteration to (layers, height, width), with height at most width."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        gram = values @ values.transpose(1, 2)
        values = torch.baddbmm(values, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), values, beta=a)
    return values


def _iterate_gram(values: Tensor, steps: int) -> Tensor:
    """Do as `_iterate` with products of the square matrix A = X X^T only: polynomials in it commute.

    X_k+1 = P_k X_k with P_k = a + b A_k + c A_k^2, so A_k+1 = P_k A_k P_k, and X at the end is (P ... P_0) X.
    A matrix of height m and width 4 m takes 34 instead of 54 m^3 operations at 3 steps, and 50 instead of 90
    at 5. In bfloat16 the powers would lose too many digits.
    """
    a, b, c = NEWTON_SCHULZ
    gram = values @ values.transpose(1, 2)  # (layers, height, height)
    total = None
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        total = factor if total is None else factor @ total
        if step + 1 < steps:
            gram = factor @ gram @ factor
    return total @ values


def set_learning_rates(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Set every learning rate to its peak times `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def state_tensors(optimizers: Iterable[Optimizer], model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizers' state as {"parameter:key": tensor}, not copied.

    Everything else about an optimizer follows from the recipe and the step.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                for key, value in optimizer.state[parameter].items():
                    tensors[f"{names[id(parameter)]}:{key}"] = torch.as_tensor(value).detach()
    return tensors


def load_state(optimizers: Iterable[Optimizer], model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `state_tensors` returned, bitwise; KeyError if a parameter's state is missing."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_name: dict[str, dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        name, _, key = full.rpartition(":")
        by_name.setdefault(name, {})[key] = tensor
    for optimizer in optimizers:
        content: dict[str, Any] = optimizer.state_dict()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        content["state"] = {
            index: {
                key: sharding.shard_like(p, value) if value.shape == p.shape else value
                for key, value in by_name[names[id(p)]].items()
            }
            for index, p in enumerate(parameters)
        }
        optimizer.load_state_dict(content)
