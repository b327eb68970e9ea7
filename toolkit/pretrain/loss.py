"""The training loss of a language model as one module, so that it compiles and distributes as a whole."""

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
from toolkit.models.shape import LONGEST_PLAIN, SHORTEST_HALVED, head_block
from toolkit.pretrain import chunked_cross_entropy
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
    """Attend to the past of unpadded rows, (rows, heads, length, width of a head), without a dense mask.

    Args:
        same_document: (rows, 1, length, length) bool; where given, positions see only their own document.

    GPT-2 passes position ids, which makes transformers build a dense mask under torch.compile, and a dense
    mask loses the flash kernels. Only right for training: no padding, no cache.

    On a CPU in bf16 the flash kernel is slow: 6400 tokens per second and core of a whole training step with
    it, 8100 with plain matrix products (4 layers of 192, length 256; in fp32 there is no difference).
    """
    length = query.shape[2]
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and length <= LONGEST_PLAIN:
        return _plain(
            query * settings["scaling"], key, value, same_document, settings.get("dropout", 0.0)
        ), None
    mask = None if same_document is None else same_document.tril()
    attended = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None,
        dropout_p=settings.get("dropout", 0.0), scale=settings.get("scaling"),
    )  # fmt: skip
    return attended.transpose(1, 2), None


def _plain(query: Tensor, key: Tensor, value: Tensor, same_document: Tensor | None, dropout: float) -> Tensor:
    """Return causal attention, (rows, length, heads, width of a head), by products of matrices.

    The first half of a long row never looks at the second: a quarter of the work less, 1.2 % of a step.
    """
    length = query.shape[2]
    half = length // 2 if length >= SHORTEST_HALVED and length % 2 == 0 else 0
    attended = []
    for start, end in ((0, half), (half, length)) if half else ((0, length),):
        future = torch.full((end - start, end), -math.inf, dtype=query.dtype).triu(1 + start)
        scores = query[:, :, start:end] @ key[:, :, :end].transpose(2, 3) + future
        if same_document is not None:
            scores = scores.masked_fill(~same_document[:, :, start:end, :end], -math.inf)
        shares = functional.dropout(scores.softmax(-1), dropout).to(value.dtype)
        attended.append(shares @ value[:, :, :end])
    return torch.cat(attended, dim=2).transpose(1, 2)


AttentionInterface.register(CAUSAL_ATTENTION, causal_attention)


class LogisticGelu(nn.Module):
    """`gelu_pytorch_tanh` by 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2 u)), exact but for rounding.

    The vectorised exp of a CPU is faster than its tanh, if a compiler fuses the rest.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Return the activation of values of any shape; u = sqrt(2 / pi) (x + 0.044715 x^3)."""
        double = 2 * math.sqrt(2 / math.pi)
        return values * torch.sigmoid(values * (double + double * 0.044715 * values * values))


@contextmanager
def forms_for_training(
    model: PreTrainedModel, *, causal: bool = True, logistic: bool = False
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Compute in the forms that training is fast with; yields a block in which all is as it was before.

    Sampling needs the usual attention, and no configuration that is saved may name ours.

    Args:
        causal: attend without a mask; False leaves the model's own attention.
        logistic: compute `gelu_pytorch_tanh` by `LogisticGelu`.
    """
    before = attention_implementation(model)
    layers = [block.mlp for block in model.base_model.h]
    usual, fast = [layer.act for layer in layers], LogisticGelu()

    def turn(on: bool) -> None:
        if causal:
            model.set_attn_implementation(CAUSAL_ATTENTION if on else before)
        for layer, own in zip(layers, usual, strict=True):
            layer.act = fast if on and logistic else own

    @contextmanager
    def as_before() -> Iterator[None]:
        turn(False)
        try:
            yield
        finally:
            turn(True)

    turn(True)
    try:
        yield as_before
    finally:
        turn(False)


Forms = Callable[[], AbstractContextManager[Callable[[], AbstractContextManager[None]]]]
"""Opens `forms_for_training` of one training."""


def forms_of(recipe: PretrainRecipe, model: PreTrainedModel, *, compiled: bool) -> Forms:
    """Return what opens the forms in which a recipe trains this model, which must lie on its device."""
    setting = recipe.speed.logistic_gelu
    if setting == "auto":
        on_cpu = model.device.type == "cpu"
        setting = compiled and on_cpu and recipe.model.activation == "gelu_pytorch_tanh"
    return partial(forms_for_training, model, causal=recipe.speed.causal_attention, logistic=setting)


class TrainingLoss(nn.Module):
    """Mean cross-entropy in nats of each token given the ones before it.

    Args:
        model: a GPT-2.
        bf16: compute in bfloat16 by autocast; weights, softmax and loss stay in fp32.
        end_id: where given, documents are kept apart: each starts at position 0 with the end-of-text before
            it, as it is scored, and sees nothing of its neighbours. Needs `forms_for_training`.
        head_block: positions whose logits exist at once (see `head.blockwise_loss`); 0: all.
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
            return chunked_cross_entropy.blockwise_loss(
                hidden.flatten(0, 1), weight, targets, block=block, bf16=self.bf16
            )
        return functional.cross_entropy(self.logits(hidden).float(), targets)

    def hidden(self, rows: Tensor) -> Tensor:
        """Return the last hidden states, (rows, length, width)."""
        apart = {} if self.end_id is None else documents_apart(rows[:, :-1], self.end_id)
        with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return self.model.base_model(input_ids=rows[:, :-1], use_cache=False, **apart).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of all positions, (rows * length, vocabulary)."""
        with torch.autocast(hidden.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return self.model.lm_head(hidden).flatten(0, 1)

    def speed_up(self, *, inside: bool = True) -> None:
        """Compile: the whole loss, or (to measure what that is worth) only what comes before the logits."""
        if inside:
            self.compile(dynamic=False)  # rows of another length are another graph, each with fixed shapes
        else:
            self.hidden = torch.compile(self.hidden, dynamic=False)


def loss_of(
    recipe: PretrainRecipe, model: PreTrainedModel, *, micro_tokens: int, end_id: int, bf16: bool
) -> TrainingLoss:  # fmt: skip
    """Return the loss that a recipe trains with, not compiled.

    Args:
        micro_tokens: of one forward pass.
        end_id: the end of a document, where the recipe keeps them apart.
    """
    block = head_block(
        recipe.speed.head_block_tokens, positions=micro_tokens, vocabulary=model.lm_head.weight.shape[0]
    )
    apart = end_id if recipe.separate_documents else None
    return TrainingLoss(model, bf16=bf16, end_id=apart, head_block=block)


def compiles(recipe: PretrainRecipe, device: torch.device) -> bool:
    """Say whether a recipe is compiled here."""
    return device.type == "cuda" if recipe.compile == "auto" else recipe.compile


def documents_apart(inputs: Tensor, end_id: int) -> dict[str, Tensor]:
    """Return position_ids (rows, length) and same_document (rows, 1, length, length) of packed inputs."""
    starts = inputs == end_id
    number = starts.cumsum(1)
    places = torch.arange(inputs.shape[1], device=inputs.device)
    begins = torch.where(starts, places, 0).cummax(1).values
    return {
        "position_ids": places - begins,
        "same_document": (number[:, :, None] == number[:, None, :])[:, None],
    }
