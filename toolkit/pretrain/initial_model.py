"""The model that a training starts from: random weights, or a checkpoint and the fast paths that it allows.

What a foreign architecture allows is measured on random tokens, not looked up by its name: the same class
attends with or without a window, and scales its logits or not, as its configuration says.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.base.console import tell
from toolkit.base.errors import ToolkitError
from toolkit.config.schema import PretrainRecipe
from toolkit.data.text.shards import TokenShards
from toolkit.models import architectures
from toolkit.models.architectures import blocks, build
from toolkit.models.context_length import context_length
from toolkit.models.loading import load_causal_lm
from toolkit.models.shape import mean_flops_per_token
from toolkit.models.tokenizer_loading import load_tokenizer, tokenizer_digest
from toolkit.pretrain.levers import ALL, Levers
from toolkit.pretrain.loss import TrainingLoss, count_attentions, use_training_kernels
from toolkit.pretrain.preflight import find_leaks, random_rows
from toolkit.runs.run import Run

TOLERANCE = 1e-4
"""Largest difference of hidden states, as a fraction of the largest of them, between two implementations of
the same attention; in fp32 they differ by 1e-6."""
LEAK = 1e-4
"""Tolerated change of a hidden state that must not depend on a token, as a fraction of the token's own.
Experts compute with other shapes where other tokens are theirs, which rounds in another way."""


@dataclass(frozen=True)
class InitialModel:
    """A model before its first step, in fp32 on its device, and the tokenizer that is saved with it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    levers: Levers

    def flops_per_token(self, recipe: PretrainRecipe) -> float | None:
        """Return the mean over the training; None for a checkpoint that is not a plain transformer."""
        if recipe.checkpoint is None:
            return mean_flops_per_token(recipe, vocab_size=len(self.tokenizer))
        is_plain = self.levers == ALL and architectures.is_dense(self.model)
        return architectures.flops_per_token(self.model, recipe.row_tokens()) if is_plain else None


def load(recipe: PretrainRecipe, run: Run, *, corpus: Path, device: torch.device) -> InitialModel:
    """Build the model of a recipe with random weights, or load its checkpoint.

    Args:
        corpus: the folder with train/ and tokenizer/.

    Raises:
        ToolkitError: a checkpoint that cannot be loaded, that has another tokenizer than the corpus, or that
            the recipe asks for something it cannot do.
    """
    tokenizer = load_tokenizer((str(corpus / "tokenizer"), None))
    if recipe.checkpoint is None:
        model = build(
            recipe.shape, vocab_size=len(tokenizer), seed=recipe.seed,
            end_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id,
        )  # fmt: skip
        levers = Levers(causal_attention=recipe.speed.causal_attention)
        return InitialModel(model.to(device), tokenizer, levers)
    reference = run.model_reference(recipe.checkpoint)
    own_tokenizer = load_tokenizer(reference)
    _require_same_tokenizer(tokenizer, own_tokenizer, recipe)
    model, _ = load_causal_lm(reference, device=device)
    _require_length(model, recipe)
    shards = TokenShards.open(corpus / "train")
    vocabulary = known_ids(model, tokenizer)
    rows = random_rows(recipe.row_tokens(), vocabulary, shards.start_id).to(device)
    _require_causal(model, rows, recipe)
    reasons = _reasons(model, rows, recipe)
    levers = Levers(**{name: name not in reasons for name in asdict(Levers())})
    levers = Levers(**run.decide("levers", asdict(levers)))
    if run.is_main:
        _tell(run.name, recipe, reasons)
    _require_supported(model, recipe, levers, reasons)
    if recipe.separate_documents:
        _require_separate_documents(model, rows, recipe, start_id=shards.start_id)
    _require_trainable(model, rows, recipe, levers)
    return InitialModel(model, own_tokenizer, levers)


def known_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the number of ids that tokenizer and model both know: some ship with an entry more than rows."""
    return min(len(tokenizer), model.get_input_embeddings().num_embeddings)


def _require_same_tokenizer(
    corpus: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase, recipe: PretrainRecipe
) -> None:
    if tokenizer_digest(corpus) == tokenizer_digest(own) and corpus.eos_token_id == own.eos_token_id:
        return
    raise ToolkitError(
        f"the corpus {recipe.tokens} was tokenized by another tokenizer than that of {recipe.checkpoint}, so "
        "its ids mean other text to this model",
        where="tokens", fix=f"write tokenizer: {recipe.checkpoint} in the corpus recipe, and run it again",
    )  # fmt: skip


def _require_length(model: PreTrainedModel, recipe: PretrainRecipe) -> None:
    limit, length = context_length(model), recipe.row_tokens()
    if limit is not None and length > limit:
        raise ToolkitError(
            f"sequence_length {length} is more than the {limit} positions of {recipe.checkpoint}",
            where="sequence_length", fix=f"use at most {limit}",
        )  # fmt: skip


@torch.no_grad()
def _require_causal(model: PreTrainedModel, rows: Tensor, recipe: PretrainRecipe) -> None:
    """Refuse a model that is broken, and one whose predictions depend on later tokens, such as an encoder."""
    loss = TrainingLoss(model, bf16=False)
    if not bool(loss.hidden(rows).isfinite().all()):
        raise ToolkitError(
            f"the hidden states of {recipe.checkpoint} are not finite: its weights hold NaN or are too large",
            where="model", fix="save or download the checkpoint again",
        )  # fmt: skip
    if find_leaks(loss, rows, tolerated=LEAK):
        raise ToolkitError(
            f"{recipe.checkpoint} is not a causal language model: its hidden states depend on later tokens",
            where="model", fix="choose a causal language model, such as HuggingFaceTB/SmolLM2-135M",
        )  # fmt: skip


@torch.no_grad()
def _reasons(model: PreTrainedModel, rows: Tensor, recipe: PretrainRecipe) -> dict[str, str]:
    """Return why a fast path does not hold for a model, by the name of the lever."""
    reasons = {}
    inputs = rows[:, :-1]
    own = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    is_matrix = isinstance(head, nn.Linear) and head.bias is None
    if not is_matrix or not torch.equal(head(own), model(input_ids=inputs, use_cache=False).logits):
        reasons["plain_head"] = "its logits are not only a matrix times the last hidden states"
    if not recipe.speed.causal_attention:
        reasons["causal_attention"] = "speed.causal_attention is false"
    elif difference := _attention_difference(model, inputs, own):
        reasons["causal_attention"] = difference
    return reasons


def _attention_difference(model: PreTrainedModel, inputs: Tensor, own: Tensor) -> str | None:
    """Return how training's attention differs from a model's own; None if it computes the same.

    Args:
        own: the last hidden states, (rows, length, width), with the model's own attention.
    """
    try:
        with use_training_kernels(model), count_attentions() as calls:
            ours = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
    except (NotImplementedError, ValueError, TypeError, RuntimeError) as error:
        return str(error).strip().partition("\n")[0] or type(error).__name__
    if not calls:
        return "it cannot be replaced in this architecture"
    if (ours - own).abs().max() > TOLERANCE * own.abs().max():
        return "it attends to other tokens, or with other weights, than plain causal attention"
    return None


def _tell(name: str, recipe: PretrainRecipe, reasons: dict[str, str]) -> None:
    """Print what is switched off for a checkpoint."""
    if "causal_attention" in reasons and recipe.speed.causal_attention:
        tell(f"{name}: trains with the checkpoint's own attention: {reasons['causal_attention']}")
    if "plain_head" in reasons:
        tell(f"{name}: computes the logits of all positions at once: {reasons['plain_head']}")


def _require_supported(
    model: PreTrainedModel, recipe: PretrainRecipe, levers: Levers, reasons: dict[str, str]
) -> None:
    """Refuse settings that a checkpoint does not allow."""
    if recipe.separate_documents and not levers.causal_attention:
        raise ToolkitError(
            f"documents cannot be kept separate in {recipe.checkpoint}: it trains with its own attention "
            f"({reasons.get('causal_attention', 'as the run began')})",
            where="separate_documents", fix="set separate_documents: false",
        )  # fmt: skip
    if recipe.speed.head_block_tokens not in ("auto", 0) and not levers.plain_head:
        raise ToolkitError(
            f"the logits of {recipe.checkpoint} cannot be computed in blocks: "
            f"{reasons.get('plain_head', 'as the run began')}",
            where="speed.head_block_tokens", fix="leave it out",
        )  # fmt: skip
    if recipe.shard_weights is True and not blocks(model):
        raise ToolkitError(
            f"the weights of {recipe.checkpoint} cannot be sharded: its class does not name its blocks",
            where="shard_weights", fix="set shard_weights: false",
        )  # fmt: skip


def _require_separate_documents(
    model: PreTrainedModel, rows: Tensor, recipe: PretrainRecipe, *, start_id: int
) -> None:
    """Refuse an architecture that does not pass on to its attention which tokens are of one document."""
    loss = TrainingLoss(model, bf16=False, end_id=start_id)
    try:
        with torch.no_grad(), use_training_kernels(model):
            problems = find_leaks(loss, rows, tolerated=LEAK)
    except (NotImplementedError, ValueError, TypeError, RuntimeError) as error:
        problems = [str(error).strip().partition("\n")[0]]
    if problems:
        raise ToolkitError(
            f"documents cannot be kept separate in {recipe.checkpoint}: {problems[0]}",
            where="separate_documents", fix="set separate_documents: false",
        )  # fmt: skip


def _require_trainable(model: PreTrainedModel, rows: Tensor, recipe: PretrainRecipe, levers: Levers) -> None:
    """Refuse a model with state that a checkpoint of the training would not hold.

    That is parameters without a gradient, which have no optimizer state, and buffers.
    """
    loss = TrainingLoss(model, bf16=False, levers=levers)
    with use_training_kernels(model, causal=levers.causal_attention):
        loss(rows).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    model.zero_grad(set_to_none=True)
    trained = {name for name, _ in model.named_parameters()} - set(model.all_tied_weights_keys)
    without += sorted(set(model.state_dict()) - trained - set(model.all_tied_weights_keys))
    if without:
        raise ToolkitError(
            f"training would not change {len(without)} weights of {recipe.checkpoint}, such as {without[0]}",
            where="model", fix="this architecture cannot be trained further here; choose another checkpoint",
        )  # fmt: skip
