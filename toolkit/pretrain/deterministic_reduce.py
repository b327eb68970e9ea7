"""Gradients whose bits do not depend on the number of processes.

Each micro-batch's gradient is a leaf of a binary tree over the numbers of the micro-batches. A process adds
up the subtree that it owns; then pairs of processes exchange their sums and add them, level by level. Adding
two floats is commutative, so both of a pair get the same bits, and the tree is the same however many
processes share it. (The idea of a reduction whose shape does not depend on the workers is that of
reproducible summation: Demmel and Nguyen, 2013, "Fast Reproducible Floating-Point Summation".)
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

Leaf = list[Tensor]
"""One tensor a parameter, and the loss, of one micro-batch."""


def tree_sum(leaves: Iterable[Leaf]) -> Leaf:
    """Add a power of two of leaves in a balanced binary tree; log2 of their number is held at once.

    Raises:
        ValueError: their number is no power of two: the tree would not be the same on other processes.
    """
    waiting: list[tuple[int, Leaf]] = []  # (leaves below, their sum), as the digits of a binary counter
    for leaf in leaves:
        size, total = 1, leaf
        while waiting and waiting[-1][0] == size:
            _, before = waiting.pop()
            total = [torch.add(a, b, out=a) for a, b in zip(before, total, strict=True)]
            size *= 2
        waiting.append((size, total))
    if len(waiting) != 1:
        raise ValueError("the number of leaves is not a power of two")
    return waiting[0][1]


def pairwise_all_reduce(total: Leaf) -> Leaf:
    """Add the sums of all processes, a power of two of them, in the tree's upper levels.

    Each level sends and receives every number once: log2(processes) times the traffic of one gradient.
    """
    processes, rank = dist.get_world_size(), dist.get_rank()
    flat = torch.cat([tensor.flatten() for tensor in total])
    other = torch.empty_like(flat)
    distance = 1
    while distance < processes:
        partner = rank ^ distance
        requests = dist.batch_isend_irecv(
            [dist.P2POp(dist.isend, flat, partner), dist.P2POp(dist.irecv, other, partner)]
        )
        for request in requests:
            request.wait()
        flat = flat + other  # a new tensor: what was sent may still be on its way
        distance *= 2
    parts = flat.split([tensor.numel() for tensor in total])
    return [part.view(tensor.shape) for part, tensor in zip(parts, total, strict=True)]
