"""Scalars follow the core schema of YAML 1.2 instead of PyYAML's YAML 1.1."""

import pytest

from toolkit.config.yaml_source import parse, scalar


@pytest.mark.parametrize("text,value", [
    ("1e-5", 1e-5), ("5E3", 5000.0), (".5", 0.5), ("3.", 3.0), ("-2", -2), ("+7", 7), ("0x1F", 31), ("0o17",
     15),
    ("012", 12), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
    ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("1_000", "1_000"),
    ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("0b11", "0b11"), ("e5", "e5"), ("1e", "1e"), ("-", "-"),
    ("1.2.3", "1.2.3"), ("nan", "nan"), ("inf", "inf"), ("tRue", "tRue"),
])  # fmt: skip
def test_plain_scalar(text, value):
    assert scalar(text) == value and type(scalar(text)) is type(value)


def test_quoted_and_block_scalars_are_strings():
    tree = parse("a: '1e-5'\nb: \"true\"\nc: |\n  12\nd: >-\n  no\n  more\n", "x")
    assert tree.value == {"a": "1e-5", "b": "true", "c": "12\n", "d": "no more"}


def test_every_key_has_a_line_number():
    text = "﻿# head\nstage: x\ndata:\n  - {name: a,\n     weight: 2}\n  -\n    name: b\n".lstrip("﻿")
    positions = parse(text, "f").positions
    assert positions[("stage",)] == "f:2" and positions[("data", 0, "weight")] == "f:5"
    assert positions[("data", 1, "name")] == "f:7" and positions[("data",)] == "f:3"


def test_strings_are_preserved_exactly():
    tree = parse('a: "tab\\t \\u00e9 \\U0001F98A"\nb: 日本語 🦊\n', "x")
    assert tree.value == {"a": "tab\t é 🦊", "b": "日本語 🦊"}
