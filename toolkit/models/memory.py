"""Estimates of the memory that pretraining needs, and of the micro-batch that fits; no torch import.

w = n_embd, T = tokens of a row, tokens = of one micro-batch, V = rows of the embedding. Tensors that autograd
keeps were counted with torch.autograd.graph.saved_tensors_hooks, the others by reading the code.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from toolkit.config.schema import ModelSettings, PretrainRecipe
from toolkit.models.shape import (
    LONGEST_PLAIN,
    block_matrices,
    block_weights,
    head_block,
    num_parameters,
    padded_vocabulary,
    scored_at_once,
)

LIBRARIES = 480 * 2**20
"""Resident bytes of a process after importing torch, transformers and accelerate, and of a CUDA context."""
SLACK = 1.18
"""Overhead of the allocator: measured peaks on a CPU were 1.07 to 1.32 times the sum of the tensors."""
EVALUATION_TOKENS = 8192
"""Tokens of one forward pass in toolkit.inference.logprobs."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process, on its GPU if it has one."""

    libraries: int
    weights: int
    gradients: int
    optimizer: int
    """AdamW keeps two moments per weight, Muon one for the matrices of the blocks."""
    activations: int
    """Tensors kept for the backward pass of a micro-batch, and bf16 copies of the weights."""
    logits: int
    """Logits of a micro-batch or of one block, with their softmax and gradient."""
    update: int
    """Temporary tensors of the optimizer step."""
    snapshot: int
    """The copy from which a checkpoint is written in the background; for a GPU it is in host memory."""
    evaluation: int
    """Scoring of held-out text."""
    accumulating: bool
    """Gradients of earlier micro-batches exist while one is computed."""

    def parts(self) -> dict[str, int]:
        """Return the bytes of each part by name; not all exist at the same time."""
        return {name: value for name, value in vars(self).items() if name != "accumulating"}

    @property
    def peak(self) -> int:
        """The maximum over computing gradients, the optimizer step, and evaluation."""
        permanent = self.weights + self.optimizer + self.snapshot
        computing = self.activations + self.logits + self.gradients * self.accumulating
        temporary = max(computing, self.gradients + self.update, self.evaluation)
        return self.libraries + int(SLACK * (permanent + temporary))


def estimate(
    recipe: PretrainRecipe, *, vocab_size: int, bf16: bool, on_gpu: bool = False, processes: int = 1
) -> Memory:
    """Estimate the memory of one of `processes` for a recipe.

    On a GPU this is an upper bound, because torch.compile fuses operations and keeps fewer tensors.
    """
    model, tokens = recipe.shape, micro_batch(recipe, processes=processes)
    width, layers = model.n_embd, model.n_layer
    rows = padded_vocabulary(vocab_size, model.vocabulary_multiple)
    parameters = num_parameters(model, vocab_size=vocab_size)
    blocks = block_weights(model)
    muon = recipe.optimizer.name == "muon"
    share = processes if recipe.shard_weights is True else 1
    optimizer = 8 * parameters - 4 * blocks * muon
    parts = _parts(recipe, tokens, processes)
    # exact keeps one sum of gradients for each level of its tree, and the newest leaf
    gradients = 4 * parameters * (1 + int(math.log2(parts)) if recipe.exact else 1)
    logits = _logits(recipe, tokens, rows, width=width, bf16=bf16)
    layer = tokens * _layer_bytes(recipe, bf16=bf16, on_gpu=on_gpu)
    copies = 2 * (blocks + rows * width) * bf16
    saves = (4 * parameters + optimizer) * (recipe.speed.background_saves and not on_gpu)
    scored = min(EVALUATION_TOKENS, scored_at_once(rows, on_cpu=not on_gpu)) * rows
    return Memory(
        libraries=LIBRARIES,
        weights=4 * parameters // share,
        gradients=gradients // share,
        optimizer=optimizer // share,
        activations=layers * layer + tokens * width * (8 if bf16 else 12) + copies,
        logits=max(logits, layer),  # later freed for the gradients of one layer's activations
        # the matrices of one shape stacked, their updates, and four stacks in the iteration
        update=_largest_stack(model) * (20 if bf16 else 23) // share if muon else 0,
        snapshot=saves // share,
        # logits and their log softmax, and before them in bf16; spread weights are measured on a whole copy
        evaluation=(10 if bf16 else 8) * scored
        + EVALUATION_TOKENS * 12 * width * 4
        + 4 * parameters * (share > 1),
        accumulating=parts > 1,
    )


def micro_batch(recipe: PretrainRecipe, *, processes: int = 1) -> int:
    """Return the tokens of one forward pass on one process."""
    share = max(recipe.batch_tokens // processes, recipe.row_tokens())
    return min(recipe.micro_batch_tokens or share, share)


def _largest_stack(model: ModelSettings) -> int:
    """Return the numbers in the matrices of one shape of all layers, which Muon stacks, at most."""
    stacks = Counter[tuple[int, int]]()
    for inputs, outputs in block_matrices(model).values():
        stacks[inputs, outputs] += inputs * outputs
    return model.n_layer * max(stacks.values())


def _parts(recipe: PretrainRecipe, tokens: int, processes: int) -> int:
    return max(1, math.ceil(recipe.batch_tokens / processes / tokens))


def _layer_bytes(recipe: PretrainRecipe, *, bf16: bool, on_gpu: bool) -> int:
    """Return the bytes that one transformer block keeps for each token.

    GPT-2, in units of w: 2 inputs of norms (fp32 always), their 2 outputs, 3 of query, key and value, 1 of
    attention, 4 before and 4 after the activation. Llama: the inputs of 2 norms, before and after the
    division (fp32 always), their 2 outputs (in bf16 5: each matrix keeps its own copy), 3 of query, key
    (repeated for each head) and value, 1 of attention; and 4 between the matrices of the MLP.
    """
    model, size, length = recipe.shape, 2 if bf16 else 4, recipe.row_tokens()
    if model.architecture == "llama":
        total = (16 + (9 if bf16 else 6) * size) * model.n_embd + 4 * size * model.inner_width
    else:
        units = 14 + {"gelu_new": 12, "relu": -4}.get(model.activation, 0)
        total = (8 + units * size) * model.n_embd
    plain = bf16 and not on_gpu and length <= LONGEST_PLAIN
    if plain:
        total += size * model.n_head * length
    if recipe.separate_documents:
        total += length * (1 if plain else size)
    if model.dropout:  # a CPU has no fused attention with dropout: scores, shares and mask are kept
        total += 3 * size * model.n_embd + (0 if on_gpu else 3 * size * model.n_head * length)
    if not recipe.speed.causal_attention:
        total += length * size
    return total


def _logits(recipe: PretrainRecipe, tokens: int, rows: int, *, width: int, bf16: bool) -> int:
    """Return the bytes of softmax, its gradient and that of the logits: 12 per logit."""
    block = head_block(recipe.speed.head_block_tokens, positions=tokens, vocabulary=rows)
    if block == 0 or block >= tokens:
        return 12 * tokens * rows
    # blocks compute the gradients of the hidden states and of the head together
    return 12 * block * rows + 8 * rows * width + tokens * width * (6 if bf16 else 8)


def fitting_micro_batch(
    recipe: PretrainRecipe,
    available_bytes: int,
    *,
    vocab_size: int,
    bf16: bool,
    on_gpu: bool = False,
    processes: int = 1,
) -> int | None:
    """Return the largest `micro_batch_tokens` that fits, None if not even one row does.

    It divides the process's share of the batch; with `exact` the quotient is a power of two.
    """
    length = recipe.row_tokens()
    share = max(1, recipe.batch_tokens // processes // length)
    for count in range(share, 0, -1):
        parts, rest = divmod(share, count)
        if rest or (recipe.exact and parts & (parts - 1)):
            continue
        smaller = recipe.model_copy(update={"micro_batch_tokens": count * length})
        need = estimate(smaller, vocab_size=vocab_size, bf16=bf16, on_gpu=on_gpu, processes=processes)
        if need.peak <= available_bytes:
            return count * length
    return None


def fitting_model(recipe: PretrainRecipe, available_bytes: int, **settings: Any) -> ModelSettings | None:
    """Return the model with fewer layers, or else fewer heads, of which one row fits; None if none does.

    Fewer heads are multiples of `n_kv_head`, if it is set.

    Args:
        settings: as `fitting_micro_batch`.
    """
    model = recipe.shape
    size = model.n_embd // model.n_head
    shapes = [(layers, model.n_head) for layers in range(model.n_layer - 1, 0, -1)]
    shapes += [(1, heads) for heads in range(model.n_head - 1, 0, -1) if heads % (model.n_kv_head or 1) == 0]
    for layers, heads in shapes:
        smaller = model.model_copy(update={"n_layer": layers, "n_head": heads, "n_embd": heads * size})
        changed = recipe.model_copy(update={"model": smaller})
        if fitting_micro_batch(changed, available_bytes, **settings):
            return smaller
    return None
