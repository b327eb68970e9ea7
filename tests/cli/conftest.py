"""A tiny model whose tokenizer splits multi-byte characters."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from toolkit.config.schema import ModelSettings
from toolkit.models import gpt2, loading
from toolkit.stages.tokenizer import learn


@pytest.fixture(scope="session")
def tokenizer():
    return learn(["the fox and the bear, the fox and the hare. " * 5], vocab_size=280)


@pytest.fixture(scope="session")
def model(tokenizer):
    settings = ModelSettings(n_layer=2, n_head=2, n_embd=32, n_positions=96)
    model = gpt2.build(
        settings,
        vocab_size=len(tokenizer),
        seed=1,
        end_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    with torch.no_grad():  # far enough from uniform that answers depend on the prompt
        for parameter in model.transformer.parameters():
            parameter.mul_(4)
    return model


@pytest.fixture(scope="session")
def folder(model, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "small"
    loading.save_model(model, tokenizer, path)
    return path


@pytest.fixture(scope="session")
def plain_folder(model, tokenizer, tmp_path_factory):
    """Return the same model without a chat template."""
    path = tmp_path_factory.mktemp("models") / "plain"
    loading.save_model(model, tokenizer, path)
    (path / "chat_template.jinja").unlink()
    return path
