"""Tiny models of other architectures than GPT-2, with weights far from uniform."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, LlamaConfig, Qwen2Config

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
}
ARCHITECTURES = {
    "llama": lambda more: LlamaConfig(**SMALL, **more),
    "qwen2": lambda more: Qwen2Config(**SMALL, **more),
    "gemma2": lambda more: Gemma2Config(**SMALL, **more, head_dim=16, final_logit_softcapping=2.0),
    "cohere": lambda more: CohereConfig(**SMALL, **more, logit_scale=0.25),
}
"""Gemma 2 caps its logits, Cohere scales them: what the head gives is not what the softmax sees."""


def build_architecture(name, tokenizer):
    """A model of these random weights for a tokenizer."""
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = ARCHITECTURES[name]({**ids, "vocab_size": len(tokenizer) + 7})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.copy_(torch.randn(parameter.shape) * 0.4)
    return model
