"""Tiny models of many architectures of transformers, with random weights far from uniform."""

from __future__ import annotations

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
GPT_LIKE = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
WITH_HEAD_DIM = {**LLAMA_LIKE, "head_dim": 16}
BART_LIKE = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 256,
}
BART_DECODER = {**BART_LIKE, "is_encoder_decoder": False, "is_decoder": True, "forced_eos_token_id": None}
BERT_LIKE = {key: value for key, value in LLAMA_LIKE.items() if key != "num_key_value_heads"}
LATENT = {
    **LLAMA_LIKE,
    "num_key_value_heads": 2,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
"""Multi-head latent attention: the width of a key, 24, is not that of a value, 12."""

ARCHITECTURES: dict[str, tuple[str, dict[str, object]]] = {
    "bart": ("BartConfig", BART_DECODER),
    "bart_one_encoder_layer": ("BartConfig", {**BART_DECODER, "encoder_layers": 1}),
    "biogpt": ("BioGptConfig", BERT_LIKE),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 2}),
    "codegen": ("CodeGenConfig", {**GPT_LIKE, "n_head": 4, "n_ctx": 256, "rotary_dim": 8}),
    "cohere": ("CohereConfig", {**LLAMA_LIKE, "logit_scale": 0.25}),
    "deepseek_v2": ("DeepseekV2Config", {**LATENT, "topk_method": "greedy"}),
    "deepseek_v3": ("DeepseekV3Config", LATENT),
    "falcon": ("FalconConfig", {**BERT_LIKE, "alibi": False}),
    "falcon_alibi": ("FalconConfig", {**BERT_LIKE, "alibi": True, "new_decoder_architecture": False}),
    "gemma": ("GemmaConfig", WITH_HEAD_DIM),
    "gemma2": ("Gemma2Config", {**WITH_HEAD_DIM, "final_logit_softcapping": 2.0, "sliding_window": 8}),
    "gemma3": (
        "Gemma3TextConfig",
        {**WITH_HEAD_DIM, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gpt2": ("GPT2Config", GPT_LIKE),
    "gpt_bigcode": ("GPTBigCodeConfig", GPT_LIKE),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 256,
            "window_size": 8,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", BERT_LIKE),
    "gpt_oss": ("GptOssConfig", {**WITH_HEAD_DIM, **EXPERTS, "sliding_window": 8}),
    "gptj": ("GPTJConfig", {**GPT_LIKE, "rotary_dim": 8}),
    "granite": ("GraniteConfig", {**LLAMA_LIKE, "logits_scaling": 4.0, "embedding_multiplier": 2.0}),
    "jamba": (
        "JambaConfig",
        {
            **LLAMA_LIKE,
            "num_experts": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "llama": ("LlamaConfig", LLAMA_LIKE),
    "mamba": ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "mamba2": (
        "Mamba2Config",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 2,
            "chunk_size": 8,
        },
    ),
    "mistral": ("MistralConfig", {**LLAMA_LIKE, "sliding_window": 8}),
    "mixtral": ("MixtralConfig", {**LLAMA_LIKE, **EXPERTS}),
    "mpt": ("MptConfig", {"d_model": 32, "n_heads": 2, "n_layers": 2, "max_seq_len": 256}),
    "olmo2": ("Olmo2Config", LLAMA_LIKE),
    "opt": (
        "OPTConfig",
        {
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 256,
            "word_embed_proj_dim": 32,
        },
    ),
    "phi": ("PhiConfig", BERT_LIKE),
    "phi3": ("Phi3Config", LLAMA_LIKE),
    "qwen2": ("Qwen2Config", LLAMA_LIKE),
    "qwen3": ("Qwen3Config", WITH_HEAD_DIM),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {**WITH_HEAD_DIM, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "qwen3_next": (
        "Qwen3NextConfig",
        {
            **WITH_HEAD_DIM,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
            "linear_num_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        {
            "hidden_size": 32,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "lru_width": 32,
            "attention_window_size": 8,
            "head_dim": 16,
        },
    ),
    "roberta_decoder": ("RobertaConfig", {**BERT_LIKE, "is_decoder": True}),
    "rwkv": (
        "RwkvConfig",
        {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "context_length": 64},
    ),
    "stablelm": ("StableLmConfig", LLAMA_LIKE),
    "xglm": (
        "XGLMConfig",
        {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 2, "max_position_embeddings": 256},
    ),
    "xlstm": ("xLSTMConfig", {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 2, "head_dim": 16}),
}
"""Configuration class and settings. Gemma 2 caps its logits, Cohere and Granite scale them: what the head
gives is not what the softmax sees."""

REPRESENTATIVES = ("llama", "qwen2", "gemma2", "cohere")
"""Two architectures with a plain head, one that caps its logits, and one that scales them."""

REFUSED: dict[str, tuple[str, dict[str, object]]] = {
    "bert": ("BertConfig", BERT_LIKE),
    "electra": ("ElectraConfig", {**BERT_LIKE, "embedding_size": 32}),
    "roberta": ("RobertaConfig", BERT_LIKE),
    "xlnet": ("XLNetConfig", {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}),
}
"""Models whose logits depend on later tokens."""


def configuration(name: str, tokenizer: PreTrainedTokenizerBase, **changes: object) -> PreTrainedConfig:
    """Return the configuration of an architecture, with the special tokens of a tokenizer."""
    config_class, settings = {**ARCHITECTURES, **REFUSED}[name]
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return getattr(transformers, config_class)(**{**settings, **ids, **changes})


def build_architecture(name: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return a model of these random weights for a tokenizer, with 7 rows more than it has entries."""
    config = configuration(name, tokenizer, vocab_size=len(tokenizer) + 7)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter.ndim >= 2 and not parameter_name.endswith("A_log"):
                    parameter.copy_(torch.randn(parameter.shape) * 0.4)
    return model
