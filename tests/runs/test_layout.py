"""The file names of a run directory are defined in one module."""

import ast
from pathlib import Path

import pytest

import toolkit
from toolkit.runs import layout

PACKAGE = Path(toolkit.__file__).parent
FILES = {
    value: name
    for name, value in vars(layout).items()
    if name.isupper() and Path(value).suffix in (".json", ".jsonl", ".yaml")
}


def literals_of(path: Path) -> list[str]:
    """Return each literal file name of a run directory in a module, with its line."""
    return [
        f"{path.name}:{node.lineno}: write layout.{FILES[node.value]}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in FILES
    ]


def test_no_other_module_repeats_a_file_name():
    modules = [path for path in PACKAGE.rglob("*.py") if path != Path(layout.__file__)]
    assert [line for path in modules for line in literals_of(path)] == []


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluation.json", "lock.json", "seal.json"])
def test_repeated_file_name_is_detected(tmp_path, name):
    path = tmp_path / "module.py"
    path.write_text(f"rows = read(run / '{name}')\n")
    assert literals_of(path) == [f"module.py:1: write layout.{FILES[name]}"]
