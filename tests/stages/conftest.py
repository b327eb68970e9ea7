"""A model, data and recipes for the stages on TRL's trainers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chat_fixtures import load_recipe, write_conversations, write_model, write_preferences
from toolkit.config.loader import LoadedRecipe

LoadRecipe = Callable[..., LoadedRecipe]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with an untrained model, conversations and preferences."""
    path = tmp_path_factory.mktemp("stage")
    write_model(path / "base")
    write_conversations(path / "conversations.jsonl")
    write_preferences(path / "preferences.jsonl")
    return path


@pytest.fixture
def load(request, folder) -> LoadRecipe:
    """Load the RECIPE of the test module, with other settings: `load("lora", lora={"r": 4})`."""

    def load(name: str, **settings) -> LoadedRecipe:
        data = "conversations" if request.module.RECIPE["stage"] == "sft" else "preferences"
        content = {
            "model": f"{folder}/base",
            "data": {"name": f"{folder}/{data}.jsonl"},
            "batch_examples": 8,
            "device": "cpu",
            "precision": "fp32",
            "threads": 1,
            **request.module.RECIPE,
            **settings,
        }
        return load_recipe(folder, name, json.dumps(content))  # JSON is YAML

    return load
