"""Whether a model computes numbers: its weights, and its logits of a few texts, are finite."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from toolkit.base.errors import ToolkitError

PROBE_ROWS, PROBE_TOKENS = 4, 64
"""Texts whose logits are computed, and tokens of each."""


@torch.no_grad()
def probe_logits(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Return the logits of the beginnings of the first rows, in eval mode and in double precision.

    Each row is a forward pass of its own, without padding. Of a language model they are (tokens, vocabulary),
    of a reward model (1, 1).
    """
    was_training = model.training
    model.eval()
    logits = []
    for row in [row for row in rows if len(row)][:PROBE_ROWS]:
        ids = torch.tensor([list(row)[:PROBE_TOKENS]], device=model.device)
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        logits.append(output.logits[0].cpu().double().reshape(-1, output.logits.shape[-1]))
    model.train(was_training)
    return logits


def require_finite_weights(model: nn.Module, *, step: int, where: str) -> None:
    """Raise ToolkitError if a weight is not finite.

    Args:
        step: optimizer steps done.
        where: the run.
    """
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise _diverged(f"the weights are not finite after step {step} ({name})", where)


def require_finite(model: PreTrainedModel, rows: Sequence[Sequence[int]], *, step: int, where: str) -> None:
    """Raise ToolkitError if a weight, or a logit of `rows` (token ids of a few texts), is not finite."""
    require_finite_weights(model, step=step, where=where)
    if not all(bool(torch.isfinite(logits).all()) for logits in probe_logits(model, rows)):
        raise _diverged(f"the model's logits are not finite after step {step}", where)


def _diverged(what: str, where: str) -> ToolkitError:
    return ToolkitError(
        f"{what}: nothing is sealed", where=where,
        fix="lower the learning rate or lengthen the warmup, and start over with --fresh",
    )  # fmt: skip
