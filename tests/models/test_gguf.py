"""A folder with a GGUF file is a model."""

from __future__ import annotations

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.foreign_tokenizers import byte_level
from toolkit.models.loading import is_classifier, load_causal_lm, save_model

HEADS = 2
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
}  # fmt: skip


def as_llama_cpp(weight):
    """Order the rows of a query or key matrix for llama.cpp's rotary embedding, which pairs neighbours."""
    rows, columns = weight.shape
    return np.ascontiguousarray(
        weight.reshape(HEADS, 2, rows // HEADS // 2, columns).swapaxes(1, 2).reshape(weight.shape)
    )


def write(path, model, tokens):
    writer, config = gguf.GGUFWriter(str(path), "llama"), model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, *[1] * (len(tokens) - 1)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, weight in model.state_dict().items():
        key, block = name.removesuffix(".weight"), ""
        if key.startswith("model.layers."):
            _, _, layer, key = key.split(".", 3)
            block = f"blk.{layer}."
        content = weight.numpy()
        writer.add_tensor(
            f"{block}{NAMES[key]}.weight",
            as_llama_cpp(content) if key.endswith(("q_proj", "k_proj")) else content,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.no_grad()
def test_a_gguf_folder_is_a_plain_model_that_can_be_saved(tmp_path):
    alphabet = sorted(byte_level().get_vocab(), key=byte_level().get_vocab().get)[1:]
    tokens = ["<|endoftext|>", *alphabet, "ab"]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=HEADS, max_position_embeddings=64,
    )  # fmt: skip
    llama, ids = LlamaForCausalLM(config).eval(), torch.arange(3, 40)[None]
    (tmp_path / "gguf").mkdir()
    write(tmp_path / "gguf" / "tiny.gguf", llama, tokens)
    reference = (str(tmp_path / "gguf"), None)
    model, tokenizer = load_causal_lm(reference)
    assert not is_classifier(reference)
    torch.testing.assert_close(model(ids).logits, llama(ids).logits, rtol=1e-5, atol=1e-6)
    text = "the fox: é\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    save_model(model, tokenizer, tmp_path / "plain")
    again, _ = load_causal_lm((str(tmp_path / "plain"), None))
    assert torch.equal(again(ids).logits, model(ids).logits)
