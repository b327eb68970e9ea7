"""The JSON schema of recipes, which editors use for completion and checks."""

from __future__ import annotations

import json
from typing import Annotated, Any, Union

from pydantic import Field, TypeAdapter

from toolkit.config import trl_checks
from toolkit.config.registry import STAGES
from toolkit.config.trl_reserved import OWNED

_TYPES = {
    "bool": "boolean",
    "int": "integer",
    "float": "number",
    "text": "string",
    "null": "null",
    "mapping": "object",
}


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of all stages; `trainer:` of sft, reward and dpo lists TRL's keys."""
    recipes: Any = Union[tuple(stage.recipe for stage in STAGES.values())]  # noqa: UP007
    union: Any = Annotated[recipes, Field(discriminator="stage")]
    recipe_schema = TypeAdapter(union).json_schema()
    definitions = recipe_schema["$defs"]
    for name, definition in definitions.items():
        if name.endswith("Recipe"):
            description = "A recipe whose settings apply where this one does not set them."
            definition["properties"]["base"] = {"type": "string", "description": description}
    # Not the installed version: the stored file is the same on every machine.
    newest = trl_checks.read_snapshots()[0]["stages"]
    for stage in STAGES.values():
        if stage.trl_config is None:
            continue
        definition = definitions[stage.recipe.__name__]
        keys = {key: _field(key, field) for key, field in newest[stage.name].items() if key not in OWNED}
        definition["properties"]["trainer"] = {
            "type": "object",
            "additionalProperties": False,
            "description": f"Settings of trl.{stage.trl_config}; unset keys keep TRL's defaults.",
            "properties": keys,
        }
    # A recipe with `base:` may omit the settings of its base.
    for definition in definitions.values():
        definition.pop("title", None)
    for member in recipe_schema["oneOf"]:
        name = member["$ref"].rpartition("/")[2]
        definitions[name]["required"] = ["stage"]
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "toolkit recipe"}
    return {**head, **recipe_schema}


def _field(key: str, field: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a TRL setting; `field` is its entry in the snapshot."""
    kinds, choices = field["types"], trl_checks.choices(key, field)
    options = [_scalar(kind, choices) for kind in kinds if kind in _TYPES]
    options += [
        {"type": "array", "items": _scalar(kind[8:], choices)}
        for kind in kinds
        if kind.startswith("list of ")
    ]
    body = options[0] if len(options) == 1 else {"anyOf": options}
    return {**body, "default": field["default"]}


def _scalar(kind: str, choices: list[str]) -> dict[str, Any]:
    return {"enum": choices} if kind == "text" and choices else {"type": _TYPES[kind]}


def text() -> str:
    """Return the text of the stored schema file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"
