"""The training loss of a language model as one module, so that it compiles and distributes as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from toolkit.models.shape import LONGEST_PLAIN, head_block
from toolkit.pretrain import head
from toolkit.pretrain.optimizer import is_block_matrix
from toolkit.recipe.schema import PretrainRecipe

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
        future = torch.full((length, length), -math.inf, dtype=query.dtype).triu(1)
        scores = (query * settings["scaling"]) @ key.transpose(2, 3) + future  # (rows, heads, length, length)
        if same_document is not None:
            scores = scores.masked_fill(~same_document, -math.inf)
        shares = functional.dropout(scores.softmax(-1), settings.get("dropout", 0.0)).to(value.dtype)
        return (shares @ value).transpose(1, 2), None
    mask = None if same_document is None else same_document.tril()
    attended = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None,
        dropout_p=settings.get("dropout", 0.0), scale=settings.get("scaling"),
    )  # fmt: skip
    return attended.transpose(1, 2), None


AttentionInterface.register(CAUSAL_ATTENTION, causal_attention)


@contextmanager
def attention_for_training(
    model: PreTrainedModel, *, causal: bool = True
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Attend without a mask inside the block; yields a block in which attention is as it was before.

    Sampling needs the usual attention, and no configuration that is saved may name ours.

    Args:
        causal: False leaves the model's own attention, to measure what this is worth.
    """
    before = model.config._attn_implementation
    if not causal:
        yield nullcontext
        return

    @contextmanager
    def as_before() -> Iterator[None]:
        model.set_attn_implementation(before)
        try:
            yield
        finally:
            model.set_attn_implementation(CAUSAL_ATTENTION)

    model.set_attn_implementation(CAUSAL_ATTENTION)
    try:
        yield as_before
    finally:
        model.set_attn_implementation(before)


class TrainingLoss(nn.Module):
    """Mean cross-entropy in nats of each token given the ones before it.

    Args:
        model: a GPT-2.
        bf16: compute in bfloat16 by autocast; weights, softmax and loss stay in fp32.
        end_id: where given, documents are kept apart: each starts at position 0 with the end-of-text before
            it, as it is scored, and sees nothing of its neighbours. Needs `attention_for_training`.
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
            return head.blockwise_loss(hidden.flatten(0, 1), weight, targets, block=block, bf16=self.bf16)
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


def transposes(recipe: PretrainRecipe, device: torch.device, *, bf16: bool) -> bool:
    """Say whether a recipe keeps its matrices transposed here (see `keep_transposed`)."""
    setting = recipe.speed.transposed_weights
    return (bf16 and device.type == "cpu") if setting == "auto" else setting


@torch.no_grad()
def keep_transposed(model: PreTrainedModel, transposed: bool = True) -> None:
    """Lay the matrices of the blocks out in memory as nn.Linear's, or as usual; shapes and numbers stay.

    GPT-2's `Conv1D` holds (inputs, outputs). oneDNN's bf16 product wants the inputs of one output side by
    side.
    """
    for name, parameter in model.named_parameters():
        if is_block_matrix(name, parameter):
            data = parameter.data
            parameter.data = data.t().contiguous().t() if transposed else data.contiguous()


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
