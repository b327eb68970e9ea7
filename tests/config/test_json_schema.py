"""The JSON schema for editors is up to date, valid, and consistent with the recipe loader."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from toolkit.config import json_schema
from toolkit.config.yaml_source import parse

RECIPES = Path(__file__).parent.parent.parent / "recipes"
STORED = RECIPES / "recipe.schema.json"
FILES = [
    path for path in sorted(RECIPES.rglob("*.yaml")) if path.parent.name not in ("accelerate", "cluster")
]


@pytest.fixture(scope="module")
def validator():
    return jsonschema.Draft202012Validator(json.loads(STORED.read_text(encoding="utf-8")))


def test_stored_schema_is_up_to_date():
    command = "toolkit schema --output recipes/recipe.schema.json"
    assert STORED.read_text(encoding="utf-8") == json_schema.text(), f"write it: {command}"


def test_schema_is_valid_json_schema(validator):
    jsonschema.Draft202012Validator.check_schema(validator.schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_recipes_satisfy_the_schema(validator, path):
    validator.validate(parse(path.read_text(encoding="utf-8"), str(path)).value)


@pytest.mark.parametrize("text", [
    "stage: sfft", "stage: tokenizer\nvocab: 3", "stage: dpo\ntrainer: {betta: 1}",
    "stage: dpo\ntrainer: {beta: x}",
    "stage: dpo\ntrainer: {loss_type: ipoo}", "stage: dpo\ntrainer: {seed: 1}",
    "stage: sft\ndata: storyworld",
    "stage: pretrain\ntrain_tokens: -1", "model: x",
])  # fmt: skip
def test_schema_rejects_invalid_recipes(validator, text):
    assert not validator.is_valid(yaml.safe_load(text))


def test_recipe_with_base_may_omit_required_keys(validator):
    validator.validate({"base": "_base.yaml", "stage": "dpo", "trainer": {"beta": 0.2}})
