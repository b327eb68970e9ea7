"""What a checkpoint costs, before it is loaded: parameters, FLOPs and bytes of training, without torch.

The shapes of the weights are in the headers of its safetensors files, the rest is in config.json. Names
differ by architecture; they are those of transformers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.config.schema import ALL_LINEAR, LoraSettings
from toolkit.models import safetensors_files
from toolkit.models.safetensors_files import StoredTensor

POSITION_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")
LAYER_NAMES = ("decoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEAD_COUNT_NAMES = ("decoder_attention_heads", "num_attention_heads", "n_head", "n_heads", "num_heads")
EXPERT_NAMES = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
CHOSEN_EXPERT_NAMES = ("num_experts_per_tok", "moe_topk", "moe_top_k")
"""Keys of config.json, in the order in which they are looked up."""

EMBEDDINGS = frozenset({"embed_tokens", "wte", "word_embeddings", "embed_in", "embeddings", "embedding"})
POSITION_EMBEDDINGS = frozenset({"wpe", "embed_positions", "position_embeddings"})
HEADS = frozenset({"lm_head", "embed_out", "output_projection", "score"})
"""The last part of the names of modules."""

_NO_PARAMETER = re.compile(r"(\.masked_bias|inv_freq|e_score_correction_bias|position_ids)$")
"""Tensors that older files store, and that no training changes."""
_OTHER_MODALITIES = re.compile(r"(^|\.)(vision|visual|audio|image|multi_modal)")
"""Modules that read no text."""
_FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
_LAYER = re.compile(r"\.(\d+)\.")
FOUR_BIT_BYTES = 0.52
"""Of each weight in NF4 with double quantization: half a byte, and the scales of its blocks of 64."""
FULL_TRAINING_BYTES = 16
"""Of each trained number in fp32: itself, its gradient and AdamW's two moments."""


@dataclass(frozen=True)
class CheckpointShape:
    """The size of a checkpoint.

    Attributes:
        parameters: numbers that are trained; tied tensors count once.
        multiplying: those that multiply each token of text: without embeddings that are only looked up, and,
            of experts, as many as a token is given to.
        layers: number of blocks.
        width: numbers of a hidden state.
        heads: of attention; 0 if config.json does not say.
        attention_width: heads times the width of a head; 0 without attention.
        positions: tokens of the longest text, None if config.json names no limit.
        vocabulary: rows of the embedding.
        dtypes: numbers by their dtype in safetensors, the most frequent first.
        bytes: of the weights as they are stored.
        linear: (inputs and outputs, in any order) of each linear layer except the head and experts.
        has_experts: whether a token is given to some of several MLPs.
    """

    parameters: int
    multiplying: int
    layers: int
    width: int
    heads: int
    attention_width: int
    positions: int | None
    vocabulary: int
    dtypes: Mapping[str, int]
    bytes: int
    linear: Mapping[str, tuple[int, int]]
    has_experts: bool

    def flops_per_token(self, sequence_length: int, *, lora: LoraSettings | None = None) -> int:
        """Return the floating-point operations of forward and backward for one token.

        6 N + 12 L W T, as `toolkit.models.shape.flops_per_token`. With adapters, weights that are not trained
        need no gradient: 4 N, and 6 for each number of the adapters.
        """
        attention = 12 * self.layers * self.attention_width * sequence_length
        if lora is None:
            return 6 * self.multiplying + attention
        return 4 * self.multiplying + 6 * self.adapter_parameters(lora) + attention

    def adapter_parameters(self, lora: LoraSettings) -> int:
        """Return the trained numbers of LoRA adapters; 0 if no name matches.

        Rows of embeddings are not counted, nor adapters of experts: how PEFT adapts them differs by
        architecture.
        """
        return sum(lora.r * sum(sides) for name, sides in self.linear.items() if _is_target(name, lora))

    def linear_inputs(self, lora: LoraSettings) -> list[int]:
        """Return the smaller side of each layer with an adapter, about the width of its input."""
        return [min(sides) for name, sides in self.linear.items() if _is_target(name, lora)]

    def state_bytes(
        self, per_parameter: int = FULL_TRAINING_BYTES, *, lora: LoraSettings | None = None
    ) -> int:
        """Return the bytes of weights, gradients and optimizer in fp32, without activations.

        Args:
            per_parameter: of a full training, `Cost.bytes_per_parameter` of a stage; further models included.
        """
        if lora is None:
            return per_parameter * self.parameters
        models = (per_parameter - FULL_TRAINING_BYTES) // 4 + 1
        frozen = 4 * self.parameters
        if lora.load_in_4bit:
            in_4bit = sum(first * second for first, second in self.linear.values())
            frozen -= int((4 - FOUR_BIT_BYTES) * in_4bit)
        return models * frozen + FULL_TRAINING_BYTES * self.adapter_parameters(lora)


def of_folder(folder: Path) -> CheckpointShape | None:
    """Return the shape of a model folder; None without config.json, or without weights in safetensors.

    Raises:
        ToolkitError: a file of weights is damaged or missing.
    """
    files = safetensors_files.weight_files(folder)
    if not files or not (folder / "config.json").is_file():
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        return None
    stored = {name: tensor for file in files for name, tensor in safetensors_files.header(file).items()}
    return of_tensors(config, stored)


def of_tensors(config: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> CheckpointShape | None:
    """Return the shape of a model with this config.json and these tensors; None without an embedding."""
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))
    tensors = {name: tensor for name, tensor in stored.items() if _is_parameter(name, tensor)}
    reading_text = {name: tensor for name, tensor in tensors.items() if not _OTHER_MODALITIES.search(name)}
    table = next((tensor for name, tensor in reading_text.items() if _module(name) in EMBEDDINGS), None)
    if table is None or len(table.shape) != 2:
        return None
    if tied:  # stored a second time
        again = {n for n, t in tensors.items() if _module(n) in HEADS and t.shape == table.shape}
        tensors = {name: tensor for name, tensor in tensors.items() if name not in again}
    has_head = any(_module(name) in HEADS for name in tensors)
    dtypes: Counter[str] = Counter()
    for tensor in tensors.values():
        dtypes[tensor.dtype] += tensor.numbers
    indices = {int(found[1]) for name in reading_text if (found := _LAYER.search(name))}
    return CheckpointShape(
        parameters=sum(tensor.numbers for tensor in tensors.values()),
        multiplying=round(sum(_used(name, t, text, has_head) for name, t in tensors.items())),
        layers=_named(text, LAYER_NAMES) or max(indices, default=-1) + 1,
        width=table.shape[1],
        heads=_named(text, HEAD_COUNT_NAMES) or 0,
        attention_width=_attention_width(text, tensors, width=table.shape[1]),
        positions=None if text.get("alibi") else _named(text, POSITION_NAMES),
        vocabulary=table.shape[0],
        dtypes=dict(dtypes.most_common()),
        bytes=sum(tensor.bytes for tensor in tensors.values()),
        linear={
            name.removesuffix(".weight"): tensor.shape
            for name, tensor in tensors.items()
            if name.endswith(".weight") and len(tensor.shape) == 2 and ".experts." not in name
            and _module(name) not in EMBEDDINGS | POSITION_EMBEDDINGS | HEADS
        },
        has_experts=any(".experts." in name for name in tensors),
    )  # fmt: skip


def _is_parameter(name: str, tensor: StoredTensor) -> bool:
    """Return whether training changes a tensor: causal masks, frequencies and counters are constants."""
    is_mask = len(tensor.shape) == 4 and tensor.shape[:2] == (1, 1) and name.endswith(".bias")
    return tensor.dtype in _FLOATS and not is_mask and not _NO_PARAMETER.search(name)


def _used(name: str, tensor: StoredTensor, config: Mapping[str, Any], has_head: bool) -> float:
    """Return how many numbers of a tensor multiply a token."""
    module = _module(name)
    if _OTHER_MODALITIES.search(name) or module in POSITION_EMBEDDINGS or (module in EMBEDDINGS and has_head):
        return 0
    experts, chosen = _named(config, EXPERT_NAMES), _named(config, CHOSEN_EXPERT_NAMES)
    share = chosen / experts if ".experts." in name and experts and chosen else 1
    return tensor.numbers * share


def _attention_width(config: Mapping[str, Any], names: Mapping[str, object], *, width: int) -> int:
    if not any("attn" in name or "attention" in name for name in names):
        return 0
    heads, head_width = _named(config, HEAD_COUNT_NAMES), config.get("head_dim")
    return heads * head_width if heads and isinstance(head_width, int) else width


def _named(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """Return the first positive integer that a configuration has under one of the names."""
    values = (config.get(name) for name in names)
    return next((value for value in values if type(value) is int and value > 0), None)


def _module(name: str) -> str:
    """Return the name of the module that a weight belongs to, without its path."""
    return name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]


def _is_target(name: str, lora: LoraSettings) -> bool:
    if lora.target_modules == ALL_LINEAR:
        return True
    return any(f".{name}".endswith(f".{target}") for target in lora.target_modules)
