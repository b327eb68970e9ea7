"""Sampling settings that a checkpoint ships are its defaults; the precision of the weights is a choice."""

from __future__ import annotations

import io
import json

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

import toolkit as tk
from toolkit.base.errors import UsageError
from toolkit.cli import main
from toolkit.evaluate import judges, reward_models
from toolkit.inference import opening
from toolkit.inference.generation import DEFAULTS, GenerationSettings, own_sampling_note
from toolkit.inference.opening import open_model
from toolkit.models.loading import DTYPES, load_causal_lm, load_reward_model, save_model


@pytest.fixture
def folder(tmp_path, tiny_model, tiny_tokenizer):
    save_model(tiny_model, tiny_tokenizer, tmp_path / "model")
    return tmp_path / "model"


def ship(folder, **values):
    """Write sampling settings into the folder's generation_config.json; return the opened model."""
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return open_model(str(folder))


def chosen(opened, **given):
    settings = GenerationSettings(**given).for_opened(opened)
    return {name: getattr(settings, name) for name in DEFAULTS}


def test_models_of_the_toolkit_have_no_settings_of_their_own(folder):
    opened = open_model(str(folder))
    assert chosen(opened) == DEFAULTS == {"temperature": 0.8, "top_k": 0, "top_p": 1.0}
    assert own_sampling_note(opened, GenerationSettings()) is None


@pytest.mark.parametrize(
    ("shipped", "used"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, (0.6, 0, 0.9)),
        ({"temperature": 0.9, "top_p": 0.6}, (0.9, 0, 0.6)),  # without do_sample, as Llama 2 chat
        ({"do_sample": True, "top_k": 20}, (1.0, 20, 1.0)),
        ({"temperature": 0}, (0.0, 0, 1.0)),
        ({"temperature": "hot", "top_k": 5}, (1.0, 5, 1.0)),
        ({"temperature": "hot", "top_k": -1, "top_p": 1.5}, (0.8, 0, 1.0)),
        ({"temperature": True}, (0.8, 0, 1.0)),
        ({"top_k": 2.5}, (0.8, 0, 1.0)),
    ],
)
def test_settings_of_a_checkpoint_are_the_defaults(folder, shipped, used):
    opened = ship(folder, **shipped)
    assert tuple(chosen(opened).values()) == used
    assert [type(value) for value in chosen(opened).values()] == [float, int, float]
    given = {"temperature": 0.3, "top_k": 3, "top_p": 0.5}
    assert chosen(opened, **given) == given
    assert own_sampling_note(opened, GenerationSettings(**given)) is None
    assert len(opened.model.generate(torch.tensor([[5]]), do_sample=False, max_new_tokens=1)[0]) == 2


def test_the_command_line_says_where_its_settings_come_from(folder, capsys):
    ship(folder, temperature=0.6, top_p="wide", repetition_penalty=1.05)
    words = ["generate", str(folder), "a", "--json", "--max-new-tokens", "2", "--top-k", "7"]
    assert main.main(words) == 0
    result = capsys.readouterr()
    used = json.loads(result.out)["settings"]
    assert (used["temperature"], used["top_k"], used["top_p"]) == (0.6, 7, 1.0)
    assert result.err.count("sampling: as the model's generation_config.json says: temperature 0.6") == 1
    assert "top_p 'wide' cannot be used" in result.err and "repetition_penalty 1.05 is not" in result.err
    assert main.main([*words, "--temperature", "0.1", "--top-p", "0.5"]) == 0
    assert "sampling:" not in capsys.readouterr().err


def test_a_greedy_checkpoint_answers_greedily_unless_told_otherwise(folder):
    ship(folder, temperature=0.0)
    model = tk.load(folder)
    assert len({model.generate("a", max_new_tokens=8, seed=seed) for seed in range(4)}) == 1
    hot = {model.generate("a", max_new_tokens=8, seed=seed, temperature=2.0) for seed in range(4)}
    assert len(hot) > 1


def in_bf16(folder, tokenizer):
    """Save the folder's model in bf16."""
    save_model(open_model(str(folder), dtype="bf16").model, tokenizer, folder)


def test_python_opens_a_model_in_any_precision(folder, tiny_tokenizer):
    in_bf16(folder, tiny_tokenizer)
    dtypes = {name: tk.load(folder, dtype=name).model.dtype for name in DTYPES}
    assert dtypes == {**DTYPES, "auto": torch.bfloat16}
    assert tk.load(folder).model.dtype == torch.float32


@pytest.mark.parametrize(
    ("verb", "name", "dtype"),
    [
        ("generate", "fp16", torch.float16),
        ("chat", "bf16", torch.bfloat16),
        ("next", "auto", torch.bfloat16),
        ("evaluate", "fp16", torch.float16),
        ("evaluate", "auto", torch.bfloat16),
    ],
)
def test_precision_of_the_weights_is_a_choice(
    folder, tiny_tokenizer, tmp_path, capsys, monkeypatch, verb, name, dtype
):
    in_bf16(folder, tiny_tokenizer)
    (tmp_path / "a.txt").write_text("the fox ran " * 20)
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n"))
    dtypes = []

    def load(*arguments, **keywords):
        model, tokenizer = load_causal_lm(*arguments, **keywords)
        dtypes.append(model.dtype)
        return model, tokenizer

    monkeypatch.setattr(opening, "load_causal_lm", load)
    words = {
        "generate": ["a", "--max-new-tokens", "3", "--temperature", "0", "--json"],
        "chat": ["--max-new-tokens", "3", "--temperature", "0"],
        "next": ["a", "--json"],
        "evaluate": ["--data", str(tmp_path / "a.txt"), "--json"],
    }[verb]
    assert main.main([verb, str(folder), *words, "--dtype", name]) == 0 and dtypes == [dtype]
    out = capsys.readouterr().out
    if verb == "evaluate":
        assert json.loads(out)["models"]["model"]["dtype"] == str(dtype).removeprefix("torch.")
    assert main.main([verb, str(folder), *words]) == 0 and dtypes[1:] == [torch.float32]


def test_an_unknown_precision_is_refused(folder):
    with pytest.raises(UsageError, match="'int8' is no precision"):
        tk.load(folder, dtype="int8")


@pytest.fixture
def loaded(monkeypatch):
    """The dtypes of the reward models that are loaded."""
    dtypes = []

    def load(*arguments, **keywords):
        model, tokenizer = load_reward_model(*arguments, **keywords)
        dtypes.append(model.dtype)
        return model, tokenizer

    monkeypatch.setattr(judges, "load_reward_model", load)
    monkeypatch.setattr(reward_models, "load_reward_model", load)
    return dtypes


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_judges_and_reward_models_have_this_precision(folder, tiny_tokenizer, tmp_path, capsys, loaded, name):
    config = GPT2Config(
        vocab_size=320, n_positions=256, n_embd=16, n_layer=1, n_head=2, num_labels=1,
        pad_token_id=tiny_tokenizer.pad_token_id, initializer_range=0.5,
    )  # fmt: skip
    save_model(GPT2ForSequenceClassification(config), tiny_tokenizer, tmp_path / "reward")
    rows = ({"prompt": f"p{number}", "chosen": "yes", "rejected": "a no"} for number in range(12))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--data", str(tmp_path / "pairs.jsonl"), "--json", "--dtype", name]
    assert main.main(["evaluate", str(tmp_path / "reward"), *options]) == 0
    assert json.loads(capsys.readouterr().out)["models"]["reward"]["n"] == 12
    judge = ["--baseline", str(folder), "--judge", str(tmp_path / "reward"), "--max-new-tokens", "3"]
    assert main.main(["evaluate", str(folder), *judge, *options]) == 0
    assert json.loads(capsys.readouterr().out)["models"]["model"]["score"] is not None
    assert loaded == [DTYPES[name]] * 2
