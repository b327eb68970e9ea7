"""LoRA adapters of a recipe: which modules they change, and which rows of the embeddings they train."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from toolkit.base import files
from toolkit.base.errors import ToolkitError
from toolkit.config.schema import ALL_LINEAR, PpoRecipe, TrainerRecipe
from toolkit.models import four_bit
from toolkit.models.checkpoint_folder import ADAPTER_CONFIG
from toolkit.runs.run import Run
from toolkit.runtime.devices import precision

MAMBA = frozenset({"mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"})
MAMBA_WITHOUT_ADAPTERS = "out_proj"
"""`all-linear` leaves it out in these architectures: a kernel reads its weight and bypasses adapters."""


def lora(
    recipe: TrainerRecipe | PpoRecipe,
    model: PreTrainedModel,
    task: str,
    *,
    learned_tokens: Sequence[int] = (),
) -> peft.LoraConfig | None:
    """Return the configuration of the recipe's LoRA adapters, None without them.

    Args:
        task: CAUSAL_LM, or SEQ_CLS, whose new head is trained completely.
        learned_tokens: tokens that the model does not know yet; their rows of the embeddings are trained.

    Raises:
        ToolkitError: the model has no module of a name, or it shares its weight with another module, so that
            adapters could not be merged.
    """
    if recipe.lora is None:
        return None
    names = recipe.lora.target_modules
    if four_bit.is_four_bit(model):
        # only freezes the weights, which are fp32 where they are not in 4 bits
        peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    targets = _targets(model, names)
    _refuse_shared_weights(model, targets)
    _refuse_head(model, targets)
    settings = _embeddings(model, learned_tokens)
    if task == "SEQ_CLS":
        settings["modules_to_save"] = ["score", *settings.get("modules_to_save", [])]
    return peft.LoraConfig(
        r=recipe.lora.r, lora_alpha=recipe.lora.alpha, lora_dropout=recipe.lora.dropout,
        target_modules=names if names == ALL_LINEAR else list(names), task_type=task, bias="none",
        exclude_modules=_excluded(model) if names == ALL_LINEAR else None,
        # GPT-2 stores its weights transposed
        fan_in_fan_out=bool(targets) and all(isinstance(module, Conv1D) for module in targets.values()),
        **settings,
    )  # fmt: skip


def merges(recipe: TrainerRecipe | PpoRecipe) -> bool:
    """Return whether the written model has plain weights, without or with merged adapters."""
    return recipe.lora is None or recipe.lora.merge


def quantization(recipe: TrainerRecipe, run: Run, target: torch.device) -> BitsAndBytesConfig | None:
    """Return how the weights that are not trained are quantized, None for plain weights."""
    if recipe.lora is None or not recipe.lora.load_in_4bit:
        return None
    bf16 = run.decide("precision", precision(recipe.precision, target)) == "bf16"
    return four_bit.quantization(bf16=bf16)


def _excluded(model: PreTrainedModel) -> list[str] | None:
    """Return the linear layers that cannot have adapters, None if all can; PEFT refuses these."""
    return [MAMBA_WITHOUT_ADAPTERS] if model.config.model_type in MAMBA else None


def sort_modules(folder: Path) -> None:
    """Sort the names of modules in the configuration of a checkpoint's adapters, if it has any.

    PEFT keeps them in sets, whose order differs between processes, and so did the bytes of the file.
    """
    path = folder / ADAPTER_CONFIG
    if path.exists():
        content = files.read_json(path)
        names = ("target_modules", "exclude_modules")
        content |= {key: sorted(content[key]) for key in names if isinstance(content.get(key), list)}
        files.write_json(path, content)


def show_bias_of_head(model: nn.Module) -> None:
    """Let a head with trained rows have the attribute `bias`, which TRL's loss reads; it has none."""
    head = model.get_output_embeddings() if isinstance(model, peft.PeftModel) else None
    if isinstance(head, TrainableTokensWrapper):
        head.bias = None


def _targets(model: PreTrainedModel, names: str | Sequence[str]) -> dict[str, nn.Module]:
    """Return {name: module} of the modules that PEFT adapts: by their whole name or the end of it."""
    modules = {name: module for name, module in model.named_modules() if name}
    linear = {name: module for name, module in modules.items() if isinstance(module, (nn.Linear, Conv1D))}
    if names == ALL_LINEAR:
        heads, excluded = (
            {model.get_output_embeddings(), getattr(model, "score", None)},
            _excluded(model) or [],
        )
        return {
            name: module
            for name, module in linear.items()
            if module not in heads and name.rpartition(".")[2] not in excluded
        }
    found: dict[str, nn.Module] = {}
    for target in names:
        matching = {name: module for name, module in modules.items() if f".{name}".endswith(f".{target}")}
        if not matching:
            kinds = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ToolkitError(f"the model has no module named {target}", where="lora.target_modules",
                               fix=f"set {ALL_LINEAR}, or some of {kinds}")  # fmt: skip
        found |= matching
    return found


def _refuse_shared_weights(model: PreTrainedModel, targets: dict[str, nn.Module]) -> None:
    """Refuse to adapt a module whose weight is also that of another module, as of tied embeddings.

    Adapters change what one of the modules computes; merged, they would change both.
    """
    owners: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules():  # each module once
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].append(name)
    for name, module in targets.items():
        for parameter in module.parameters(recurse=False):
            others = [owner for owner in owners[id(parameter)] if owner != name]
            if others:
                raise ToolkitError(
                    f"{name} shares its weight with {others[0]} (tied embeddings): adapters of one of them "
                    "cannot be merged",
                    where="lora.target_modules", fix=f"leave {name.rpartition('.')[2]} out",
                )  # fmt: skip


def _refuse_head(model: PreTrainedModel, targets: dict[str, nn.Module]) -> None:
    """Refuse adapters of the head: log-probabilities are computed from its weight, which has none of them."""
    head = next((name for name, module in targets.items() if module is model.get_output_embeddings()), None)
    if head is not None:
        raise ToolkitError(
            f"{head} is the head: log-probabilities are computed from its weight, so that its adapters would "
            "not be trained",
            where="lora.target_modules", fix=f"leave {head.rpartition('.')[2]} out",
        )  # fmt: skip


def _embeddings(model: PreTrainedModel, tokens: Sequence[int]) -> dict[str, Any]:
    """Return the settings of LoraConfig that train the rows of some tokens, of inputs and outputs.

    PEFT trains single rows of plain embeddings and of heads without a bias; others are trained as a whole.
    """
    if not tokens:
        return {}
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    tied = outputs is None or outputs.weight is inputs.weight
    modules = [inputs] if tied else [inputs, outputs]
    names = {module: name for name, module in model.named_modules()}
    if getattr(outputs, "bias", None) is None:
        return {"trainable_token_indices": {names[module]: sorted(tokens) for module in modules}}
    return {"modules_to_save": [names[module] for module in modules], "ensure_weight_tying": tied}
