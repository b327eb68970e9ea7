"""Models of every architecture that pretraining builds, and the parts that they share."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from toolkit.config.schema import ModelSettings
from toolkit.models import gpt2, llama
from toolkit.runtime.upstream_private import block_classes

_BUILDERS = {"gpt2": gpt2.build, "llama": llama.build}


def build(settings: ModelSettings, **vocabulary: Any) -> PreTrainedModel:
    """Return a model of these settings with random weights, in fp32 on the CPU.

    Args:
        vocabulary: vocab_size, seed, end_id and pad_id, as `gpt2.build` and `llama.build` take them.
    """
    return _BUILDERS[settings.architecture](settings, **vocabulary)


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """Return the transformer blocks of a model in order; empty if its class does not name their classes.

    Sharding makes each block an instance of a subclass.
    """
    classes = block_classes(model)
    return [
        module for module in model.modules() if any(kind.__name__ in classes for kind in type(module).__mro__)
    ]


def parameters(model: nn.Module) -> int:
    """Return the number of trained numbers of a built model; tied tensors count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def is_dense(model: PreTrainedModel) -> bool:
    """Say whether a model is a transformer in which every matrix multiplies every token: no experts, no
    convolutions or recurrences."""
    named = list(model.named_parameters())
    has_heads = hasattr(model.config.get_text_config(), "num_attention_heads")
    return has_heads and not any(p.ndim > 2 or "expert" in name for name, p in named)


def flops_per_token(model: PreTrainedModel, sequence_length: int) -> int:
    """Return the floating-point operations of forward and backward for one token of a transformer.

    As `shape.flops_per_token`, from a built model: weights that are only looked up, the position embeddings
    and an embedding that is not the head's matrix, do not multiply.
    """
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    looked_up = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
    looked_up.pop(id(head.weight), None)
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_width
    multiplying = parameters(model) - sum(looked_up.values())
    return 6 * multiplying + 12 * config.num_hidden_layers * width * sequence_length
