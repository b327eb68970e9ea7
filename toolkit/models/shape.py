"""What a GPT-2 of given settings costs, before it is built: parameters and FLOPs, without torch."""

from __future__ import annotations

from toolkit.recipe.schema import ModelSettings


def padded_vocabulary(vocab_size: int, multiple: int = 64) -> int:
    """Return the rows of the embedding matrix: `vocab_size` rounded up to a multiple.

    Matrix kernels want 64: GPT-2's 50257 padded to 50304 trains 25 % faster on an A100
    (https://x.com/karpathy/status/1621578354024677377).
    """
    return -(-vocab_size // multiple) * multiple


def num_parameters(settings: ModelSettings, *, vocab_size: int) -> int:
    """Return the number of trained numbers; the tied embedding counts once, padded rows count."""
    width = settings.n_embd
    attention = 4 * width * width + 4 * width  # c_attn (width -> 3 width) and c_proj, with biases
    mlp = 8 * width * width + 5 * width  # c_fc (width -> 4 width) and c_proj, with biases
    norms = 4 * width  # ln_1 and ln_2
    embeddings = (padded_vocabulary(vocab_size, settings.vocabulary_multiple) + settings.n_positions) * width
    return embeddings + settings.n_layer * (attention + mlp + norms) + 2 * width


def flops_per_token(settings: ModelSettings, *, vocab_size: int, sequence_length: int) -> int:
    """Return the floating-point operations of forward and backward for one token of training.

    6 N + 12 L H Q T (Chowdhery et al., 2022, PaLM, appendix B, https://arxiv.org/abs/2204.02311):
    N parameters that multiply, L layers, H heads, Q = width of a head, T = `sequence_length`. N leaves out
    the position embeddings, which are only looked up; the token embeddings stay in, since they are
    the head's matrix too. The whole attention square counts, as in PaLM: causal kernels that
    skip half of it therefore show a higher utilisation.
    """
    multiplying = num_parameters(settings, vocab_size=vocab_size) - settings.n_positions * settings.n_embd
    return 6 * multiplying + 12 * settings.n_layer * settings.n_embd * sequence_length
