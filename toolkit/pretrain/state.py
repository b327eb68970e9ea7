"""The complete state of a pretraining run, as files: everything that the next step depends on."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.pretrain import optimizer, sharding

STATE = "training.json"
OPTIMIZER = "optimizer.safetensors"
WEIGHTS = "model.safetensors"


@dataclass
class Position:
    """Where a training is. Dropout draws from a stream of (seed, step, part): no generator has a state."""

    step: int = 0
    """Optimizer steps done, skipped ones too."""
    tokens: int = 0
    """Tokens trained on, over all processes."""
    seconds: float = 0.0
    """Time in training steps alone, over all attempts."""
    timed_tokens: int = 0
    guard: dict[str, list[float]] = field(default_factory=dict)
    """What the guard compares the next step with."""
    skipped: list[int] = field(default_factory=list)
    """Steps that the guard left out."""


class Template:
    """A model and its tokenizer without weights: what `from_pretrained` reads besides them.

    Made before training switches the attention: no configuration that is saved may name ours.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        self.config, self.tokenizer = copy.deepcopy(model.config), tokenizer
        self.generation_config = copy.deepcopy(model.generation_config)
        self.config.architectures = [type(model).__name__]
        self.config.dtype = str(model.dtype).removeprefix("torch.")
        self.tied = set(model.all_tied_weights_keys)

    def write(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write a `from_pretrained` folder into an existing folder; callers make it atomic."""
        self.config.save_pretrained(folder)
        self.generation_config.save_pretrained(folder)
        own = {name: tensor for name, tensor in weights.items() if name not in self.tied}
        save_file(own, folder / WEIGHTS, metadata={"format": "pt"})
        self.tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class Snapshot:
    """Weights and optimizer state at one moment, on the CPU, apart from what goes on being trained."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    position: Position

    def write(self, folder: Path, template: Template) -> None:
        """Fill a checkpoint's folder: the model as `from_pretrained` reads it, the optimizers, the
        position.
        """
        template.write(folder, self.weights)
        save_file(self.optimizer, folder / OPTIMIZER)
        (folder / STATE).write_text(json.dumps(asdict(self.position), indent=1) + "\n", encoding="utf-8")


def take(
    model: nn.Module, optimizers: list[Optimizer], position: Position, *, keep: bool = True
) -> Snapshot | None:
    """Copy everything, whole also where it is spread: then every process takes part.

    Args:
        keep: False returns None: of several processes one writes, and the copy is 12 bytes a weight with
            AdamW, 8 with Muon for the matrices.
    """
    named = dict(model.named_parameters())
    weights = {name: _apart(parameter, keep) for name, parameter in named.items()}
    state = optimizer.state_tensors(optimizers, model)
    tensors = {name: _apart(value, keep) for name, value in state.items()}
    return Snapshot(weights, tensors, copy.deepcopy(position)) if keep else None


def _apart(tensor: Tensor, keep: bool) -> Tensor:
    """Return a copy on the CPU in memory's usual order, (the same shape); an empty one if not to be kept."""
    whole = sharding.whole(tensor.detach())  # one after the other: each is let go when it is copied
    return torch.empty(whole.shape, dtype=whole.dtype).copy_(whole) if keep else torch.empty(0)


def read(folder: Path, *, model: PreTrainedModel, optimizers: list[Optimizer]) -> Position:
    """Put back, bitwise, what `Snapshot.write` wrote; weights go into the model that is there, spread or not.

    Every process reads the files itself, mapped into memory: nothing is sent.
    """
    saved = load_file(folder / WEIGHTS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            sharding.put(parameter, saved[name])
    optimizer.load_state(optimizers, model, load_file(folder / OPTIMIZER))
    return Position(**json.loads((folder / STATE).read_text(encoding="utf-8")))
