"""Weights that are spread over processes (FSDP2), seen whole where a step or a file needs them whole.

Each process keeps an equal part of the rows of every weight, of its gradient and of the optimizer's state;
a block's weights are gathered before its forward and its backward pass and let go after it (Zhao et al.,
2023, "PyTorch FSDP"; Rajbhandari et al., 2020, "ZeRO", stage 3). Accelerate is asked only which kind of
launch this is: on a CPU it makes DDP of FSDP without a word, so `fully_shard` is called here, on gloo as on
NCCL, and two processes of a laptop test what runs on GPUs.

Memory of one of 2 processes, GPT-2 of 12 layers of 768 (124 million weights), AdamW, fp32, on a CPU: weights
and optimizer 747 MB instead of 1,494; resident between steps 1,127 MB instead of 2,307 (380 of each are the
libraries), at the peak of a step 1,923 instead of 2,942. The peaks are with MALLOC_MMAP_THRESHOLD_=262144:
without it glibc keeps what was gathered, and both are near 3,000. Besides:
* gradients are whole (4 bytes a weight) while micro-batches add up: they are exchanged with the last one;
* bf16 is autocast's: its copies of the weights (2 bytes a weight) live from a forward to its backward pass;
* measuring and sampling work on a whole copy (see `whole_model`).

Compiled, the blocks share one graph, and what is around them has its own: 5 graphs for 12 layers.
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


def spread(
    loss: nn.Module, model: PreTrainedModel, *, device: torch.device, let_go: bool = True
) -> None:  # fmt: skip
    """Keep only this process's part of the weights of a GPT-2 and of the loss module around it.

    The blocks are units of their own; the root's unit holds the embeddings, tied to the head, and the last
    norm. Optimizers come after this: the parameters are other objects.

    Args:
        let_go: False keeps a block's weights gathered from its forward to its backward pass: a third less is
            sent, and at the end of the forward pass all weights are whole.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in model.base_model.h:
        fully_shard(block, mesh=mesh, reshard_after_forward=let_go)
    fully_shard(loss, mesh=mesh)
    assert is_spread(model.parameters()), "fully_shard left weights whole"


def is_spread(tensors: Iterable[Tensor]) -> bool:
    """Say whether all of these are kept in parts."""
    return all(isinstance(tensor, DTensor) for tensor in tensors)


def exchange(loss: nn.Module, wanted: bool) -> None:
    """Let the next backward pass exchange gradients, or add them up on each process."""
    assert isinstance(loss, FSDPModule)
    loss.set_requires_gradient_sync(wanted)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with all of its numbers; where it is spread, every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """Return the part that lies here, sharing its memory; all of it where it is not spread."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def as_spread_as(place: Tensor, content: Tensor) -> Tensor:
    """Return a whole tensor, which every process has, spread as `place` of its shape; nothing is sent."""
    if not isinstance(place, DTensor):
        return content
    content = content.to(place.device)
    return distribute_tensor(content, place.device_mesh, place.placements, src_data_rank=None)


def put(place: Tensor, content: Tensor) -> None:
    """Copy the numbers of a whole tensor into one that may be spread; shapes must be the same."""
    own(place).copy_(own(as_spread_as(place, content)))


@torch.no_grad()
def whole_model(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model itself, or a whole copy of one that is spread; every process must ask for it.

    Processes measure other documents in batches of their own number, and one alone samples: they could not
    gather weights together. The copy takes 4 bytes a weight on every process (124 million weights: 498 MB)
    while it is held; it is eval's alone, in no optimizer.
    """
    if not is_spread(model.parameters()):
        return model
    with torch.device("meta"):
        plain = type(model)(copy.deepcopy(model.config))
    weights = {name: whole(parameter.detach()) for name, parameter in model.named_parameters()}
    plain.load_state_dict(weights, strict=False, assign=True)
    plain.tie_weights()
    plain.generation_config = copy.deepcopy(model.generation_config)
    assert not any(tensor.is_meta for tensor in [*plain.parameters(), *plain.buffers()])
    return plain.eval()
