"""Every mistake is told at once, each with its line, its key, what was given, and what was meant."""

from pathlib import Path

import pytest

from toolkit.base.errors import RecipeError
from toolkit.config.loader import load


def read_cases():
    blocks = Path(__file__).with_name("bad_recipes.txt").read_text().split("\n== ")[1:]
    for block in blocks:
        name, _, rest = block.partition("\n")
        recipe, _, said = rest.partition("\n--\n")
        yield pytest.param(recipe + "\n", said.strip(), id=name)


def problems_of(path, overrides=()):
    with pytest.raises(RecipeError) as caught:
        load(path, overrides)
    assert caught.value.exit_status == 2
    return str(caught.value)


@pytest.mark.parametrize("recipe,said", list(read_cases()))
def test_a_mistake_is_told_in_plain_words(tmp_path, recipe, said):
    path = tmp_path / "r.yaml"
    path.write_text(recipe)
    assert problems_of(path).replace(f"{path}:", "") == said


@pytest.mark.parametrize("content,said", [
    (b"", "r.yaml:1: the file is empty; a recipe starts with `stage:`"),
    (b"# only words\n", "r.yaml:1: the file is empty; a recipe starts with `stage:`"),
    (b"stage: sft\ndata:\n\tname: x\n", "r.yaml:3: not valid YAML: a tab; indent with spaces"),
    (b"stage: sft\nmodel: a\x07b\n", "r.yaml:2: not valid YAML: the character U+0007 is not allowed"),
    (b"stage: sft\nmodel: caf\xe9\n", "r.yaml:2: not UTF-8 text (byte 0xe9); save the file as UTF-8"),
    ("stage: sft\n".encode("utf-16"), "r.yaml:1: not UTF-8 text (byte 0xff); save the file as UTF-8"),
    (b"stage: " + b"[" * 40 + b"]" * 40, "r.yaml:1: stage.0.0: nested more than 32 deep"),
    (b"stage: tokenizer\nseed: " + b"9" * 5000, "r.yaml:2: seed: must be a finite number, not 9999999999"),
    (b"stage: sft\n" + b"a: {" * 3000, "r.yaml:2: a.a.a: nested more than 32 deep"),
], ids=["empty", "comment", "tab", "control", "latin-1", "utf-16", "deep", "long number",
"very deep"])  # fmt: skip
def test_what_is_not_a_recipe_file(tmp_path, content, said):
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    assert problems_of(path).replace(f"{tmp_path}/", "").startswith(said)


def test_a_missing_file_and_a_folder(tmp_path):
    assert problems_of(tmp_path / "r.yaml") == f"{tmp_path / 'r.yaml'}: there is no such file"
    assert problems_of(tmp_path) == f"{tmp_path}: this is a folder, not a recipe"
