"""Fixtures: a small byte-level corpus and a function that pretrains on it in this process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from toolkit.config import loader
from toolkit.data.text.shards import TokenWriter
from toolkit.pretrain import stage
from toolkit.runs.opening import open_run
from toolkit.runtime import devices

WORDS = ["river", "bank", "garden", "moon", "cat", "sings", "sleeps", "finds", "the", "a"]


def write_part(folder: Path, tokenizer, documents: list[str], **settings) -> None:
    writer = TokenWriter(folder, vocab_size=len(tokenizer), end_id=tokenizer.eos_token_id, **settings)
    for text in documents:
        ids = tokenizer.encode(text, add_special_tokens=False)
        writer.add(ids, num_bytes=len(text.encode()), logprob=-float(len(text)))
    writer.finish()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, tiny_tokenizer) -> Path:
    """Create a corpus of 400 training and 30 held-out sentences."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, generator.integers(3, 12))) for _ in range(430)]
    write_part(folder / "train", tiny_tokenizer, texts[:400])
    write_part(folder / "held_out", tiny_tokenizer, texts[400:])
    tiny_tokenizer.save_pretrained(folder / "tokenizer")
    return folder


SETTINGS = {
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 32},
    "batch_tokens": 256,
    "train_tokens": 256 * 12,
    "log_every_steps": 2,
    "evaluate_documents": 10,
    "checkpoint_every_tokens": 256 * 4,
    "precision": "fp32",
    "device": "cpu",
    "threads": 1,
    "samples": {"prompts": ["the "], "max_new_tokens": 8},
}


def write_recipe(folder: Path, corpus: Path, name: str = "first", **settings) -> Path:
    """Write recipes/t/NAME.yaml (JSON is valid YAML) with small settings and the given ones."""
    path = folder / "recipes" / "t" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"stage": "pretrain", "tokens": str(corpus), **SETTINGS, **settings}
    path.write_text(json.dumps(content))
    return path


def train(folder: Path, corpus: Path, name: str = "first", **settings) -> Path:
    """Run a pretraining in this process and return its unsealed run directory."""
    loaded = loader.load(write_recipe(folder, corpus, name, **settings))
    with open_run(loaded, runs_dir=folder / "runs") as run:
        devices.configure(loaded.recipe)
        stage.run(loaded.recipe, run)
    return folder / "runs" / "t" / name


@pytest.fixture
def pretrain(tmp_path, corpus):
    """Return `train` for the folder of the test."""

    def run(name: str = "first", *, tokens: Path = corpus, **settings) -> Path:
        return train(tmp_path, tokens, name, **settings)

    return run
