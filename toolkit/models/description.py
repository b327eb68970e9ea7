"""What a model of any architecture is: its class, positions, cache argument and vocabulary.

Every other module asks here instead of reading a model's configuration, whose names differ by architecture.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

LIMIT_NAMES = ("max_position_embeddings", "max_seq_len", "max_target_positions")
"""Names of the position limit in the configurations of transformers' language models. Many others, such as
`n_positions`, are aliases of the first."""
UNLIMITED = ("bloom", "rwkv")
"""Model types that accept texts of any length although their checkpoints may name one: ALiBi, recurrence."""
POSITIONS_AFTER_PADDING = (
    "camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
"""Model types whose first position is the padding id plus 1, of `max_position_embeddings` rows."""
CACHE_ARGUMENTS = ("past_key_values", "cache_params")
"""Names under which a forward pass takes a cache of transformers."""
_ANY = "**"


@dataclass(frozen=True)
class ModelDescription:
    """What the toolkit needs to know of a language model.

    Attributes:
        class_name: of the model, without adapters.
        model_type: of its configuration.
        positions: tokens of the longest text, None without a limit.
        cache_argument: under which name a forward pass takes a cache, None if it takes none.
        vocabulary: entries of a row of logits.
        embedded: rows of the input embedding; larger ids cannot be read.
    """

    class_name: str
    model_type: str
    positions: int | None
    cache_argument: str | None
    vocabulary: int
    embedded: int


def describe(model: nn.Module) -> ModelDescription:
    """Describe a model of transformers, with or without adapters."""
    inner = without_adapters(model)
    parameters = _parameters(type(inner))
    return ModelDescription(
        class_name=type(inner).__name__,
        model_type=inner.config.model_type,
        positions=position_limit(inner.config),
        cache_argument=next((name for name in CACHE_ARGUMENTS if name in parameters), None),
        vocabulary=vocabulary(inner),
        embedded=inner.get_input_embeddings().weight.shape[0],
    )


def without_adapters(model: nn.Module) -> nn.Module:
    """Return the model of transformers inside a PEFT model, whose adapters stay in its layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the part of a configuration that describes the language model, of multimodal models, too."""
    return config.get_text_config(decoder=True)


def position_limit(config: PreTrainedConfig) -> int | None:
    """Return how many tokens a model of this configuration attends to at most, None without a limit.

    Rotary positions count as a limit, because models are not trained beyond it. ALiBi and recurrent states
    have none, except MPT, whose biases are computed for `max_seq_len` positions.
    """
    name, text = _limit_name(config), text_config(config)
    if name is None:
        return None
    limit = getattr(text, name)
    if text.model_type in POSITIONS_AFTER_PADDING:
        return limit - (text.pad_token_id or 0) - 1
    return limit


def position_key(config: PreTrainedConfig) -> str | None:
    """Return the key of config.json that `position_limit` is read from, None without a limit."""
    name = _limit_name(config)
    return text_config(config).attribute_map.get(name, name)


def _limit_name(config: PreTrainedConfig) -> str | None:
    text = text_config(config)
    if text.model_type in UNLIMITED or getattr(text, "alibi", False):
        return None
    values = ((name, getattr(text, name, None)) for name in LIMIT_NAMES)
    return next((name for name, value in values if isinstance(value, int) and value > 0), None)


def vocabulary(model: nn.Module) -> int:
    """Return the entries of a row of logits, which may differ from the rows of the input embedding."""
    head = model.get_output_embeddings()
    return text_config(model.config).vocab_size if head is None else head.weight.shape[0]


def forward(model: nn.Module, input_ids: torch.Tensor, **arguments: Any) -> Any:
    """Call a model with those of the arguments that its forward pass accepts; architectures differ."""
    parameters = _parameters(type(without_adapters(model)))
    accepted = {name: value for name, value in arguments.items() if {name, _ANY} & parameters}
    return model(input_ids=input_ids, **accepted)


@cache
def _parameters(model_class: type[nn.Module]) -> frozenset[str]:
    """Return the names of the parameters of a forward pass, with `_ANY` if it takes others, too."""
    parameters = inspect.signature(model_class.forward).parameters.values()
    return frozenset(_ANY if it.kind is it.VAR_KEYWORD else it.name for it in parameters)
