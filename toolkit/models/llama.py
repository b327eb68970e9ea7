"""A Llama with random weights, exactly as transformers knows it, from a named random stream."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from toolkit.config.schema import ModelSettings
from toolkit.models import initial_weights
from toolkit.models.shape import padded_vocabulary

NORM_EPSILON = 1e-5
"""Of every RMSNorm, as in Llama 2 and 3."""


def build(
    settings: ModelSettings, *, vocab_size: int, seed: int, end_id: int, pad_id: int | None = None
) -> LlamaForCausalLM:
    """Return a Llama with random weights, in fp32 on the CPU, embeddings tied to the head.

    Rotary positions (base 10,000), RMSNorm, SwiGLU, no biases, and grouped-query attention if `n_kv_head` is
    less than `n_head` (Touvron et al., 2023; Ainslie et al., 2023). Initial weights have the spread of
    GPT-2's; the global generator is left as it was. The vocabulary is padded to `vocabulary_multiple`.
    """
    config = LlamaConfig(
        vocab_size=padded_vocabulary(vocab_size, settings.vocabulary_multiple),
        max_position_embeddings=settings.n_positions, hidden_size=settings.n_embd,
        intermediate_size=settings.inner_width, num_hidden_layers=settings.n_layer,
        num_attention_heads=settings.n_head, num_key_value_heads=settings.kv_heads,
        rms_norm_eps=NORM_EPSILON, tie_word_embeddings=True,
        initializer_range=initial_weights.INITIAL_STD, bos_token_id=end_id, eos_token_id=end_id,
        pad_token_id=pad_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # the constructor draws from the global generator
        model = LlamaForCausalLM(config)
    residual = ("o_proj.weight", "down_proj.weight")
    initial_weights.draw(model, seed, layers=settings.n_layer, residual=residual)
    initial_weights.pad_vocabulary(model, vocab_size)
    return model
