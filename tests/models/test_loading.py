"""Model folders round-trip, and damaged folders are refused with clear messages."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from toolkit.base.errors import ToolkitError
from toolkit.data.chat import template
from toolkit.models import loading
from toolkit.models.loading import load_causal_lm, load_reward_model, save_model


@pytest.fixture
def folder(tmp_path, tiny_model, tiny_tokenizer):
    save_model(tiny_model, tiny_tokenizer, tmp_path / "model")
    return tmp_path / "model"


def test_round_trip(folder, tiny_model, tiny_tokenizer):
    model, tokenizer = load_causal_lm((str(folder), None))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny_model.parameters(), strict=True))
    assert not model.training and model.dtype == torch.float32
    assert tokenizer.get_vocab() == tiny_tokenizer.get_vocab()
    assert tokenizer.chat_template == tiny_tokenizer.chat_template
    assert not [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt")]
    assert "attn_implementation" not in (folder / "config.json").read_text()
    save_model(model, tokenizer, folder)  # replaces what is there
    assert load_causal_lm((str(folder), None), dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_saved_tokenizer_holds_no_trace_of_the_machine(folder, tiny_model, tmp_path):
    """transformers would write whether it was a folder, and HF_HUB_OFFLINE, which the tests set."""
    _, tokenizer = load_causal_lm((str(folder), None))
    save_model(tiny_model, tokenizer, tmp_path / "again")
    written = [(path / "tokenizer_config.json").read_bytes() for path in (folder, tmp_path / "again")]
    assert written[0] == written[1] and b"local" not in written[1]


def test_save_is_atomic(folder, tiny_model, tiny_tokenizer, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tiny_tokenizer), "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(tiny_model, tiny_tokenizer, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_other_architectures_load(tmp_path, tiny_tokenizer):
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
    )
    save_model(LlamaForCausalLM(config), tiny_tokenizer, tmp_path / "llama")
    model, _ = load_causal_lm((str(tmp_path / "llama"), None))
    assert model.config.model_type == "llama"


def test_reward_model_has_a_scalar_head(folder):
    with pytest.raises(ToolkitError, match="no score head"):
        load_reward_model((str(folder), None))
    torch.manual_seed(1)
    first, tokenizer = load_reward_model((str(folder), None), new_head_seed=4)
    torch.manual_seed(2)
    second, _ = load_reward_model((str(folder), None), new_head_seed=4)
    assert torch.equal(first.score.weight, second.score.weight)
    assert first.score.weight.shape == (1, 32)
    assert first.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    save_model(first, tokenizer, folder)
    again, _ = load_reward_model((str(folder), None))
    assert torch.equal(first.score.weight, again.score.weight)
    with pytest.raises(ToolkitError, match="is a reward model"):
        load_causal_lm((str(folder), None))


def test_padding_is_added_for_a_reward_model(tmp_path, tiny_model, tiny_tokenizer):
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    save_model(tiny_model, tokenizer, tmp_path / "model")
    model, loaded = load_reward_model((str(tmp_path / "model"), None), new_head_seed=0)
    assert loaded.pad_token_id != loaded.eos_token_id and model.config.pad_token_id == loaded.pad_token_id
    assert len(loaded) <= model.get_input_embeddings().num_embeddings


def drop_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut_off(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def unknown_architecture(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nonesuch"}))


def remote_code(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "nonesuch",
        "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('code of the folder was run')")


def other_shapes(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_embd": 64}))


def pickle_only(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def no_tokenizer(folder):
    for path in folder.glob("*token*"):
        path.unlink()


def small_embedding(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    extra = [{**content["added_tokens"][-1], "id": 1000 + i, "content": f"<|extra{i}|>"} for i in range(200)]
    path.write_text(json.dumps({**content, "added_tokens": content["added_tokens"] + extra}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop_weight, "lacks 1 of the model's weights"),
        (cut_off, "is cut off"),
        (unknown_architecture, "does not know the architecture 'nonesuch'"),
        (remote_code, "needs Python code of its own"),
        (other_shapes, "other shapes than config.json says"),
        (pickle_only, "no weights in safetensors"),
        (no_tokenizer, "has no tokenizer"),
        (small_embedding, "the tokenizer has"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    ],
)
def test_broken_folders(folder, damage, words):
    damage(folder)
    with pytest.raises(ToolkitError, match=words) as caught:
        load_causal_lm((str(folder), None))
    assert caught.value.where.startswith(str(folder)) and caught.value.fix


def test_non_folder_paths_are_refused(tmp_path):
    for name in (str(tmp_path / "no"), "./no", "runs/no", "a/b/c"):
        with pytest.raises(ToolkitError, match="no such folder"):
            load_causal_lm((name, None))
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolkitError, match="is a file"):
        load_causal_lm((str(tmp_path / "file"), None))
    with pytest.raises(ToolkitError, match="cannot be loaded from the hub") as caught:
        load_causal_lm(("nobody/nothing", "main"))
    assert "download the model" in caught.value.fix and caught.value.where == "nobody/nothing@main"
    with pytest.raises(ToolkitError, match="cannot be loaded from the hub"):
        load_reward_model(("nobody/nothing", None))


def test_run_directory_instead_of_model_folder(tmp_path, folder):
    with pytest.raises(ToolkitError, match="not a model folder") as caught:
        load_causal_lm((str(folder.parent), None))
    assert caught.value.fix == f"give {folder}"


@pytest.mark.parametrize(
    ("special", "expected"),
    [
        (["<|finetune_right_pad_id|>", "<|reserved_0|>"], "<|finetune_right_pad_id|>"),
        (["<|image|>", "<|reserved_0|>", "<unk>"], "<|reserved_0|>"),
        (["<|image|>", "<unk>"], "<unk>"),
        (["<|image|>"], "<|pad|>"),
    ],
)
def test_reward_models_pad_with_a_special_token_that_the_model_has(special, expected):
    """Without a pad token, or where it ends an answer; a new token is added if there is no other."""
    names = [*(chr(code) for code in range(32, 127)), "<|im_start|>", "<|im_end|>", *special]
    backend = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>",
        unk_token="<unk>" if "<unk>" in special else None,
        additional_special_tokens=["<|im_start|>", *special], chat_template=template.CHATML_TEMPLATE,
    )  # fmt: skip
    model = GPT2ForSequenceClassification(
        GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1)
    )
    rows = len(tokenizer)
    loading._ensure_padding(model, tokenizer)
    assert tokenizer.pad_token == expected and model.config.pad_token_id == tokenizer.pad_token_id
    assert (model.get_input_embeddings().num_embeddings == rows) == (expected in special)
