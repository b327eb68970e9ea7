"""The state of every position after every layer, before the final norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from toolkit.base.errors import ToolkitError
from toolkit.models.description import describe, forward, text_config

_Call = tuple[nn.Module, torch.Tensor, torch.Tensor]
"""A module, its input and its output."""


@dataclass(frozen=True)
class LayerStates:
    """The states of a text.

    Attributes:
        states: (length, width) after each layer; the first is that of the embeddings if `first` is 0.
        first: number of layers before `states[0]`.
        norm: the norm between the last state and the head; None if the architecture has none of its own,
            the last state is then what the head reads.
        logits: (length, vocabulary) of the same pass.
    """

    states: list[torch.Tensor]
    first: int
    norm: nn.Module | None
    logits: torch.Tensor


@torch.no_grad()
def layer_states(model: PreTrainedModel, ids: Sequence[int]) -> LayerStates:
    """Return the states of a text.

    transformers returns the last state after the final norm (GPT-2's `ln_f`, Llama's `model.norm`). The norm
    is recognised by what it does, because its name differs: outside of the blocks, it returns that state.

    Raises:
        ToolkitError: the architecture does not return its states.
    """
    given = torch.tensor([list(ids)], device=model.device)
    with _calls(model) as calls:
        output = forward(model, given, use_cache=False, output_hidden_states=True)
    hidden = list(getattr(output, "hidden_states", None) or ())
    layers = text_config(model.config).num_hidden_layers
    if not layers <= len(hidden) <= layers + 1 or any(state.shape != hidden[-1].shape for state in hidden):
        raise ToolkitError(f"a {describe(model).class_name} does not return the states of its layers",
                           where="states", fix="choose a model such as a GPT-2 or a Llama")  # fmt: skip
    norm, before = next(
        (call[:2] for call in reversed(calls) if _returns(call, hidden[-1])), (None, hidden[-1])
    )
    states = hidden[:-1]
    if not states or norm is None or not torch.equal(states[-1], before):  # Mamba's has the embeddings' not
        states.append(before)
    return LayerStates([state[0] for state in states], layers + 1 - len(states), norm, output.logits[0])


def _returns(call: _Call, state: torch.Tensor) -> bool:
    """Return whether a module returned a state, and not what it was given."""
    _, given, output = call
    return output.shape == state.shape and torch.equal(output, state) and not torch.equal(given, output)


@contextmanager
def _calls(model: nn.Module) -> Iterator[list[_Call]]:
    """Collect the calls of modules outside of the blocks that map one tensor to another."""
    calls: list[_Call] = []

    def note(module: nn.Module, given: tuple[object, ...], output: object) -> None:
        if len(given) == 1 and isinstance(given[0], torch.Tensor) and isinstance(output, torch.Tensor):
            calls.append((module, given[0], output))

    hooks = [
        module.register_forward_hook(note)
        for name, module in model.named_modules()
        if not any(part.isdigit() for part in name.split(".")) and not any(True for _ in module.children())
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
