"""What a model of given settings costs, before it is built: parameters and FLOPs, without torch."""

from __future__ import annotations

from toolkit.config.schema import ModelSettings, PretrainRecipe

LONGEST_PLAIN = 512
"""Up to here attention in bf16 on a CPU is plain products; longer rows use the flash kernel everywhere: the
squares of scores would take too much memory."""
SHORTEST_HALVED = 128
"""From here the halves of a row attend one after the other where attention is plain products."""
WHOLE_LOGITS = 2**27
"""Numbers of logits up to which a head trains on all of them at once: half a GB in fp32, with its gradient
one."""
BLOCK_LOGITS = 2**25
"""Numbers of one block of logits (128 MB in fp32): the head of GPT-2 on 8192 positions would take 1.6 GB."""
CPU_LOGITS, CPU_POSITIONS = 2**21, 512


def padded_vocabulary(vocab_size: int, multiple: int = 64) -> int:
    """Return the rows of the embedding matrix: `vocab_size` rounded up to a multiple.

    Matrix kernels want 64: GPT-2's 50257 padded to 50304 trains 25 % faster on an A100
    (https://x.com/karpathy/status/1621578354024677377).
    """
    return -(-vocab_size // multiple) * multiple


def block_matrices(settings: ModelSettings) -> dict[str, tuple[int, int]]:
    """Return the sides (inputs, outputs) of each matrix of a block, by its name in transformers."""
    width, inner = settings.n_embd, settings.inner_width
    if settings.architecture == "gpt2":
        fused = {"c_attn": (width, 3 * width), "attn.c_proj": (width, width)}
        return {**fused, "c_fc": (width, inner), "mlp.c_proj": (inner, width)}
    kv_width = width // settings.n_head * settings.kv_heads
    attention = {"q_proj": (width, width), "k_proj": (width, kv_width), "v_proj": (width, kv_width)}
    mlp = {"gate_proj": (width, inner), "up_proj": (width, inner), "down_proj": (inner, width)}
    return {**attention, "o_proj": (width, width), **mlp}


def block_weights(settings: ModelSettings) -> int:
    """Return the number of weights in the matrices of all blocks."""
    sides = block_matrices(settings).values()
    return settings.n_layer * sum(inputs * outputs for inputs, outputs in sides)


def num_parameters(settings: ModelSettings, *, vocab_size: int) -> int:
    """Return the number of trained numbers; the tied embedding counts once, padded rows count."""
    width = settings.n_embd
    rows = padded_vocabulary(vocab_size, settings.vocabulary_multiple)
    if settings.architecture == "gpt2":
        biases = sum(outputs for _, outputs in block_matrices(settings).values())
        norms = 4 * width  # scale and shift of ln_1 and ln_2
        final = 2 * width
    else:
        biases, norms, final = 0, 2 * width, width
    return (
        (rows + _learned_positions(settings)) * width
        + block_weights(settings)
        + settings.n_layer * (biases + norms)
        + final
    )


def _learned_positions(settings: ModelSettings) -> int:
    """Return the rows of the position embedding; rotary positions have none."""
    return settings.n_positions if settings.architecture == "gpt2" else 0


def flops_per_token(settings: ModelSettings, *, vocab_size: int, sequence_length: int) -> int:
    """Return the floating-point operations of forward and backward for one token of training.

    6 N + 12 L H Q T (Chowdhery et al., 2022, PaLM, appendix B, https://arxiv.org/abs/2204.02311):
    N parameters that multiply, L layers, H heads, Q = width of a head, T = `sequence_length`. N leaves out
    the position embeddings, which are only looked up; the token embeddings stay in, since they are
    the head's matrix too. The whole attention square counts, as in PaLM: causal kernels that
    skip half of it therefore show a higher utilisation. Grouped-query attention multiplies as often as
    attention with a key head for each head.
    """
    looked_up = _learned_positions(settings) * settings.n_embd
    multiplying = num_parameters(settings, vocab_size=vocab_size) - looked_up
    return 6 * multiplying + 12 * settings.n_layer * settings.n_embd * sequence_length


def mean_flops_per_token(recipe: PretrainRecipe, *, vocab_size: int) -> float:
    """Return `flops_per_token` on average over a training, whose rows may be shorter at first."""
    begins = [0, *(min(entry.tokens, recipe.train_tokens) for entry in recipe.length_warmup)]
    lengths = [*(entry.sequence_length for entry in recipe.length_warmup), recipe.row_tokens()]
    parts = zip(begins, [*begins[1:], recipe.train_tokens], lengths, strict=True)
    return sum(
        (end - begin) * flops_per_token(recipe.shape, vocab_size=vocab_size, sequence_length=length)
        for begin, end, length in parts
    ) / recipe.train_tokens  # fmt: skip


def head_block(setting: int | str, *, positions: int, vocabulary: int) -> int:
    """Return the positions of a block for the recipe's `head_block_tokens`; 0: all."""
    if setting != "auto":
        return int(setting)
    return 0 if positions * vocabulary <= WHOLE_LOGITS else max(1, BLOCK_LOGITS // vocabulary)


def scored_at_once(vocabulary: int, *, on_cpu: bool) -> int:
    """Return how many positions' logits are made at once where text is scored.

    On a CPU they should stay in its cache: 8192 positions of a vocabulary of 4096 take 107 ms in blocks of
    512, and 215 at once.
    """
    if on_cpu:
        return max(CPU_POSITIONS, CPU_LOGITS // vocabulary)
    return max(1, BLOCK_LOGITS // vocabulary)
