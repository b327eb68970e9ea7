"""Checkpoints of other people: those that can be used load, the others are refused with advice that fits."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2ForSequenceClassification, LlamaConfig, LlamaForCausalLM

from tests.foreign_tokenizers import byte_level
from toolkit.base.errors import ToolkitError
from toolkit.evaluate.reward_models import are_reward_models
from toolkit.models import checkpoint_folder
from toolkit.models.loading import load_causal_lm, load_reward_model, save_model
from toolkit.models.tokenizer_loading import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


@pytest.fixture(scope="module")
def llama(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def folder(tmp_path, llama, tokenizer):
    save_model(llama, tokenizer, tmp_path / "model")
    return tmp_path / "model"


def changed(name, **values):
    def change(folder):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def config(**values):
    return changed("config.json", **values)


def sharded(folder):
    model = LlamaForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    assert len([*folder.glob("model-*.safetensors")]) > 2


def missing_shard(folder):
    sharded(folder)
    min(folder.glob("model-*.safetensors")).unlink()


def truncated_shard(folder):
    sharded(folder)
    path = max(folder.glob("model-*.safetensors"))
    path.write_bytes(path.read_bytes()[:-8])


def missing_index(folder):
    sharded(folder)
    (folder / "model.safetensors.index.json").unlink()


def wrong_index(folder):
    sharded(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": "model"}')


def weights(content):
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def other_weights(name):
    def change(folder):
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(b"x")

    return change


def two_gguf_files(folder):
    other_weights("a.gguf")(folder)
    (folder / "b.gguf").write_bytes(b"x")


def model_and_adapter(folder):
    (folder / "adapter_config.json").write_text("{}")


def unread(name):
    return lambda folder: (folder / name).write_text("{")


def sentencepiece(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))


def only_a_sentencepiece_model(folder):
    sentencepiece(folder)
    (folder / "tokenizer_config.json").unlink()


def tokenizer_with_code(folder):
    (folder / "tokenizer.json").unlink()
    changed(
        "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map={"AutoTokenizer": ["own.Own", None]}
    )(folder)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("damage", "words", "advice"),
    [
        (config(num_hidden_layers="1"), "'num_hidden_layers' expected int, got str", "without quotes"),
        (config(rms_norm_eps="1e-6"), "'rms_norm_eps' expected float, got str", "without quotes"),
        (config(hidden_size=None), "'hidden_size' expected int, got NoneType", "correct the value"),
        (config(num_attention_heads=3), "not a multiple of the number of attention", "correct the value"),
        (config(intermediate_size=8), "other shapes than config.json says", "same checkpoint"),
        (config(num_hidden_layers=2), "lacks 9 of the model's weights", "save the model again"),
        (config(num_attention_heads=0), "ZeroDivisionError", "values in config.json"),
        (config(model_type=None), "names no model_type", "add the key"),
        (config(model_type="lama"), "'lama' of config.json; did you mean llama", "correct model_type"),
        (config(model_type="t5"), "a T5 model is not a causal language model", "such as a Llama"),
        (config(model_type="own", auto_map={"AutoConfig": "own.C"}), "Python code of its own", "is part of"),
        *(
            (config(quantization_config={"quant_method": method}), rf"quantized \({method}\)", "model card")
            for method in ("gptq", "awq", "bitsandbytes", "fp8", "a newer one")
        ),
        (unread("config.json"), "is not JSON", "copy the file again"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object", "copy the file"),
        (missing_shard, "1 of its . weight files are missing, such as model-00001", "download"),
        (truncated_shard, "is cut off.* of .* bytes", "download it again"),
        (wrong_index, "has no weight_map", "copy the file again"),
        (missing_index, "no model.safetensors.index.json", "copy model.safetensors.index.json"),
        (weights(b""), "is cut off", "download it again"),
        (weights(b"\xff" * 100), "is cut off", "download it again"),
        (weights(b"\x10" + b"\0" * 7 + b"not the header.."), "is cut off", "download it again"),
        (weights(LFS), "pointer of Git LFS", "git lfs pull"),
        (other_weights("tf_model.h5"), "safetensors: they are of TensorFlow", "save_pretrained"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights", "copy model.safetensors"),
        (two_gguf_files, "2 GGUF files, such as a.gguf and b.gguf", "folder of its own"),
        (model_and_adapter, "a model and an adapter", "folder of their own"),
        (unread("tokenizer.json"), "tokenizer.json: is not JSON", "copy the file again"),
        (sentencepiece, "needs a package that is not installed", "pip install sentencepiece"),
        (only_a_sentencepiece_model, "needs a package that is not installed", "pip install sentencepiece"),
        (changed("tokenizer_config.json", model_max_length="64"), "is '64', not a number", "without quotes"),
        (changed("tokenizer_config.json", padding_side="middle"), "Padding side", "values in"),
        (tokenizer_with_code, "Python code of its own", "tokenizer.json"),
    ],
)  # fmt: skip
def test_advice_fits_the_damage(folder, damage, words, advice):
    damage(folder)
    with pytest.raises(ToolkitError, match=words) as caught:
        load_causal_lm((str(folder), None))
    assert caught.value.where.startswith(str(folder)) and advice in caught.value.fix


def test_a_gguf_file_without_the_package_gguf_says_what_to_install(folder, monkeypatch):
    other_weights("q4.gguf")(folder)
    monkeypatch.setattr(checkpoint_folder, "find_spec", lambda name: None)
    with pytest.raises(ToolkitError, match="GGUF file .q4.gguf.") as caught:
        load_causal_lm((str(folder), None))
    assert "pip install gguf" in caught.value.fix


def test_sharded_weights_load(folder, llama):
    sharded(folder)
    model, _ = load_causal_lm((str(folder), None))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), llama.parameters(), strict=True))


def test_code_of_an_architecture_that_transformers_has_is_not_needed(folder):
    config(auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})(folder)
    assert load_causal_lm((str(folder), None))[0].config.model_type == "llama"


@pytest.mark.parametrize(
    "values",
    [{"temperature": 0.9, "top_p": 0.6}, {"temperature": "hot"}, {"temperature": -1.0, "do_sample": True}],
)
def test_an_invalid_generation_config_does_not_keep_a_model_from_loading(folder, values):
    changed("generation_config.json", **values)(folder)
    load_causal_lm((str(folder), None))


def converted_by(fix):
    """Run the command of an advice, in this process."""
    code = re.search(r'python -c "(.*)"', fix)[1]
    exec(code)


def test_the_converter_of_pickles_works(folder, llama):
    torch.save(llama.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ToolkitError, match=r"only pickles \(.bin\)") as caught:
        load_causal_lm((str(folder), None))
    converted_by(caught.value.fix)
    model, _ = load_causal_lm((str(folder), None))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), llama.parameters(), strict=True))


def classifier(tokenizer, labels):
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": len(tokenizer)}
    return GPT2ForSequenceClassification(GPT2Config(**sizes, num_labels=labels, pad_token_id=0))


def test_a_classifier_of_two_labels_is_no_reward_model(tmp_path, tokenizer):
    save_model(classifier(tokenizer, 2), tokenizer, tmp_path / "two")
    for options in ({}, {"new_head_seed": 0}):
        with pytest.raises(ToolkitError, match="classifier with 2 labels") as caught:
            load_reward_model((str(tmp_path / "two"), None), **options)
        assert "reward stage" in caught.value.fix
    with pytest.raises(ToolkitError, match="not a language model"):
        load_causal_lm((str(tmp_path / "two"), None))


# Adapters of PEFT


def adapter(base, folder, *, tokenizer=None, rows=None, **settings):
    """Save an adapter with random weights, and return the logits of the model with it."""
    import peft

    model = base
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    options = {"target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, **options)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape) * (0.3 if "lora" in name else 0.1))
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    with torch.no_grad():
        return model(torch.arange(3, 20)[None], attention_mask=torch.ones(1, 17)).logits


def loaded_logits(folder):
    model, _ = load_causal_lm((str(folder), None))
    with torch.no_grad():
        return model(torch.arange(3, 20)[None], attention_mask=torch.ones(1, 17)).logits


@pytest.fixture
def base(folder):
    return LlamaForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_is_merged_into_its_base(folder, base, tmp_path, settings, tokenizer):
    logits = adapter(base, tmp_path / "lora", **settings)
    merged = loaded_logits(tmp_path / "lora")
    torch.testing.assert_close(merged, logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(merged, loaded_logits(folder), atol=1e-2)
    model, own = load_causal_lm((str(tmp_path / "lora"), None))
    assert all(parameter.requires_grad for parameter in model.parameters()), "it can be trained further"
    assert not model.training
    assert type(model) is LlamaForCausalLM and own.get_vocab() == tokenizer.get_vocab()
    save_model(model, own, tmp_path / "whole")
    assert torch.equal(loaded_logits(tmp_path / "whole"), merged)
    assert not any("lora" in name for name in load_file(tmp_path / "whole" / "model.safetensors"))


def test_an_adapter_with_added_tokens_has_its_tokenizer_and_rows(base, tmp_path):
    own = byte_level()
    own.add_tokens(["<|user|>", "<|assistant|>"], special_tokens=True)
    settings = {"trainable_token_indices": {"embed_tokens": [len(own) - 2, len(own) - 1]}}
    logits = adapter(base, tmp_path / "lora", tokenizer=own, rows=len(own), **settings)
    model, tokenizer = load_causal_lm((str(tmp_path / "lora"), None))
    assert len(tokenizer) == len(own) == model.get_input_embeddings().num_embeddings
    # The adapter does not hold the rows of the untied head, which were drawn where it was trained.
    with torch.no_grad():
        again = model(torch.arange(3, 20)[None]).logits
    torch.testing.assert_close(again[..., : len(own) - 2], logits[..., : len(own) - 2], rtol=1e-4, atol=1e-5)


def test_an_adapter_of_a_reward_model_brings_its_head(folder, tokenizer, tmp_path):
    from transformers import LlamaForSequenceClassification

    base = LlamaForSequenceClassification.from_pretrained(folder, num_labels=1, pad_token_id=0)
    logits = adapter(base, tmp_path / "lora", task_type="SEQ_CLS", target_modules=["q_proj"])
    model, _ = load_reward_model((str(tmp_path / "lora"), None))
    model.config.pad_token_id = 0
    with torch.no_grad():
        again = model(torch.arange(3, 20)[None], attention_mask=torch.ones(1, 17)).logits
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-5)
    assert are_reward_models({"lora": (str(tmp_path / "lora"), None)})
    with pytest.raises(ToolkitError, match="of a reward model, not a language model"):
        load_causal_lm((str(tmp_path / "lora"), None))


def test_the_base_of_an_adapter_may_lie_beside_it(base, folder, tmp_path):
    logits = adapter(base, tmp_path / "lora")
    changed("adapter_config.json", base_model_name_or_path="../model")(tmp_path / "lora")
    torch.testing.assert_close(loaded_logits(tmp_path / "lora"), logits, rtol=1e-4, atol=1e-5)


def no_base(folder):
    changed("adapter_config.json", base_model_name_or_path="/nowhere/model")(folder)


def no_base_on_the_hub(folder):
    changed("adapter_config.json", base_model_name_or_path="nobody/nothing")(folder)


def unnamed_base(folder):
    changed("adapter_config.json", base_model_name_or_path=None)(folder)


def own_base(folder):
    changed("adapter_config.json", base_model_name_or_path=str(folder))(folder)


def unknown_modules(folder):
    changed("adapter_config.json", target_modules=["no_such_module"])(folder)


def fewer_modules(folder):
    changed("adapter_config.json", target_modules=["q_proj"])(folder)


def more_modules(folder):
    path = folder / "adapter_model.safetensors"
    from safetensors.torch import save_file

    save_file({key: value for key, value in load_file(path).items() if "q_proj" not in key}, path)


def other_rank(folder):
    changed("adapter_config.json", r=4)(folder)


def no_weights(folder):
    (folder / "adapter_model.safetensors").unlink()


def cut_off(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def prompt_tuning(folder):
    settings = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": base}))


@pytest.mark.parametrize(
    ("damage", "words", "advice"),
    [
        (no_base, "base model cannot be loaded: /nowhere/model", "base_model_name_or_path"),
        (no_base_on_the_hub, "base model cannot be loaded: nobody/nothing", "base_model_name_or_path"),
        (unnamed_base, "does not name its base model", "base_model_name_or_path"),
        (own_base, "names itself as base model", "base_model_name_or_path"),
        (unknown_modules, "does not fit its base model.*no_such_module", "trained on"),
        (fewer_modules, "does not fit its base model: the model has no place for", "trained on"),
        (more_modules, "does not fit its base model: it lacks", "trained on"),
        (other_rank, "does not fit its base model", "trained on"),
        (no_weights, "without weights", "copy adapter_model.safetensors"),
        (cut_off, "is cut off", "download it again"),
        (prompt_tuning, "PROMPT_TUNING, which cannot be merged", "LoRA"),
    ],
)  # fmt: skip
def test_advice_fits_what_an_adapter_lacks(base, tmp_path, damage, words, advice):
    adapter(base, tmp_path / "lora")
    damage(tmp_path / "lora")
    with pytest.raises(ToolkitError, match=words) as caught:
        load_causal_lm((str(tmp_path / "lora"), None))
    assert caught.value.where.startswith(str(tmp_path / "lora")) and advice in caught.value.fix


def test_the_converter_of_an_adapters_pickle_works(base, tmp_path):
    logits = adapter(base, tmp_path / "lora")
    path = tmp_path / "lora" / "adapter_model.safetensors"
    torch.save(load_file(path), tmp_path / "lora" / "adapter_model.bin")
    path.unlink()
    with pytest.raises(ToolkitError, match="without weights in safetensors") as caught:
        load_causal_lm((str(tmp_path / "lora"), None))
    converted_by(caught.value.fix)
    torch.testing.assert_close(loaded_logits(tmp_path / "lora"), logits, rtol=1e-4, atol=1e-5)


def test_the_tokenizer_of_an_adapter_is_that_of_its_base(base, folder, tmp_path, tokenizer):
    adapter(base, tmp_path / "lora")
    assert load_tokenizer((str(tmp_path / "lora"), None)).get_vocab() == tokenizer.get_vocab()
    shutil.rmtree(folder)
    with pytest.raises(ToolkitError, match="base model cannot be loaded"):
        load_tokenizer((str(tmp_path / "lora"), None))
