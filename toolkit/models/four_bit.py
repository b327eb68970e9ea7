"""Weights in 4 bits while adapters are trained (QLoRA, Dettmers et al., 2023), and plain weights at the end.

bitsandbytes stores the linear layers in NF4. What is written at the end are the values that these 4 bits
stand for, with the adapters added: the model that was trained, not the checkpoint with the adapters added.
"""

from __future__ import annotations

import copy

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from toolkit.base.errors import ToolkitError


def quantization(*, bf16: bool) -> BitsAndBytesConfig:
    """Return the configuration of QLoRA: NF4 with double quantization; products in bf16 or fp32."""
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
    )  # fmt: skip


def require_writable(model: PreTrainedModel, *, where: str) -> None:
    """Refuse a model in 4 bits whose weights cannot be written as those of its class.

    Raises:
        ToolkitError: layers of GPT-2's kind, whose weights lie transposed; in 4 bits they do not.
    """
    config = copy.deepcopy(model.config)
    del config.quantization_config
    with torch.device("meta"):
        plain = type(model)(config)
    if any(isinstance(module, Conv1D) for module in plain.modules()):
        raise ToolkitError(
            f"a {type(model).__name__} stores its weights transposed, and could not be written after a "
            "training in 4 bits",
            where=where, fix="leave out lora.load_in_4bit",
        )  # fmt: skip


def is_four_bit(model: PreTrainedModel) -> bool:
    """Return whether the linear layers of a model are in 4 bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def train_in_fp32(model: nn.Module) -> None:
    """Convert what is trained to fp32; TRL makes it bf16, and a score head in bf16 needs autocast."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def compute_in_fp32(model: nn.Module) -> None:
    """Let a model in 4 bits compute in fp32, to compare its logits with those of plain weights."""
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype, module.compute_type_is_set = torch.float32, True


def dequantized(model: PeftModel) -> PeftModel:
    """Return the model with plain weights in fp32 and the same adapters, on the CPU.

    A GPU that holds a model in 4 bits may have no room for 32. The given model can no longer be used.
    """
    [(name, settings)] = model.peft_config.items()
    adapters = {key: weight.cpu() for key, weight in get_peft_model_state_dict(model).items()}
    base = model.unload().to("cpu").dequantize(torch.float32)
    plain = get_peft_model(base, settings, adapter_name=name)
    set_peft_model_state_dict(plain, adapters, adapter_name=name)
    return plain.eval()
