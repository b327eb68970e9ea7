"""Weights that are sharded over processes (FSDP2), gathered where a step or a file needs them whole.

Each process keeps an equal part of the rows of every weight, of its gradient and of the optimizer's state;
a block's weights are gathered before its forward and its backward pass and freed after it (Zhao et al.,
2023, "PyTorch FSDP"; Rajbhandari et al., 2020, "ZeRO", stage 3). Accelerate is only asked which kind of
launch this is: on a CPU it silently makes DDP of FSDP, so `fully_shard` is called here, on gloo as on NCCL,
and two processes of a laptop test what runs on GPUs.

Memory of one of 2 processes, GPT-2 of 12 layers of 768 (124 million weights), AdamW, fp32, on a CPU: weights
and optimizer 747 MB instead of 1,494; resident between steps 1,127 MB instead of 2,307 (380 of each are the
libraries), at the peak of a step 1,923 instead of 2,942. The peaks are with MALLOC_MMAP_THRESHOLD_=262144:
without it glibc keeps the memory of gathered weights, and both are near 3,000. Besides:
* gradients are not sharded (4 bytes per weight) while micro-batches accumulate: the last one exchanges them;
* bf16 is autocast's: its copies of the weights (2 bytes per weight) live from a forward to its backward pass;
* evaluation and sampling work on a full copy (see `full_model`).

When compiled, the blocks share one graph and the rest has its own: 5 graphs for 12 layers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from toolkit.models.architectures import blocks


def shard_model(
    loss: nn.Module, model: PreTrainedModel, *, device: torch.device, reshard_after_forward: bool = True
) -> None:  # fmt: skip
    """Keep only this process's part of the weights of a model and of the loss module around it.

    Each block is a unit; the root's unit holds the embeddings, tied to the head, and the last
    norm. Create optimizers afterwards: sharding replaces the parameters.

    Args:
        reshard_after_forward: False keeps a block's weights gathered from its forward to its backward pass: a
            third less is sent, and all weights are whole at the end of the forward pass.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard_after_forward)
    fully_shard(loss, mesh=mesh)
    assert is_sharded(model.parameters()), "fully_shard left weights whole"


def is_sharded(tensors: Iterable[Tensor]) -> bool:
    """Say whether all of these tensors are sharded."""
    return all(isinstance(tensor, DTensor) for tensor in tensors)


def set_gradient_sync(loss: nn.Module, enabled: bool) -> None:
    """Let the next backward pass exchange gradients, or accumulate them on each process."""
    assert isinstance(loss, FSDPModule)
    loss.set_requires_gradient_sync(enabled)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor with all of its elements; every process must call it for a sharded one."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, sharing its memory; all of it if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(target: Tensor, content: Tensor) -> Tensor:
    """Return a full tensor, which every process has, sharded as `target` of its shape; nothing is sent."""
    if not isinstance(target, DTensor):
        return content
    content = content.to(target.device)
    return distribute_tensor(content, target.device_mesh, target.placements, src_data_rank=None)


def copy_into(target: Tensor, content: Tensor) -> None:
    """Copy a full tensor into one of the same shape that may be sharded."""
    local_part(target).copy_(local_part(shard_like(target, content)))


@torch.no_grad()
def full_model(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model itself, or a full copy of a sharded one; every process must call it.

    Processes evaluate different documents in different numbers of batches, and only one of them samples, so
    they cannot gather weights together. The copy takes 4 bytes per weight on every process (124 million
    weights: 498 MB) while it is held; it is in eval mode and in no optimizer.
    """
    if not is_sharded(model.parameters()):
        return model
    with torch.device("meta"):
        full = type(model)(copy.deepcopy(model.config))
    weights = {name: full_tensor(parameter.detach()) for name, parameter in model.named_parameters()}
    full.load_state_dict(weights, strict=False, assign=True)
    full.tie_weights()
    for name, buffer in model.named_buffers():  # whole on every process; the copy's are on the meta device
        parent, _, last = name.rpartition(".")
        setattr(full.get_submodule(parent), last, buffer)
    full.generation_config = copy.deepcopy(model.generation_config)
    assert not any(tensor.is_meta for tensor in [*full.parameters(), *full.buffers()])
    return full.eval()
