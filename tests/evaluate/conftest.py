"""Small models that speak the storyworld's tokens, and a run to measure them in."""

from __future__ import annotations

import os
from functools import partial

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from toolkit.config.schema import ModelSettings
from toolkit.models import gpt2, loading
from toolkit.stages.tokenizer import learn
from toolkit.storyworld import LARGE


@pytest.fixture(scope="session")
def stories():
    return [row["text"] for row in LARGE.rows("stories", 0, "held_out", 16)]


@pytest.fixture(scope="session")
def tokenizer(stories):
    return learn(stories, vocab_size=400)


@pytest.fixture(scope="session")
def build_model(tokenizer):
    """A function of seed, n_positions and scale."""
    return partial(build, tokenizer)


def build(tokenizer, seed, *, n_positions=256, scale=3.0):
    settings = ModelSettings(n_layer=2, n_head=2, n_embd=32, n_positions=n_positions)
    model = gpt2.build(
        settings,
        vocab_size=len(tokenizer),
        seed=seed,
        end_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    ).eval()
    with torch.no_grad():  # far from uniform, so that every token of context counts
        for parameter in model.transformer.parameters():
            parameter.mul_(scale)
    return model


@pytest.fixture(scope="session")
def model(tokenizer):
    return build(tokenizer, 1)


@pytest.fixture(scope="session")
def folders(tokenizer, tmp_path_factory):
    """Two models, `first` and `second`, and `twin`, the same as first."""
    root = tmp_path_factory.mktemp("models")
    for name, seed in (("first", 1), ("second", 2), ("twin", 1)):
        loading.save_model(build(tokenizer, seed), tokenizer, root / name)
    return root


@pytest.fixture(scope="session")
def scorer(tokenizer, tmp_path_factory):
    """A reward model with random weights."""
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=448, n_positions=1024, n_embd=32, n_layer=1, n_head=2, num_labels=1, initializer_range=0.5,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("reward") / "scorer"
    loading.save_model(GPT2ForSequenceClassification(config), tokenizer, folder)
    return folder
