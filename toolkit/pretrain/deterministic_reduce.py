"""Gradients whose bits do not depend on the number of processes.

Each micro-batch's gradient is a leaf of a binary tree, in the order of the micro-batches' numbers. A process
sums the subtree that it owns; then pairs of processes exchange their sums and add them, level by level. The
addition of two floats is commutative, so both processes of a pair get the same bits, and the tree is the same
for any number of processes. (A reduction whose shape does not depend on the workers is the idea of
reproducible summation: Demmel and Nguyen, 2013, "Fast Reproducible Floating-Point Summation".)
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

Leaf = list[Tensor]
"""The gradient of each parameter, and the loss, of one micro-batch."""


def tree_sum(leaves: Iterable[Leaf]) -> Leaf:
    """Sum leaves, a power of two of them, in a balanced binary tree; at most log2(leaves) sums are in memory.

    Raises:
        ValueError: their number is not a power of two: the tree would depend on the number of processes.
    """
    subtrees: list[tuple[int, Leaf]] = []  # (number of leaves, sum), as the digits of a binary counter
    for leaf in leaves:
        size, total = 1, leaf
        while subtrees and subtrees[-1][0] == size:
            _, left = subtrees.pop()
            total = [torch.add(a, b, out=a) for a, b in zip(left, total, strict=True)]
            size *= 2
        subtrees.append((size, total))
    if len(subtrees) != 1:
        raise ValueError("the number of leaves is not a power of two")
    return subtrees[0][1]


def pairwise_all_reduce(total: Leaf) -> Leaf:
    """Add the sums of all processes, a power of two of them, in the tree's upper levels.

    Each level sends and receives every element once: log2(processes) times the traffic of one gradient.
    """
    processes, rank = dist.get_world_size(), dist.get_rank()
    flat = torch.cat([tensor.flatten() for tensor in total])
    received = torch.empty_like(flat)
    distance = 1
    while distance < processes:
        partner = rank ^ distance
        requests = dist.batch_isend_irecv(
            [dist.P2POp(dist.isend, flat, partner), dist.P2POp(dist.irecv, received, partner)]
        )
        for request in requests:
            request.wait()
        flat = flat + received  # a new tensor: the old one may still be being sent
        distance *= 2
    parts = flat.split([tensor.numel() for tensor in total])
    return [part.view(tensor.shape) for part, tensor in zip(parts, total, strict=True)]
