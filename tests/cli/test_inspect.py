"""`toolkit inspect`: one page or one JSON object of what a model is, and 2 for one that cannot be used."""

from __future__ import annotations

import copy
import json

import peft
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from tests.architectures import GPT_LIKE, LLAMA_LIKE, build_architecture
from tests.data.chat_templates import FORMATS
from tests.foreign_tokenizers import unigram
from toolkit.cli.main import main
from toolkit.inference import inspection
from toolkit.inference.inspection import inspect_model
from toolkit.models import architectures
from toolkit.models.loading import save_model


@pytest.fixture
def saved(tmp_path, tiny_tokenizer):
    """Return a function that writes a model folder and returns its path."""

    def save(model, tokenizer=tiny_tokenizer, **config):
        folder = tmp_path / "model"
        save_model(
            model if not isinstance(model, str) else build_architecture(model, tokenizer), tokenizer, folder
        )
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return str(folder)

    return save


def as_json(capsys, folder):
    status = main(["inspect", folder, "--json"])
    return status, json.loads(capsys.readouterr().out)


def reward_model(tokenizer):
    config = LlamaConfig(**LLAMA_LIKE, vocab_size=268, num_labels=1, pad_token_id=tokenizer.pad_token_id)
    return LlamaForSequenceClassification(config)


def test_a_language_model(saved, capsys, tiny_tokenizer):
    folder = saved("llama")
    status, found = as_json(capsys, folder)
    count = architectures.parameters(build_architecture("llama", tiny_tokenizer))
    assert status == 0 and found["usable"] and found["kind"] == "language model"
    assert (found["class_name"], found["model_type"]) == ("LlamaForCausalLM", "llama")
    assert found["parameters"] == count and found["stored"] == {"F32": count}
    assert (found["positions"], found["position_key"]) == (256, "max_position_embeddings")
    assert (found["entries"], found["rows"], found["logits"]) == (261, 268, 268)
    assert (found["causal"], found["cached"], found["batched"]) == (True, True, True)
    assert found["pad"]["text"] == "<|pad|>" and found["start"]["text"] == "<|endoftext|>"
    assert found["lost"] == {} and found["unchecked"] is None
    assert found["inference_bytes"] == {"fp32": 4 * count, "bf16": 2 * count}
    full = {stage: sizes["full"] for stage, sizes in found["training_bytes"].items()}
    assert full == {stage: size * count for stage, size in
                    {"pretrain": 16, "sft": 16, "reward": 16, "dpo": 20, "ppo": 40}.items()}  # fmt: skip
    adapted = peft.get_peft_model(
        build_architecture("llama", tiny_tokenizer), peft.LoraConfig(r=16, target_modules="all-linear")
    )
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert found["training_bytes"]["sft"]["lora"] == 4 * count + 16 * trained


def test_the_page_says_the_same(saved, capsys):
    assert main(["inspect", saved("llama")]) == 0
    out = capsys.readouterr().out
    for line in (
        "architecture   LlamaForCausalLM (llama), a language model",
        "positions      256 (max_position_embeddings in config.json)",
        "causal         yes",
        "cache is exact yes",
        "tokenizer      261 entries, 268 rows in the model",
        "padding        <|pad|> (1)",
        "stop tokens    <|endoftext|> (0): the chat template, the tokenizer, generation_config, config",
        '  assistant    opens with "<|assistant|>", closes with "<|endoftext|>"',
        "sampling       temperature 0.8, top_k 0, top_p 1 (the model names none)",
    ):
        assert line in out.splitlines()


def test_stop_tokens_say_who_names_them_and_sampling_settings_are_the_models(saved, capsys):
    tokenizer = FORMATS["chatml, other eos"].tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    model = build_architecture("qwen2", tokenizer)
    model.generation_config.eos_token_id = [5, 7]
    model.generation_config.update(do_sample=True, temperature=0.7, repetition_penalty=1.1)
    status, found = as_json(capsys, saved(model, tokenizer))
    named = {token["id"]: token["named_by"] for token in found["stop_tokens"]}
    assert status == 0 and named[5] == named[7] == ["generation_config"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert named[end] == ["the chat template"] != named[tokenizer.eos_token_id]
    assert found["sampling"] == {"temperature": 0.7, "top_k": 0, "top_p": 1.0} and found["own_sampling"]
    assert found["not_applied"] == {"repetition_penalty": 1.1}
    assert found["template"]["user"] == {"opens": "<|im_start|>user\n", "closes": "<|im_end|>\n"}


def test_a_reward_model(saved, capsys, tiny_tokenizer):
    folder = saved(reward_model(tiny_tokenizer))
    status, found = as_json(capsys, folder)
    assert status == 0 and found["kind"] == "reward model" and found["causal"] and found["cached"] is None
    assert [*found["training_bytes"]] == ["reward"]
    assert main(["inspect", folder]) == 0
    out = capsys.readouterr().out
    assert "a reward model" in out and "cache is exact" not in out and "sampling" not in out


def test_weights_that_do_not_fit_are_not_loaded_and_the_rest_is_the_same(saved, monkeypatch, tiny_tokenizer):
    for model in ("llama", reward_model(tiny_tokenizer)):
        reference = (saved(model), None)
        loaded = inspect_model(reference).as_json()
        with monkeypatch.context() as patch:
            patch.setattr(AutoModelForCausalLM, "from_pretrained", None)
            skipped = inspect_model(reference, memory=loaded["stored_bytes"]).as_json()
        assert "of memory are available" in skipped["unchecked"]
        assert (skipped["causal"], skipped["cached"], skipped["batched"]) == (None, None, None)
        unequal = {key for key in loaded if loaded[key] != skipped[key]}
        assert unequal <= {"causal", "cached", "batched", "unchecked"}


def test_weights_are_loaded_in_the_stored_dtype_if_fp32_does_not_fit(saved, monkeypatch, tiny_tokenizer):
    dtypes = []
    load = inspection.load_causal_lm
    monkeypatch.setattr(
        inspection, "load_causal_lm", lambda *args, dtype: dtypes.append(dtype) or load(*args, dtype=dtype)
    )
    reference = (saved(build_architecture("llama", tiny_tokenizer).bfloat16()), None)
    found = inspect_model(reference)
    assert found.stored == {"BF16": found.parameters} and found.stored_bytes == 2 * found.parameters
    inspect_model(reference, memory=3 * found.parameters)
    assert dtypes == [torch.float32, "auto"]  # once each


def test_a_model_whose_cache_differs_is_named(saved, capsys):
    status, found = as_json(capsys, saved("rwkv"))
    assert status == 0 and found["causal"] and found["cached"] is False and found["positions"] is None


def test_a_tokenizer_that_loses_text_is_counted_by_script(saved, capsys):
    tokenizer = unigram()
    status, found = as_json(capsys, saved("llama", tokenizer))
    assert status == 0 and {"Greek", "Chinese", "emoji"} < found["lost"].keys()
    assert found["lost"]["Chinese"]["unknown_tokens"] > 0
    assert found["template"] is None and found["template_refusal"] is None


def test_an_adapter_names_its_base(saved, tmp_path, capsys, tiny_tokenizer):
    base = saved("llama")
    model = AutoModelForCausalLM.from_pretrained(base)
    peft.get_peft_model(model, peft.LoraConfig(r=2, task_type="CAUSAL_LM")).save_pretrained(
        tmp_path / "adapter"
    )
    status, found = as_json(capsys, str(tmp_path / "adapter"))
    assert status == 0 and found["adapter_of"] == base and found["class_name"] == "LlamaForCausalLM"


def nan_gpt2(tokenizer):
    model = GPT2LMHeadModel(GPT2Config(**GPT_LIKE, vocab_size=268, eos_token_id=0, bos_token_id=0))
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    return model


@pytest.mark.parametrize(
    ("model", "config", "reason"),
    [
        ("bert", {}, "is an encoder, not a language model"),
        (nan_gpt2, {}, "its logits are not finite"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, r"its weights are quantized (gptq)"),
        ("llama", {"model_type": "lama"}, "does not know the architecture 'lama'"),
        ("llama", {"hidden_size": 64}, "other shapes than config.json says"),
    ],
)
def test_a_model_that_cannot_be_used_ends_with_2_and_the_reason(
    saved, capsys, tiny_tokenizer, model, config, reason
):
    folder = saved(model if isinstance(model, str) else model(tiny_tokenizer), **config)
    assert main(["inspect", folder, "--json"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["usable"] is False and reason in found["reason"] and reason in err and found["fix"]
    assert main(["inspect", folder]) == 2 and capsys.readouterr().out == ""


def test_a_folder_that_is_not_there_ends_with_2(capsys):
    assert main(["inspect", "./absent", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["usable"] is False


def test_a_template_that_ends_no_answer_is_shown_with_the_reason(saved, capsys, tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    folder = saved("llama", tokenizer)
    status, found = as_json(capsys, folder)
    assert status == 0 and "contains no special token" in found["template_refusal"]
    assert found["template"]["user"] == {"opens": "user: ", "closes": "\n"}
    main(["inspect", folder])
    assert "chat template  cannot be used: " in capsys.readouterr().out
