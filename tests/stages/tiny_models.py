"""Tiny random models of many architectures, and a tokenizer of a base model without chat tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from toolkit.models.loading import save_model

BASE = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 96,
}  # fmt: skip
GROUPED = {**BASE, "num_key_value_heads": 1}
WITH_HEAD_DIM = {**GROUPED, "head_dim": 16}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    **BASE, "num_key_value_heads": 2, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "moe_intermediate_size": 32, "n_shared_experts": 1, "first_k_dense_replace": 1,
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
}  # fmt: skip
ARCHITECTURES: dict[str, tuple[str, dict[str, object]]] = {
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 2}),
    "deepseek_v3": ("deepseek_v3", LATENT),
    "gemma2": ("gemma2", WITH_HEAD_DIM),
    "gemma3": ("gemma3_text", WITH_HEAD_DIM),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 96}),
    "gpt_neox": ("gpt_neox", BASE),
    "gptj": ("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 96, "rotary_dim": 8}),
    "llama": ("llama", GROUPED),
    "llama_tied": ("llama", {**GROUPED, "tie_word_embeddings": True}),
    "mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "mistral": ("mistral", GROUPED),
    "mixtral": ("mixtral", {**GROUPED, **EXPERTS}),
    "mpt": ("mpt", {"d_model": 32, "n_heads": 2, "n_layers": 2, "max_seq_len": 96, "expansion_ratio": 2}),
    "opt": ("opt", {**BASE, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    "phi": ("phi", BASE),
    "qwen2": ("qwen2", {**GROUPED, "tie_word_embeddings": True}),
    "qwen3": ("qwen3", WITH_HEAD_DIM),
}
"""model_type and settings."""


def base_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token a byte and `</s>`, without a chat template, as of a base model."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *letters])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


def write_tiny(
    folder: Path,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype = torch.float32,
    generation: dict[str, object] | None = None,
    **config: object,
) -> Path:
    """Write a model of random weights, three rows larger than its tokenizer, and return the folder.

    Args:
        generation: settings of its generation config, valid or not.
        config: settings of its configuration, instead of the tokenizer's special tokens.
    """
    model_type, settings = ARCHITECTURES[name]
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    settings = {**ids, **settings, **config, "vocab_size": len(tokenizer) + 3}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings), dtype=dtype)
    save_model(model, tokenizer, folder)
    if generation is not None:
        for key, value in generation.items():
            setattr(model.generation_config, key, value)
        model.generation_config.to_json_file(folder / "generation_config.json", use_diff=True)
    return folder
