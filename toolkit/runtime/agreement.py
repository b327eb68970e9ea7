"""Processes that act at the same step: a signal reaches them at different ones."""

from __future__ import annotations

import torch
import torch.distributed as dist


class Agreement:
    """Lets all processes act on the largest of their codes; every process creates one and asks at every step.

    One number is reduced over gloo, which does not touch a GPU's queue: 0.2 ms a step between two processes
    of one machine, 0.4 to 0.8 ms where other programs compete for the cores.
    """

    def __init__(self) -> None:
        distributed = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._group = dist.new_group(backend="gloo") if distributed else None

    def largest(self, code: int) -> int:
        """Return the largest code of all processes."""
        if self._group is None:
            return code
        codes = torch.tensor([code])
        dist.all_reduce(codes, op=dist.ReduceOp.MAX, group=self._group)
        return int(codes)
