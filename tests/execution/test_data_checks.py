"""`toolkit check`, and a folder before its first stage, read the first row of each file of data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.base.errors import RecipeError
from toolkit.cli.run import run_command
from toolkit.execution import launching
from toolkit.execution.check import check_recipes

ROOT = Path(__file__).parents[2]
PREFERENCE = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
SYSTEM = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes"},
    ]
}
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}<|endoftext|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_tokenizer) -> Path:
    """A folder with recipes of several stages; `base` is a model without weights."""
    monkeypatch.chdir(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    recipes = tmp_path / "recipes" / "t"
    recipes.mkdir(parents=True)
    for name, text in {
        "tokenizer": "stage: tokenizer\ndata: {name: text.txt}\n",
        "sft": "stage: sft\nmodel: ./base\ndata: {name: chats.jsonl}\n",
        "dpo": "stage: dpo\nmodel: runs/t/sft\ndata: {name: pairs.jsonl}\n",
        "ppo": "stage: ppo\nmodel: runs/t/sft\nreward_model: ./base\ndata:\n  - {name: pairs.jsonl}\n",
    }.items():
        (recipes / f"{name}.yaml").write_text(text)
    write("chats.jsonl", SYSTEM)
    write("pairs.jsonl", PREFERENCE)
    Path("text.txt").write_text("Once upon a time.\n")
    return tmp_path


def write(name: str, *rows: object) -> None:
    Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def found(name: str, *overrides: str) -> list[str]:
    return [str(problem) for problem in check_recipes(Path(f"recipes/t/{name}.yaml"), overrides).problems]


def test_readable_data_are_no_problem(here):
    report = check_recipes(Path("recipes/t"))
    assert report.problems == [] and [recipe.not_checked for recipe in report.recipes] == [[]] * 4


@pytest.mark.parametrize(
    ("stage", "file", "row", "message"),
    [
        (
            "sft",
            "chats.jsonl",
            {"chat": []},
            "recipes/t/sft.yaml:3: data: chats.jsonl:1: there is no column 'messages'",
        ),
        (
            "sft",
            "chats.jsonl",
            {"messages": [{"role": "foo", "content": "Hi"}]},
            "recipes/t/sft.yaml:3: data: chats.jsonl:1: messages: unknown role 'foo'",
        ),
        (
            "dpo",
            "pairs.jsonl",
            {"prompt": "Hi", "answer": "a"},
            "recipes/t/dpo.yaml:3: data: pairs.jsonl:1: there is no column 'chosen'",
        ),
        (
            "ppo",
            "pairs.jsonl",
            {"x": 1},
            "recipes/t/ppo.yaml:4: data: pairs.jsonl:1: there is no column 'prompt'",
        ),
    ],
    ids=["columns", "role", "preferences", "prompts"],
)
def test_first_row_that_a_stage_would_stop_at_is_a_problem(here, stage, file, row, message):
    write(file, row)
    problems = found(stage)
    assert len(problems) == 1 and problems[0].startswith(message) and "\n  fix: " in problems[0]


def test_rows_that_are_left_out_are_passed_over(here):
    write("pairs.jsonl", PREFERENCE | {"rejected": "a"}, {"prompt": "Hi"})  # two equal answers; no answer
    assert found("dpo")[0].startswith("recipes/t/dpo.yaml:3: data: pairs.jsonl:2: there is no column")
    assert found("dpo", "data.on_bad_row=skip") == []


def test_text_that_cannot_be_decoded_is_a_problem(here):
    Path("text.txt").write_bytes(b"Caf\xe9 \xff\xfe\n" * 3)
    problems = found("tokenizer")
    assert len(problems) == 1 and problems[0].startswith("recipes/t/tokenizer.yaml:2: data: text.txt")


def test_chat_template_has_to_render_the_first_row(here):
    Path("strict.jinja").write_text(NO_SYSTEM)
    [problem] = found("sft", "chat_template=strict.jinja")
    assert problem.startswith("recipes/t/sft.yaml:3: data: chats.jsonl:1: the chat template refuses")
    write("chats.jsonl", {"messages": SYSTEM["messages"][1:]})
    assert found("sft", "chat_template=strict.jinja") == []


def test_missing_files_are_told(here):
    Path("pairs.jsonl").unlink()
    report = check_recipes(Path("recipes/t"))
    told = {recipe.stage: recipe.not_checked for recipe in report.recipes}
    assert report.problems == [] and told["dpo"] == ["data: there is no file pairs.jsonl here"]
    report = check_recipes(Path("recipes/t/sft.yaml"), ["chat_template=gone.jinja", "data.name=*.csv"])
    assert report.problems == []
    assert report.recipes[0].not_checked == [
        "data: *.csv: no file matches this pattern",
        "gone.jinja: there is no such file with a chat template",
    ]


def test_folder_is_refused_before_its_first_stage(here, monkeypatch):
    monkeypatch.setattr(launching, "start", lambda *args, **kwargs: pytest.fail("a stage was started"))
    write("pairs.jsonl", {"prompt": "Hi", "answer": "a"})
    with pytest.raises(RecipeError, match="pairs.jsonl:1: there is no column 'chosen'"):
        run_command("recipes/t", runs_dir="runs")
    Path("pairs.jsonl").unlink()
    with pytest.raises(RecipeError, match="dpo.yaml:3: data: there is no file pairs.jsonl here"):
        run_command("recipes/t", runs_dir="runs")


def test_recipes_without_files_import_no_library():
    heavy = {"torch", "transformers", "datasets", "pyarrow"}
    code = (
        "import sys; from pathlib import Path; from toolkit.execution.check import check_recipes\n"
        f"report = check_recipes(Path({str(ROOT / 'recipes' / 'tiny')!r}))\n"
        f"assert not report.problems and not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
