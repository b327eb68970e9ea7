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

from toolkit.models.generation_settings import repair_generation_config
from toolkit.models.stored_dtypes import StoredDtypes
from toolkit.pretrain import optimizer, sharding

STATE_FILE = "training.json"
OPTIMIZER_FILE = "optimizer.safetensors"
WEIGHTS_FILE = "model.safetensors"


@dataclass
class TrainingState:
    """How far a training is, besides weights and optimizers; the fields are the keys of training.json.

    No random generator has a state: dropout draws from a stream of (seed, step, micro-batch).
    """

    step: int = 0
    """Optimizer steps done, including skipped ones."""
    tokens: int = 0
    """Tokens trained on, over all processes."""
    seconds: float = 0.0
    """Time in training steps, over all attempts."""
    timed_tokens: int = 0
    """Tokens of the steps that `seconds` covers."""
    guard: dict[str, list[float]] = field(default_factory=dict)
    """The anomaly monitor's history."""
    skipped: list[int] = field(default_factory=list)
    """Steps (from 1) that were skipped."""


class ModelExporter:
    """Writes `from_pretrained` folders: configuration and tokenizer of a model, with given weights.

    Create it before training replaces the attention: a saved configuration must not name ours.

    Args:
        dtypes: in which the weights are written. By default fp32, from which a training resumes bitwise.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dtypes: StoredDtypes | None = None,
    ):
        self.dtypes = dtypes or StoredDtypes()
        repair_generation_config(model, where=model.name_or_path)
        self.config, self.tokenizer = copy.deepcopy(model.config), tokenizer
        self.generation_config = copy.deepcopy(model.generation_config)
        self.config.architectures = [type(model).__name__]
        self.config.dtype = self.dtypes.name
        self.tied = set(model.all_tied_weights_keys)

    def write(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write into an existing folder; callers make the write atomic."""
        self.config.save_pretrained(folder)
        self.generation_config.save_pretrained(folder)
        untied = {
            name: self.dtypes.rounded(name, tensor).contiguous()
            for name, tensor in weights.items()
            if name not in self.tied
        }
        save_file(untied, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        self.tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class Snapshot:
    """A copy on the CPU of weights, optimizer state and training state, unaffected by further training."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: TrainingState

    def write(self, folder: Path, exporter: ModelExporter) -> None:
        """Fill a checkpoint's folder: a `from_pretrained` model, the optimizer state, training.json."""
        exporter.write(folder, self.weights)
        save_file(self.optimizer, folder / OPTIMIZER_FILE)
        (folder / STATE_FILE).write_text(json.dumps(asdict(self.state), indent=1) + "\n", encoding="utf-8")


def take_snapshot(
    model: nn.Module, optimizers: list[Optimizer], state: TrainingState, *, keep: bool = True
) -> Snapshot | None:
    """Copy the complete state; sharded tensors are gathered, so every process must call it.

    Args:
        keep: False returns None: only the process that writes needs the copy, which takes 12 bytes per weight
            with AdamW, 8 with Muon for the matrices.
    """
    weights = copy_weights(model, keep=keep)
    tensors = optimizer.state_tensors(optimizers, model)
    optimizer_copy = {name: _copy_to_cpu(tensor, keep) for name, tensor in tensors.items()}
    return Snapshot(weights, optimizer_copy, copy.deepcopy(state)) if keep else None


def copy_weights(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """Copy the weights to the CPU; sharded ones are gathered, so every process must call it.

    Args:
        keep: False returns empty tensors: only the process that writes needs the copy.
    """
    return {name: _copy_to_cpu(parameter, keep) for name, parameter in model.named_parameters()}


def _copy_to_cpu(tensor: Tensor, keep: bool) -> Tensor:
    """Return a contiguous copy on the CPU of the same shape, or an empty tensor if it is not to be kept."""
    full = sharding.full_tensor(tensor.detach())  # one at a time: each is freed once it is copied
    return torch.empty(full.shape, dtype=full.dtype).copy_(full) if keep else torch.empty(0)


def load_checkpoint(
    folder: Path, *, model: PreTrainedModel, optimizers: list[Optimizer]
) -> TrainingState:  # fmt: skip
    """Restore, bitwise, what `Snapshot.write` wrote, into a model and optimizers that may be sharded.

    Every process reads the files itself, mapped into memory: nothing is sent between processes.
    """
    saved = load_file(folder / WEIGHTS_FILE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            sharding.copy_into(parameter, saved[name])
    optimizer.load_state(optimizers, model, load_file(folder / OPTIMIZER_FILE))
    return TrainingState(**json.loads((folder / STATE_FILE).read_text(encoding="utf-8")))
