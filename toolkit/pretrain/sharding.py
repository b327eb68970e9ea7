"""Weights that are spread over processes (FSDP2), seen whole where a step or a file needs them whole."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with all of its numbers; where it is spread, every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def put(place: Tensor, content: Tensor) -> None:
    """Copy the numbers of a whole tensor into one that may be spread; shapes must be the same."""
    if isinstance(place, DTensor):
        content = distribute_tensor(content.to(place.device), place.device_mesh, place.placements)
    place.copy_(content)
