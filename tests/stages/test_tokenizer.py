"""The tokenizer stage: lossless, deterministic, and trained only on the training part."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoTokenizer, GPT2Config

from tests.runs.small_runs import manifest_of
from toolkit.base.errors import DataError
from toolkit.config.schema import DataSource, HeldOut, TokenizerRecipe
from toolkit.data.chat import template
from toolkit.runs.run import Run
from toolkit.stages import tokenizer as stage

TEXT = "The cat sat on the mat, and the dog sat on the cat. 猫はマットの上に座った。\n" * 60


def opened(tmp_path, recipe, name="tok"):
    loaded = SimpleNamespace(name=name, recipe=recipe, text="", overrides=())
    (tmp_path / "runs" / name).mkdir(parents=True, exist_ok=True)
    return Run(loaded, runs_dir=tmp_path / "runs", content=manifest_of(loaded))


def learned(tmp_path, text=TEXT, *, held_out=None, name="tok", **settings):
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    source = DataSource(name=str(path), held_out=held_out or HeldOut(last_characters=0.1))
    recipe = TokenizerRecipe(stage="tokenizer", data=source, **{"vocab_size": 300, **settings})
    run = opened(tmp_path, recipe, name)
    stage.run(recipe, run)
    return run.path, json.loads((run.path / "evaluation.json").read_text())


def test_tokenizer_folder_loads_with_correct_statistics(tmp_path, capsys):
    path, measured = learned(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(path / "tokenizer")
    assert len(tokenizer) == measured["vocab_size"] == 300
    assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token) == (
        "<|endoftext|>",
        "<|endoftext|>",
        "<|pad|>",
    )
    assert tokenizer.chat_template == template.CHAT_TEMPLATE and tokenizer.model_max_length >= 10**9
    held_out = TEXT[int(len(TEXT) * 0.9) :]
    tokens = len(tokenizer(held_out)["input_ids"])
    assert measured["held_out_tokens"] == tokens
    assert measured["bytes_per_token"] == len(held_out.encode()) / tokens
    assert measured["train_bytes"] == len(TEXT[: int(len(TEXT) * 0.9)].encode())


def test_tokenizer_loads_next_to_a_gpt2_config(tmp_path):
    path, _ = learned(tmp_path)
    before = AutoTokenizer.from_pretrained(path / "tokenizer")
    GPT2Config().save_pretrained(path / "tokenizer")
    after = AutoTokenizer.from_pretrained(path / "tokenizer")
    assert after.backend_tokenizer.to_str() == before.backend_tokenizer.to_str()
    assert after.pad_token_id == 1 and after.chat_template == template.CHAT_TEMPLATE


def test_any_text_round_trips(tmp_path):
    path, _ = learned(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(path / "tokenizer")
    generator = np.random.default_rng(0)
    for _ in range(200):
        codes = generator.integers(0, 0x110000, 40)
        text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
        text += " \t\r\n\0  <|user|> n't ." + text[:3]
        assert tokenizer.decode(template.encode_text(tokenizer, text)) == text


def test_training_is_deterministic_across_processes():
    # Many pairs occur equally often; ties must not depend on the hash seed of the process.
    text = " ".join(f"{a}{b}{c}" for a in "abcdef" for b in "aeiou" for c in "xyz") * 3
    code = (
        "import sys; from toolkit.stages.tokenizer import learn;"
        "print(learn([sys.argv[1]], vocab_size=320).backend_tokenizer.to_str())"
    )
    there = subprocess.run([sys.executable, "-c", code, text], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == stage.learn([text], vocab_size=320).backend_tokenizer.to_str()


def test_training_does_not_depend_on_piece_boundaries():
    pieces = TEXT.split(" ")
    cut = [pieces[0], *(" " + piece for piece in pieces[1:])]
    whole, parts = stage.learn([TEXT], vocab_size=320), stage.learn(cut, vocab_size=320)
    assert whole.backend_tokenizer.to_str() == parts.backend_tokenizer.to_str()


def test_tokenizer_learns_only_from_the_training_part(tmp_path):
    text = "abab " * 900 + "zqzq " * 100
    path, _ = learned(tmp_path, text, vocab_size=270)
    vocabulary = AutoTokenizer.from_pretrained(path / "tokenizer").get_vocab()
    assert any("ab" in token for token in vocabulary) and not any("zq" in token for token in vocabulary)


def test_smaller_vocabulary_than_requested_prints_a_notice(tmp_path, capsys):
    _, measured = learned(tmp_path, "ab " * 50, vocab_size=4096)
    assert measured["vocab_size"] < 300 and measured["requested_vocab_size"] == 4096
    assert f"{measured['vocab_size']} entries, not 4096" in capsys.readouterr().err


def test_min_frequency_and_max_characters_take_effect(tmp_path, capsys):
    learned(tmp_path, name="a", vocab_size=1000, min_frequency=2)
    assert "entries, not" in capsys.readouterr().err
    rare, _ = learned(
        tmp_path, "cat cat cat dog dog bird bird bird " * 2, name="b", vocab_size=300, min_frequency=6
    )
    vocabulary = AutoTokenizer.from_pretrained(rare / "tokenizer").get_vocab()
    assert "at" in vocabulary and "og" not in vocabulary
    _, measured = learned(tmp_path, name="c", max_characters=1000)
    assert measured["characters"] == 1000
    assert "first 1,000 characters" in capsys.readouterr().err


def test_empty_held_out_part_warns_and_empty_training_part_is_refused(tmp_path, capsys):
    _, measured = learned(tmp_path, held_out=HeldOut(documents=1e-9), name="a")
    assert measured["bytes_per_token"] is None and measured["held_out_documents"] == 0
    assert "last_characters" in capsys.readouterr().err
    with pytest.raises(DataError, match="no text to learn"):
        learned(tmp_path, held_out=HeldOut(documents=1 - 1e-9), name="b")


def test_only_the_main_process_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    recipe = TokenizerRecipe(stage="tokenizer", data=DataSource(name="missing.txt"))
    stage.run(recipe, opened(tmp_path, recipe))
    assert list(Path(tmp_path / "runs" / "tok").iterdir()) == []


def test_tokenizer_on_storyworld(tmp_path):
    recipe = TokenizerRecipe(
        stage="tokenizer",
        vocab_size=512,
        data=DataSource(name="storyworld", examples=200, held_out_examples=20),
    )
    run = opened(tmp_path, recipe)
    stage.run(recipe, run)
    measured = json.loads((run.path / "evaluation.json").read_text())
    assert measured["vocab_size"] == 512 and measured["documents"] == 200
    assert measured["held_out_documents"] == 20 and measured["bytes_per_token"] > 2
