"""A model whose tokenizer loses text has no bits per byte; what was lost stands beside its perplexity."""

from __future__ import annotations

import json

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

import toolkit as tk
from tests.foreign_tokenizers import byte_level, unigram, wordpiece
from toolkit.base.errors import ToolkitError
from toolkit.cli import main
from toolkit.models.loading import save_model

TEXTS = [f"the Fox ran {number} times\n" for number in range(12)]
JAPANESE = ["きつねは走った。"] * 12


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Random models: `bytes` keeps every text, `known` and `lower` lose some."""
    root = tmp_path_factory.mktemp("models")
    for name, tokenizer in (("bytes", byte_level()), ("known", unigram()), ("lower", wordpiece())):
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=64, initializer_range=0.3,
        )  # fmt: skip
        save_model(LlamaForCausalLM(config), tokenizer, root / name)
    return root


def measured(models, names, texts, tmp_path, capsys, **options):
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    arguments = ["evaluate", *(str(models / name) for name in names), "--data", str(data), *words]
    assert main.main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert main.main(arguments) == 0
    return rows, capsys.readouterr().err


def test_unknown_tokens_give_no_bits_per_byte(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows, table = measured(models, ["bytes", "known"], JAPANESE, tmp_path, capsys, baseline=models / "bytes")
    assert rows["bytes"]["bits_per_byte"] > 3 and "lost_text" not in rows["bytes"]
    known = rows["known"]
    of_text = ("bits_per_byte", "bits_per_byte_difference", "character_perplexity", "byte_perplexity")
    assert not known.keys() & {*of_text} and known["word_perplexity"] is None
    assert known["perplexity"] > 1
    assert known["lost_text"]["unknown_tokens"] == 12
    assert known["lost_text"]["characters"] == {"unknown": sum(map(len, JAPANESE))}
    assert "known: the tokenizer does not keep the text of 12 of 12 documents" in table
    assert "no bits per byte" in table


def test_a_baseline_that_loses_text_is_not_compared_with(models, tmp_path, capsys):
    rows, _ = measured(models, ["bytes", "lower"], TEXTS, tmp_path, capsys, baseline=models / "lower")
    assert rows["bytes"]["bits_per_byte"] is not None and "bits_per_byte_difference" not in rows["bytes"]
    assert rows["lower"]["lost_text"]["characters"] == {"case": 12, "white space": 12}


def test_a_loss_below_what_is_shown_is_only_told(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    texts = ["the fox ran away " * 100] * 30 + ["é"]
    rows, table = measured(models, ["known"], texts, tmp_path, capsys)
    assert rows["known"]["bits_per_byte"] is not None and rows["known"]["lost_text"]["documents"] == 1
    assert "too few to change the bits per byte that are shown" in table


def test_python_refuses_bits_per_byte_of_lost_text(models):
    kept, lost = tk.load(models / "known").logprobs(["the fox", "きつね"])
    assert kept.bits_per_byte > 0 and lost.total < 0
    with pytest.raises(ToolkitError, match="does not keep the text"):
        _ = lost.bits_per_byte
