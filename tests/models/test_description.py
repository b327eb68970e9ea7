"""Positions, vocabulary and causality are read from models of any architecture."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    BloomConfig,
    FalconConfig,
    Gemma3Config,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MptConfig,
    RobertaConfig,
    RwkvConfig,
    WhisperConfig,
    XLNetConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.architectures import build_architecture
from toolkit.models import description
from toolkit.models.context_length import context_length, context_length_or_default, default_length

WITHOUT_LIMIT = {
    "bloom", "cpmant", "falcon_mamba", "mamba", "mamba2", "recurrent_gemma", "rwkv", "xlnet", "xlstm",
}  # fmt: skip
NOT_LIMITS = {"original_max_position_embeddings", "max_source_positions", "position_bias_max_distance"}
"""Of rotary positions before they were stretched; of an encoder's input; of buckets of distances."""


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (GPT2Config(n_positions=48), 48),
        (LlamaConfig(max_position_embeddings=48), 48),
        (MptConfig(max_seq_len=48), 48),
        (WhisperConfig(max_target_positions=48), 48),
        (Gemma3Config(text_config={"max_position_embeddings": 48}), 48),
        (RobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (FalconConfig(max_position_embeddings=48, alibi=False), 48),
        (FalconConfig(max_position_embeddings=48, alibi=True), None),
        (BloomConfig(seq_length=2048), None),
        (RwkvConfig(context_length=48), None),
        (MambaConfig(), None),
        (XLNetConfig(), None),
    ],
)
def test_position_limit_is_found_under_the_name_of_the_architecture(config, limit):
    assert description.position_limit(config) == limit


def test_position_limit_is_what_the_embedding_of_roberta_has_room_for(tiny_tokenizer):
    model = build_architecture("roberta_decoder", tiny_tokenizer)
    limit = context_length(model)
    model(input_ids=torch.full((1, limit), 50))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, limit + 1), 50))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_every_language_model_of_transformers_has_a_position_limit_or_is_known_to_have_none(model_type):
    if model_type == "gemma4_assistant":
        pytest.skip("transformers 5.23 refuses its own default configuration")
    config = CONFIG_MAPPING[model_type]()
    assert (description.position_limit(config) is None) == (model_type in WITHOUT_LIMIT)
    names = {
        name for name in config.get_text_config(decoder=True).to_dict() if re.search("max_.*(pos|seq)", name)
    }
    assert names <= {*description.LIMIT_NAMES, *NOT_LIMITS}


def test_defaults_are_at_most_4096_tokens(tiny_tokenizer):
    model = build_architecture("llama", tiny_tokenizer)
    for limit, default in ((256, 256), (4096, 4096), (131072, 4096)):
        model.config.max_position_embeddings = limit
        assert context_length(model) == context_length_or_default(model) == limit
        assert default_length(model) == default
    endless = build_architecture("mamba", tiny_tokenizer)
    assert default_length(endless) == context_length_or_default(endless) == 1024
    assert default_length(endless, without_limit=2048) == 2048


def test_vocabulary_is_that_of_the_logits_and_embedded_that_of_the_inputs():
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    model.model.embed_tokens = torch.nn.Embedding(48, 16)  # as in Llama 3.2 with images
    described = description.describe(model)
    assert (described.vocabulary, described.embedded) == (40, 48)
    assert described.class_name == "LlamaForCausalLM" and described.cache_argument == "past_key_values"


@pytest.mark.parametrize(
    ("name", "argument"), [("mamba", "cache_params"), ("rwkv", None), ("gpt2", "past_key_values")]
)
def test_cache_argument_is_that_of_the_forward_pass(name, argument, tiny_tokenizer):
    assert description.describe(build_architecture(name, tiny_tokenizer)).cache_argument == argument


def test_forward_leaves_out_what_an_architecture_does_not_accept(tiny_tokenizer):
    model = build_architecture("rwkv", tiny_tokenizer)
    ids = torch.tensor([[50, 51]])
    assert torch.equal(description.forward(model, ids, logits_to_keep_of_others=1).logits, model(ids).logits)
