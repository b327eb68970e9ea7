"""Stop tokens: the union of what the template, the tokenizer, generation_config and the config name."""

from __future__ import annotations

import pytest
from transformers import (
    Gemma3Config,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from tests.data.chat_templates import FORMATS
from toolkit.config.schema import ModelSettings
from toolkit.models.gpt2 import build
from toolkit.models.stop_tokens import StopTokens, stop_at_all_ends
from toolkit.stages.tokenizer import learn


def llama(tokenizer, **config):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer) + 3, **sizes, **config))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("gemma3", ["<eos>"]),
        ("phi3", ["<|endoftext|>", "<|user|>"]),
        ("chatml, other eos", ["<|endoftext|>"]),
        ("llama3", ["<|end_of_text|>", "<|start_header_id|>"]),
        ("gpt-oss", ["<|endoftext|>"]),
    ],
)
def test_stop_tokens_of_a_chat_model(name, more):
    tokenizer = FORMATS[name].tokenizer()
    ids = [tokenizer.convert_tokens_to_ids(token) for token in more]
    model = llama(tokenizer, eos_token_id=None)
    model.generation_config.eos_token_id = ids
    end = tokenizer.convert_tokens_to_ids(FORMATS[name].end)
    stops = StopTokens.of(model, tokenizer)
    assert stops.end_id == stops.ids[0] == end
    assert set(stops.ids) == {end, tokenizer.eos_token_id, *ids} and len(set(stops.ids)) == len(stops.ids)
    assert stops.as_tokens(tokenizer)[FORMATS[name].end] == end


def test_config_of_the_text_model_names_ends_too():
    tokenizer = FORMATS["gemma3"].tokenizer()
    config = Gemma3Config(text_config={"vocab_size": 300, "eos_token_id": [9]}, eos_token_id=[1, 7])
    model = llama(tokenizer)
    model.config, model.generation_config = config, GenerationConfig(eos_token_id=3)
    assert {1, 3, 7, 9} < set(StopTokens.of(model, tokenizer).ids)


@pytest.mark.parametrize("value", [["5", None, 10**6, -1, True, 1.0, [4]], 10**6, "5", [], [None], None])
def test_entries_that_are_no_token_are_ignored_and_named(value, capsys):
    tokenizer = FORMATS["chatml, other eos"].tokenizer()
    model = llama(tokenizer, eos_token_id=None)
    model.generation_config.eos_token_id = value
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert StopTokens.of(model, tokenizer).ids == (end, tokenizer.eos_token_id)
    told = capsys.readouterr().err
    entries = value if isinstance(value, list) else [value]
    wrong = [entry for entry in entries if entry is not None]
    assert told.count("is ignored") == len(wrong)
    assert all(f"eos_token_id {entry!r} of generation_config is ignored" in told for entry in wrong)


def test_generation_config_of_a_saved_model_names_all_ends(tmp_path):
    tokenizer = FORMATS["chatml, other eos"].tokenizer()
    model = llama(tokenizer, eos_token_id=tokenizer.eos_token_id)
    model.generation_config.eos_token_id = [7, "x"]
    stops = stop_at_all_ends(model, tokenizer)
    model.save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == list(stops.ids)
    assert set(stops.ids) == {tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id, 7}


def test_generation_config_with_all_ends_keeps_their_order():
    tokenizer = FORMATS["chatml, other eos"].tokenizer()
    model = llama(tokenizer, eos_token_id=None)
    ends = [7, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    model.generation_config.eos_token_id = list(ends)
    assert set(stop_at_all_ends(model, tokenizer).ids) == set(ends)
    assert model.generation_config.eos_token_id == ends


def test_models_of_the_toolkit_have_one_end_and_keep_their_generation_config():
    tokenizer = learn(["the cat sat. " * 20], vocab_size=290)
    settings = ModelSettings(n_layer=1, n_head=1, n_embd=8, n_positions=16)
    model = build(settings, vocab_size=len(tokenizer), seed=0, end_id=tokenizer.eos_token_id, pad_id=1)
    before = model.generation_config.to_dict()
    assert stop_at_all_ends(model, tokenizer) == StopTokens(tokenizer.eos_token_id, (tokenizer.eos_token_id,))
    assert model.generation_config.to_dict() == before


def test_model_without_any_end():
    tokenizer = learn(["the cat sat. " * 20], vocab_size=290)
    tokenizer.chat_template = tokenizer.eos_token = None
    config = GPT2Config(vocab_size=300, n_layer=1, n_head=1, n_embd=8, eos_token_id=None, bos_token_id=None)
    assert StopTokens.of(GPT2LMHeadModel(config), tokenizer) == StopTokens(None, ())
