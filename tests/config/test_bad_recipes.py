"""All errors of a recipe are reported together, with line, key, kind and suggestion."""

import re
from pathlib import Path

import pytest

from toolkit.base.errors import Problem, ProblemKind, RecipeError
from toolkit.config.loader import load


def read_blocks(name):
    """Parse a file of cases, each after a line `== case`, into {case: text}."""
    blocks = Path(__file__).with_name(name).read_text().split("\n== ")[1:]
    return dict(block.split("\n", 1) for block in blocks)


CASES = {name: text.split("\n--\n") for name, text in read_blocks("bad_recipes.txt").items()}
GOLDEN = read_blocks("golden_messages.txt")


def error_of(path, overrides=()):
    with pytest.raises(RecipeError) as caught:
        load(path, overrides)
    assert caught.value.exit_status == 2
    return caught.value


def problems_of(path, overrides=()):
    return str(error_of(path, overrides))


def outline(problem: Problem) -> str:
    """Return line, key and kind of a problem, and the suggestion of its message."""
    suggested = re.search(r"did you mean (.+?)\?$", problem.what)
    parts = [problem.place.rpartition(":")[2], problem.key, problem.kind]
    return ": ".join(filter(None, parts)) + (f" -> {suggested[1]}" if suggested else "")


@pytest.mark.parametrize("name", CASES)
def test_every_error_has_line_key_and_kind(tmp_path, name):
    recipe, expected = CASES[name]
    path = tmp_path / "r.yaml"
    path.write_text(recipe + "\n")
    problems = error_of(path).problems
    assert [outline(problem) for problem in problems] == expected.strip().split("\n")
    assert all(problem.what and problem.place.startswith(f"{path}:") for problem in problems)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_messages(tmp_path, name):
    path = tmp_path / "r.yaml"
    path.write_text(CASES[name][0] + "\n")
    assert problems_of(path).replace(f"{path}:", "") == GOLDEN[name].strip()


def test_cases_cover_every_error_kind():
    text = "\n".join(expected for _, expected in CASES.values())
    assert [kind for kind in ProblemKind if f": {kind}" not in text] == []


@pytest.mark.parametrize("content,message", [
    (b"", "r.yaml:1: the file is empty; a recipe starts with `stage:`"),
    (b"# only words\n", "r.yaml:1: the file is empty; a recipe starts with `stage:`"),
    (b"stage: sft\ndata:\n\tname: x\n", "r.yaml:3: not valid YAML: a tab; indent with spaces"),
    (b"stage: sft\nmodel: a\x07b\n", "r.yaml:2: not valid YAML: the character U+0007 is not allowed"),
    (b"stage: sft\nmodel: caf\xe9\n", "r.yaml:2: not UTF-8 text (byte 0xe9); save the file as UTF-8"),
    ("stage: sft\n".encode("utf-16"), "r.yaml:1: not UTF-8 text (byte 0xff); save the file as UTF-8"),
    (b"stage: " + b"[" * 40 + b"]" * 40, "r.yaml:1: stage.0.0: nested more than 32 levels deep"),
    (b"stage: tokenizer\nseed: " + b"9" * 5000, "r.yaml:2: seed: must be a finite number, not 9999999999"),
    (b"stage: sft\n" + b"a: {" * 3000, "r.yaml:2: a.a.a: nested more than 32 levels deep"),
], ids=["empty", "comment", "tab", "control", "latin-1", "utf-16", "deep", "long number",
"very deep"])  # fmt: skip
def test_unreadable_recipe_files_are_reported(tmp_path, content, message):
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    assert problems_of(path).replace(f"{tmp_path}/", "").startswith(message)


def test_missing_file_and_folder_are_reported(tmp_path):
    assert problems_of(tmp_path / "r.yaml") == f"{tmp_path / 'r.yaml'}: there is no such file"
    assert problems_of(tmp_path) == f"{tmp_path}: this is a folder, not a recipe"
