"""The tables of docs/RECIPES.md and docs/DATA.md are up to date; the former contain every setting."""

import re
from pathlib import Path

import pytest

from toolkit.config import trl_checks
from toolkit.config.registry import STAGES
from toolkit.config.yaml_source import parse
from tools import recipe_tables

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = DOCS / "RECIPES.md"


@pytest.mark.parametrize("name", ["RECIPES.md", "DATA.md"])
def test_tables_are_up_to_date(name):
    text = (DOCS / name).read_text(encoding="utf-8")
    assert recipe_tables.filled(text) == text, f"write them: python -m tools.recipe_tables docs/{name}"


def test_every_setting_is_in_a_table():
    listed = {model for section in recipe_tables.SECTIONS.values() for _, model in section}
    for cls in (stage.recipe for stage in STAGES.values()):
        for name, info in cls.model_fields.items():
            owner = next(base for base in reversed(cls.__mro__) if name in getattr(base, "model_fields", {}))
            assert owner in listed, f"{owner.__name__}.{name}"
            nested = [
                option
                for option in recipe_tables.alternatives(info.annotation)
                if recipe_tables.is_model(option)
            ]
            assert set(nested) <= listed
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- settings: (.+?) -->", page)) == {*recipe_tables.SECTIONS, "owned"}
    assert all(f"`{key}`" in page for key in trl_checks.OWNED)


def test_examples_are_valid_yaml():
    for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        lines = block.splitlines()
        starts = [i for i, line in enumerate(lines) if line.startswith("data:")] or [0]
        parts = (
            [lines]
            if len(starts) == 1
            else [lines[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
        )
        assert all(isinstance(parse("\n".join(part), "page").value, dict) for part in parts)
