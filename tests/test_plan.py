"""`toolkit plan` counts what the built models really have."""

import json
from pathlib import Path

import pytest

from toolkit.models import shape
from toolkit.plan import plan, plan_command
from toolkit.recipe.reader import load_folder
from toolkit.recipe.schema import ModelSettings

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.mark.parametrize(
    "settings,vocab_size",
    [
        (ModelSettings(n_layer=2, n_head=2, n_embd=32, n_positions=64), 300),
        (ModelSettings(n_layer=4, n_head=3, n_embd=192, n_positions=256), 2048),
    ],
)
def test_parameters_are_those_of_the_built_model(settings, vocab_size):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=shape.padded_vocabulary(vocab_size),
        n_layer=settings.n_layer,
        n_head=settings.n_head,
        n_embd=settings.n_embd,
        n_positions=settings.n_positions,
    )
    assert GPT2LMHeadModel(config).num_parameters() == shape.num_parameters(settings, vocab_size=vocab_size)


def test_gpt2_small_has_its_published_size():
    gpt2 = ModelSettings(n_layer=12, n_head=12, n_embd=768, n_positions=1024)
    padding = (shape.padded_vocabulary(50257) - 50257) * 768
    assert shape.num_parameters(gpt2, vocab_size=50257) - padding == 124_439_808


def test_flops_are_six_per_weight_and_attention():
    model = ModelSettings(n_layer=1, n_head=1, n_embd=2, n_positions=8)
    # A block of 12 * 4 weights, 9 * 2 biases and 4 * 2 in norms; the output's 64 * 2; the last norm's 4.
    weights = 48 + 18 + 8 + 128 + 4
    assert shape.flops_per_token(model, vocab_size=64, sequence_length=8) == 6 * weights + 12 * 1 * 2 * 8


def test_the_large_recipes_are_planned(capsys):
    assert plan_command(str(RECIPES / "gpt2-124m"), json=True) == 0
    rows = {row["stage"]: row for row in json.loads(capsys.readouterr().out)["plan"]}
    assert rows["pretrain"]["tokens"] == 10_000_000_000
    assert 100e6 < rows["pretrain"]["parameters"] < 130e6
    assert rows["pretrain"]["flops"] > 6 * rows["pretrain"]["tokens"] * 1e8
    assert rows["sft"]["tokens"] is None and "examples" in rows["sft"]["note"]
    assert rows["tokenizer"]["parameters"] is None


def test_doubling_the_tokens_doubles_the_work():
    once, twice = (
        next(row for row in plan(folder, neighbours=folder) if row["stage"] == "pretrain")
        for folder in (
            load_folder(RECIPES / "tiny", ["train_tokens=100000"]),
            load_folder(RECIPES / "tiny", ["train_tokens=200000"]),
        )
    )
    assert twice["flops"] == 2 * once["flops"] > 0
    assert twice["parameters"] == once["parameters"]
