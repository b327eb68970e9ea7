"""The head of any architecture, applied to a few hidden states at a time.

Heads may scale or cap logits, so that the matrix of the output embedding alone is not the head. All logits of
a long row take too much memory: 4,096 positions of a vocabulary of 262,144 entries are 4 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers.modeling_outputs import ModelOutput

from toolkit.models import checks
from toolkit.models.description import forward

_replaced: WeakKeyDictionary[nn.Module, tuple[nn.Module, ModelOutput] | None] = WeakKeyDictionary()
"""For each model the module before its head and an output of that module; None if there is no such module."""


class _Head:
    """A model's own forward pass after its transformer: hidden states (scored, width) -> logits."""

    def __init__(self, model: nn.Module, transformer: nn.Module, output: ModelOutput):
        self.model, self.transformer, self.output = model, transformer, output

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        output = type(self.output)(**{**self.output, "last_hidden_state": hidden[None]})
        ids = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
        with _fixed_output(self.transformer, output):
            return forward(self.model, ids, use_cache=False).logits[0]


@contextmanager
def _fixed_output(module: nn.Module, output: ModelOutput) -> Iterator[None]:
    """Let a module return `output` for every input inside the block."""
    replaced = vars(module).get("forward")  # accelerate replaces it in the instance, too
    module.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        del module.forward
        if replaced is not None:
            module.forward = replaced


@torch.no_grad()
def head_in_blocks(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return a model's head, None if its logits are not a function of `base_model`'s last hidden states.

    Tried on a few tokens, once for each model, which must be in eval mode.
    """
    if model not in _replaced:
        ids = checks.probe_ids(model, checks.PROBE_TOKENS)[None]
        whole = forward(model, ids, use_cache=False).logits[0]
        _replaced[model] = next(
            (found for place in (_base_model, _decoder) if (found := _tried(model, ids, whole, place))), None
        )
    found = _replaced[model]
    return None if found is None else _Head(model, *found)


def _base_model(model: nn.Module) -> nn.Module:
    return model.base_model


def _decoder(model: nn.Module) -> nn.Module:
    return model.get_decoder()  # what OPT's and Bart's heads call


def _tried(
    model: nn.Module, ids: torch.Tensor, whole: torch.Tensor, place: Callable[[nn.Module], nn.Module]
) -> tuple[nn.Module, ModelOutput] | None:
    """Return the module at a place and its output if a head after it gives the logits of the whole pass."""
    with suppress(Exception):  # whatever code of any architecture raises: this is not its place
        transformer = place(model)
        output = transformer(input_ids=ids, use_cache=False)
        head, hidden = _Head(model, transformer, output), output.last_hidden_state[0]
        blocks = torch.cat([head(hidden[:2]), head(hidden[2:])])
        varies = bool(whole.amax() > whole.amin())  # equal logits would agree with those of any head
        if (
            varies
            and blocks.shape == whole.shape
            and checks.agree(blocks, whole, model=model, within=checks.ROUNDING)
        ):
            return transformer, output
    return None
