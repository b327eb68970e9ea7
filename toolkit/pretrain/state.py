"""The complete state of a pretraining run, as files: everything that the next step depends on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.models.load import write_model
from toolkit.pretrain import optimizer

STATE = "training.json"
OPTIMIZER = "optimizer.safetensors"


@dataclass
class Position:
    """Where a training is. Dropout draws from a stream of (seed, step): no generator has a state to keep."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Tokens trained on, over all processes."""
    loss_sum: float = 0.0
    """Sum of the losses since the last line of metrics.jsonl."""
    loss_steps: int = 0
    seconds: float = 0.0
    """Time in training steps alone, over all attempts."""
    timed_tokens: int = 0


def write(
    folder: Path, position: Position, *, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
    optimizers: list[Optimizer],
) -> None:  # fmt: skip
    """Fill a checkpoint's folder: the model as `from_pretrained` reads it, the optimizers, the position."""
    write_model(model, tokenizer, folder)
    save_file(optimizer.state_tensors(optimizers, model), folder / OPTIMIZER)
    (folder / STATE).write_text(json.dumps(asdict(position), indent=1) + "\n", encoding="utf-8")


def read(folder: Path, *, model: PreTrainedModel, optimizers: list[Optimizer]) -> Position:
    """Put back, bitwise, what `write` wrote; weights go into the model that is there."""
    saved = type(model).from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    model.load_state_dict(saved.state_dict())
    optimizer.load_state(optimizers, model, load_file(folder / OPTIMIZER))
    return Position(**json.loads((folder / STATE).read_text(encoding="utf-8")))
