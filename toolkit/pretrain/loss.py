"""The training loss of a language model as one module, so that it is compiled and distributed as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from toolkit.config.schema import PretrainRecipe
from toolkit.models.kernels import SigmoidGelu
from toolkit.models.shape import LONGEST_PLAIN, SHORTEST_HALVED, head_block
from toolkit.pretrain.chunked_cross_entropy import chunked_cross_entropy
from toolkit.pretrain.levers import ALL, Levers
from toolkit.runtime.upstream_private import attention_implementation

CAUSAL_ATTENTION = "toolkit_causal"


def causal_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    same_document: Tensor | None = None,
    **settings,
) -> tuple[Tensor, None]:
    """Compute causal attention of unpadded rows, (rows, heads, length, head width), without a dense mask.

    GPT-2 passes position ids, which makes transformers build a dense mask under torch.compile, and a dense
    mask disables the flash kernels. Only correct for training: no padding, no cache.

    On a CPU in bf16 the flash kernel is slow: a whole training step processes 6400 tokens per second and core
    with it, 8100 with matrix products (4 layers of 192, length 256; in fp32 there is no difference).

    With fewer heads of keys and values than of queries, neighbouring queries share one. Rotary positions turn
    queries and keys into fp32 under autocast; they return to the dtype of the values.

    Args:
        same_document: (rows, 1, length, length) bool; if given, positions attend only to their own document.
    """
    length = query.shape[2]
    _require_plain(attention_mask, settings, length)
    query, key = query.to(value.dtype), key.to(value.dtype)
    if (shared := query.shape[1] // key.shape[1]) > 1:
        key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and length <= LONGEST_PLAIN:
        scaled = query * settings["scaling"]
        return _matmul_attention(scaled, key, value, same_document, settings.get("dropout", 0.0)), None
    mask = None if same_document is None else same_document.tril()
    attended = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None,
        dropout_p=settings.get("dropout", 0.0), scale=settings.get("scaling"),
    )  # fmt: skip
    return attended.transpose(1, 2), None


PLAIN_SETTINGS = {"dropout", "scaling", "position_ids", "use_cache", "is_causal"}
"""What models pass to their attention without changing what it computes in training."""


def _require_plain(attention_mask: Tensor | None, settings: dict[str, Any], length: int) -> None:
    """Refuse an attention that is more than causal: with a mask, a window, a cap or sinks.

    Raises:
        NotImplementedError: names what the model asks for.
    """
    if attention_mask is not None:
        raise NotImplementedError("its attention has a mask of its own")
    for name, value in settings.items():
        is_wide = name == "sliding_window" and value is not None and value >= length
        if value is not None and name not in PLAIN_SETTINGS and not is_wide:
            raise NotImplementedError(f"its attention has a setting of its own, {name}")


def _matmul_attention(
    query: Tensor, key: Tensor, value: Tensor, same_document: Tensor | None, dropout: float
) -> Tensor:  # fmt: skip
    """Return causal attention, (rows, length, heads, head width), computed by matrix products.

    The first half of a long row never attends to the second, which saves a quarter of the work, 1.2 % of a
    step.
    """
    length = query.shape[2]
    half = length // 2 if length >= SHORTEST_HALVED and length % 2 == 0 else 0
    attended = []
    for start, end in ((0, half), (half, length)) if half else ((0, length),):
        future = torch.full((end - start, end), -math.inf, dtype=query.dtype).triu(1 + start)
        scores = query[:, :, start:end] @ key[:, :, :end].transpose(2, 3) + future
        if same_document is not None:
            scores = scores.masked_fill(~same_document[:, :, start:end, :end], -math.inf)
        probabilities = functional.dropout(scores.softmax(-1), dropout).to(value.dtype)
        attended.append(probabilities @ value[:, :, :end])
    return torch.cat(attended, dim=2).transpose(1, 2)


AttentionInterface.register(CAUSAL_ATTENTION, causal_attention)


@contextmanager
def count_attentions() -> Iterator[list[nn.Module]]:
    """Yield a list of the layers that compute with `causal_attention` inside this context."""
    layers: list[nn.Module] = []

    def counting(module: nn.Module, *args: Any, **settings: Any) -> tuple[Tensor, None]:
        layers.append(module)
        return causal_attention(module, *args, **settings)

    AttentionInterface.register(CAUSAL_ATTENTION, counting)
    try:
        yield layers
    finally:
        AttentionInterface.register(CAUSAL_ATTENTION, causal_attention)


@contextmanager
def use_training_kernels(
    model: PreTrainedModel, *, causal: bool = True, logistic: bool = False
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Compute with training's fast attention and activation inside this context.

    Yields a function that opens a context with the model's own kernels: sampling needs the model's own
    attention, and a configuration that is saved must not name ours.

    Args:
        causal: attend without a mask; False keeps the model's own attention.
        logistic: compute `gelu_pytorch_tanh` of a GPT-2 by `SigmoidGelu`.
    """
    own_attention = attention_implementation(model)
    layers = [block.mlp for block in model.base_model.h] if logistic else []
    own_activations, logistic_gelu = [layer.act for layer in layers], SigmoidGelu()

    def switch(training: bool) -> None:
        if causal:
            model.set_attn_implementation(CAUSAL_ATTENTION if training else own_attention)
        for layer, own_activation in zip(layers, own_activations, strict=True):
            layer.act = logistic_gelu if training else own_activation

    @contextmanager
    def use_model_kernels() -> Iterator[None]:
        switch(training=False)
        try:
            yield
        finally:
            switch(training=True)

    switch(training=True)
    try:
        yield use_model_kernels
    finally:
        switch(training=False)


TrainingKernels = Callable[[], AbstractContextManager[Callable[[], AbstractContextManager[None]]]]
"""Opens `use_training_kernels` with the model and the settings of one training."""


def training_kernels(
    recipe: PretrainRecipe, model: PreTrainedModel, *, compiled: bool, levers: Levers = ALL
) -> TrainingKernels:
    """Return the kernels with which a recipe trains this model, which must be on its device.

    Args:
        levers: what the model allows.
    """
    setting = recipe.speed.logistic_gelu
    if setting == "auto":
        on_cpu = model.device.type == "cpu"
        setting = compiled and on_cpu and recipe.has_fused_gelu
    causal = recipe.speed.causal_attention and levers.causal_attention
    return partial(use_training_kernels, model, causal=causal, logistic=setting)


class TrainingLoss(nn.Module):
    """Mean cross-entropy in nats per token.

    Args:
        model: a causal language model.
        bf16: compute in bfloat16 by autocast; weights, softmax and loss stay in fp32.
        end_id: if given, documents are kept separate: each starts at position 0 with the end-of-text token
            before it, as it is scored, and attends to no other. Needs `use_training_kernels`.
        head_block: positions whose logits are in memory at once (see `chunked_cross_entropy`); 0: all.
        levers: without `plain_head` the model computes its logits itself.
    """

    def __init__(
        self, model: PreTrainedModel, *, bf16: bool, end_id: int | None = None, head_block: int = 0,
        levers: Levers = ALL,
    ):  # fmt: skip
        super().__init__()
        self.model, self.bf16, self.end_id, self.head_block = model, bf16, end_id, head_block
        self.plain_head = levers.plain_head

    def forward(self, rows: Tensor) -> Tensor:
        """Return the loss, a scalar, of token ids (rows, length + 1)."""
        targets = rows[:, 1:].flatten()
        if not self.plain_head:
            return functional.cross_entropy(self.own_logits(rows).float(), targets)
        hidden = self.hidden(rows)
        if self.head_block and self.head_block < len(targets):
            weight, block = self.model.get_output_embeddings().weight, self.head_block
            return chunked_cross_entropy(hidden.flatten(0, 1), weight, targets, block=block, bf16=self.bf16)
        return functional.cross_entropy(self.logits(hidden).float(), targets)

    def hidden(self, rows: Tensor) -> Tensor:
        """Return the last hidden states, (rows, length, width)."""
        with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return self.model.base_model(**self._inputs(rows)).last_hidden_state

    def own_logits(self, rows: Tensor) -> Tensor:
        """Return the logits of all positions as the model computes them, (rows * length, vocabulary)."""
        with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return self.model(**self._inputs(rows)).logits.flatten(0, 1)

    def _inputs(self, rows: Tensor) -> dict[str, Any]:
        separate = {} if self.end_id is None else document_inputs(rows[:, :-1], self.end_id)
        return {"input_ids": rows[:, :-1], "use_cache": False, **separate}

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of all positions, (rows * length, vocabulary)."""
        with torch.autocast(hidden.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return self.model.get_output_embeddings()(hidden).flatten(0, 1)

    def enable_compilation(self, *, whole_loss: bool = True) -> None:
        """Compile the whole loss, or, to measure the difference, only the part before the logits."""
        if whole_loss:
            self.compile(dynamic=False)  # one graph with fixed shapes for each row length
        else:
            self.hidden = torch.compile(self.hidden, dynamic=False)


def build_loss(
    recipe: PretrainRecipe, model: PreTrainedModel, *, micro_tokens: int, end_id: int, bf16: bool,
    levers: Levers = ALL,
) -> TrainingLoss:  # fmt: skip
    """Return the loss that a recipe trains with, not compiled.

    Args:
        micro_tokens: tokens of one forward pass.
        end_id: the token before a document, used if the recipe separates documents.
        levers: what the model allows.
    """
    vocabulary = model.get_output_embeddings().weight.shape[0]
    block = head_block(recipe.speed.head_block_tokens, positions=micro_tokens, vocabulary=vocabulary)
    separator = end_id if recipe.separate_documents else None
    return TrainingLoss(model, bf16=bf16, end_id=separator, head_block=block, levers=levers)


def should_compile(recipe: PretrainRecipe, device: torch.device, levers: Levers = ALL) -> bool:
    """Say whether a recipe is compiled on this device; a checkpoint with its own attention only if asked."""
    if recipe.compile != "auto":
        return recipe.compile
    return device.type == "cuda" and (recipe.checkpoint is None or levers.causal_attention)


def document_inputs(inputs: Tensor, end_id: int) -> dict[str, Tensor]:
    """Return position_ids (rows, length) and same_document (rows, 1, length, length) of packed inputs."""
    is_start = inputs == end_id
    document = is_start.cumsum(1)
    positions = torch.arange(inputs.shape[1], device=inputs.device)
    starts = torch.where(is_start, positions, 0).cummax(1).values
    return {
        "position_ids": positions - starts,
        "same_document": (document[:, :, None] == document[:, None, :])[:, None],
    }
