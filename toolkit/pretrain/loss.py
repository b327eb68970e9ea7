"""The training loss of a language model as one module, so that it is compiled and distributed as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from toolkit.config.schema import PretrainRecipe
from toolkit.models.kernels import SigmoidGelu
from toolkit.models.shape import LONGEST_PLAIN, SHORTEST_HALVED, head_block
from toolkit.pretrain.chunked_cross_entropy import chunked_cross_entropy
from toolkit.runtime.upstream_private import attention_implementation

CAUSAL_ATTENTION = "toolkit_causal"


def causal_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    same_document: Tensor | None = None,
    **settings,
) -> tuple[Tensor, None]:
    """Compute causal attention of unpadded rows, (rows, heads, length, head width), without a dense mask.

    GPT-2 passes position ids, which makes transformers build a dense mask under torch.compile, and a dense
    mask disables the flash kernels. Only correct for training: no padding, no cache.

    On a CPU in bf16 the flash kernel is slow: a whole training step processes 6400 tokens per second and core
    with it, 8100 with matrix products (4 layers of 192, length 256; in fp32 there is no difference).

    Args:
        same_document: (rows, 1, length, length) bool; if given, positions attend only to their own document.
    """
    length = query.shape[2]
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and length <= LONGEST_PLAIN:
        scaled = query * settings["scaling"]
        return _matmul_attention(scaled, key, value, same_document, settings.get("dropout", 0.0)), None
    mask = None if same_document is None else same_document.tril()
    attended = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None,
        dropout_p=settings.get("dropout", 0.0), scale=settings.get("scaling"),
    )  # fmt: skip
    return attended.transpose(1, 2), None


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
def use_training_kernels(
    model: PreTrainedModel, *, causal: bool = True, logistic: bool = False
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Compute with training's fast attention and activation inside this context.

    Yields a function that opens a context with the model's own kernels: sampling needs the model's own
    attention, and a configuration that is saved must not name ours.

    Args:
        causal: attend without a mask; False keeps the model's own attention.
        logistic: compute `gelu_pytorch_tanh` by `SigmoidGelu`.
    """
    own_attention = attention_implementation(model)
    layers = [block.mlp for block in model.base_model.h]
    own_activations, logistic_gelu = [layer.act for layer in layers], SigmoidGelu()

    def switch(training: bool) -> None:
        if causal:
            model.set_attn_implementation(CAUSAL_ATTENTION if training else own_attention)
        for layer, own_activation in zip(layers, own_activations, strict=True):
            layer.act = logistic_gelu if training and logistic else own_activation

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


def training_kernels(recipe: PretrainRecipe, model: PreTrainedModel, *, compiled: bool) -> TrainingKernels:
    """Return the kernels with which a recipe trains this model, which must be on its device."""
    setting = recipe.speed.logistic_gelu
    if setting == "auto":
        on_cpu = model.device.type == "cpu"
        setting = compiled and on_cpu and recipe.model.activation == "gelu_pytorch_tanh"
    return partial(use_training_kernels, model, causal=recipe.speed.causal_attention, logistic=setting)


class TrainingLoss(nn.Module):
    """Mean cross-entropy in nats per token.

    Args:
        model: a GPT-2.
        bf16: compute in bfloat16 by autocast; weights, softmax and loss stay in fp32.
        end_id: if given, documents are kept separate: each starts at position 0 with the end-of-text token
            before it, as it is scored, and attends to no other. Needs `use_training_kernels`.
        head_block: positions whose logits are in memory at once (see `chunked_cross_entropy`); 0: all.
    """

    def __init__(self, model: PreTrainedModel, *, bf16: bool, end_id: int | None = None, head_block: int = 0):
        super().__init__()
        self.model, self.bf16, self.end_id, self.head_block = model, bf16, end_id, head_block

    def forward(self, rows: Tensor) -> Tensor:
        """Return the loss, a scalar, of token ids (rows, length + 1)."""
        targets = rows[:, 1:].flatten()
        hidden = self.hidden(rows)
        if self.head_block and self.head_block < len(targets):
            weight, block = self.model.lm_head.weight, self.head_block
            return chunked_cross_entropy(hidden.flatten(0, 1), weight, targets, block=block, bf16=self.bf16)
        return functional.cross_entropy(self.logits(hidden).float(), targets)

    def hidden(self, rows: Tensor) -> Tensor:
        """Return the last hidden states, (rows, length, width)."""
        separate = {} if self.end_id is None else document_inputs(rows[:, :-1], self.end_id)
        with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            output = self.model.base_model(input_ids=rows[:, :-1], use_cache=False, **separate)
            return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of all positions, (rows * length, vocabulary)."""
        with torch.autocast(hidden.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return self.model.lm_head(hidden).flatten(0, 1)

    def enable_compilation(self, *, whole_loss: bool = True) -> None:
        """Compile the whole loss, or, to measure the difference, only the part before the logits."""
        if whole_loss:
            self.compile(dynamic=False)  # one graph with fixed shapes for each row length
        else:
            self.hidden = torch.compile(self.hidden, dynamic=False)


def build_loss(
    recipe: PretrainRecipe, model: PreTrainedModel, *, micro_tokens: int, end_id: int, bf16: bool
) -> TrainingLoss:  # fmt: skip
    """Return the loss that a recipe trains with, not compiled.

    Args:
        micro_tokens: tokens of one forward pass.
        end_id: the end-of-text token, used if the recipe separates documents.
    """
    block = head_block(
        recipe.speed.head_block_tokens, positions=micro_tokens, vocabulary=model.lm_head.weight.shape[0]
    )
    separator = end_id if recipe.separate_documents else None
    return TrainingLoss(model, bf16=bf16, end_id=separator, head_block=block)


def should_compile(recipe: PretrainRecipe, device: torch.device) -> bool:
    """Say whether a recipe is compiled on this device."""
    return device.type == "cuda" if recipe.compile == "auto" else recipe.compile


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
