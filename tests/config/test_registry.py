"""Adding a stage needs only its own files and one registry entry."""

import ast
import json
import shutil
import sys
from pathlib import Path
from typing import Literal

import pytest

import toolkit
from toolkit.cli import main, summary_tables
from toolkit.cli.run import run_command
from toolkit.config import json_schema, registry, schema
from toolkit.config.registry import (
    STAGES,
    Card,
    Column,
    Cost,
    Curve,
    Note,
    Number,
    Product,
    Stage,
    StageSentence,
)
from toolkit.publish.model_card import model_card
from toolkit.report import wording
from toolkit.report.lesson import lesson_of
from toolkit.report.summary import summarize
from toolkit.runs import seal

PACKAGE = Path(toolkit.__file__).parent
MODULE = '''
def run(recipe, run):
    """Write a model and its numbers."""
    for step in (1, 2, 3):
        run.metrics.log(step, grip=recipe.scale * step)
    run.write_text("model/weights.txt", "toy")
    run.write_json("evaluation.json", {"grip": 0.25, "n": 3})
'''
RECIPES = {
    "_data.yaml": "data: {name: storyworld, examples: 4}\n",
    "toy.yaml": "stage: toy\nbase: _data.yaml\nmodel: runs/before\nscale: 2.0\n",
    "dpo.yaml": "stage: dpo\nbase: _data.yaml\nmodel: runs/t/toy\n",
}


class ToyRecipe(schema.StageRecipe):
    """The recipe of a toy stage."""

    stage: Literal["toy"]
    model: str
    data: schema.DataSources
    scale: schema.Positive = 1.0


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Register a toy stage and create a folder with its recipes and module."""
    stage = Stage(
        "toy",
        ToyRecipe,
        "toy_stage:run",
        product=Product.LANGUAGE_MODEL,
        storyworld={"data": ("prompts",)},
        uses_torch=False,
        has_conversations=True,
        cost=Cost(),
        title="learning to grip",
        description="A toy that grips.",
        curves=(Curve("Grip of the toy", "grip"),),
        notes=(Note("It grips {n} times.", key="n"), Note("No grip.", key="absent")),
        row_title="grip",
        row=(Column("strength of the grip", "grip"),),
        cards=(Card("grip", "grip of the toy", limit="n", limit_label="; at best {limit}"),),
        sentences=(
            StageSentence("toy.grip", (Number("grip", interval=True), Number("n", count=True))),
            StageSentence("toy.absent", (Number("absent"),)),
        ),
    )
    monkeypatch.setitem(STAGES, "toy", stage)
    monkeypatch.setitem(wording.ENGLISH, "toy.grip", "It grips with {grip}, {n} times.")
    folder = tmp_path / "recipes" / "t"
    folder.mkdir(parents=True)
    for name, text in RECIPES.items():
        (folder / name).write_text(text)
    (tmp_path / "toy_stage.py").write_text(MODULE)
    (tmp_path / "before").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield folder
    sys.modules.pop("toy_stage", None)


def test_check_accepts_a_new_stage_and_its_children(toy, capsys):
    assert main.main(["check", str(toy)]) == 0, capsys.readouterr().err
    (toy / "dpo.yaml").write_text(
        RECIPES["dpo.yaml"].replace("stage: dpo", "stage: ppo\nreward_model: runs/t/toy")
    )
    assert main.main(["check", str(toy), "--json"]) == 2
    [problem] = json.loads(capsys.readouterr().out)["problems"]
    assert problem["key"] == "reward_model" and "toy run; a reward run" in problem["what"]


def test_check_validates_the_data_of_a_new_stage(toy, capsys):
    (toy / "_data.yaml").write_text("data: {name: storyworld, config: stories, examples: 4}\n")
    assert main.main(["check", str(toy / "toy.yaml"), "--json"]) == 2
    [problem] = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["key"], problem["kind"]) == ("data.config", "value")


def test_run_summary_and_report_accept_a_new_stage(toy, tmp_path, capsys):
    (toy / "toy.yaml").write_text(RECIPES["toy.yaml"].replace("runs/before", "./before"))
    assert run_command(str(toy / "toy.yaml"), runs_dir="runs") == 0
    run = tmp_path / "runs" / "t" / "toy"
    assert seal.is_sealed(run)
    summary = summarize([run])
    assert next(iter(summary["stages"].values()))["grip"] == 0.25
    summary_tables.show(lesson_of([run]))
    shown = capsys.readouterr().out
    assert "toy: It grips with 0.250, 3 times." in shown
    assert main.main(["report", str(tmp_path / "runs" / "t")]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text()
    assert "learning to grip" in page and "A toy that grips." in page and "It grips 3 times." in page
    assert "No grip." not in page and "strength of the grip" in page
    assert "grip of the toy; at best 3.000" in page
    assert "text-generation" in model_card(run, "owner/toy")


def test_the_plan_accepts_a_new_stage(toy, capsys):
    for name in ("tokenizer", "corpus", "pretrain"):
        shutil.copy(PACKAGE.parent / "recipes" / "tiny" / f"{name}.yaml", toy)
    for path in toy.glob("*.yaml"):
        path.write_text(path.read_text().replace("runs/tiny/", "runs/t/"))
    (toy / "toy.yaml").write_text(RECIPES["toy.yaml"].replace("runs/before", "runs/t/pretrain"))
    assert main.main(["plan", str(toy), "--no-probe", "--json"]) == 0
    rows = {row["stage"]: row for row in json.loads(capsys.readouterr().out)["plan"]}
    assert rows["toy"]["parameters"] == rows["pretrain"]["parameters"]
    assert rows["toy"]["tokens"] is None and rows["dpo"]["tokens"] > 0


def test_the_schema_for_editors_has_a_new_stage(toy):
    assert json_schema.schema()["$defs"]["ToyRecipe"]["properties"]["scale"]["default"] == 1.0


def test_registry_entries_match_their_recipe_classes():
    for name, stage in STAGES.items():
        assert stage.name == name
        assert stage.recipe.model_fields["stage"].annotation == Literal[name]
        module, _, function = stage.entry.partition(":")
        path = PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
        functions = [
            node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
        ]
        assert function in functions
        assert stage.curves == () or (stage.title and stage.description)


def test_producers_of_a_product():
    assert registry.makers(Product.LANGUAGE_MODEL) == ("pretrain", "sft", "dpo", "ppo")
    assert registry.makers(Product.REWARD_MODEL) == ("reward",)
    assert registry.order("tokenizer") < registry.order("evaluate") < registry.order("unknown")


def stage_lists_of(path: Path) -> list[str]:
    """Return every literal collection in a module that contains two or more stage names."""
    lists = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        items = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
        names = {item.value for item in items if isinstance(item, ast.Constant)} & STAGES.keys()
        if len(names) > 1:
            lists.append(f"{path.relative_to(path.anchor)}:{node.lineno}: {', '.join(sorted(names))}")
    return lists


def test_no_other_module_lists_stages():
    """Modules must derive such lists from `registry.STAGES`."""
    modules = [path for path in PACKAGE.rglob("*.py") if path.name != "registry.py"]
    assert [line for path in modules for line in stage_lists_of(path)] == []


def stage_comparisons_of(path: Path) -> list[str]:
    """Return every comparison of a module with the name of a stage, or with a stage's recipe class."""
    recipes = {stage.recipe.__name__ for stage in STAGES.values()}
    comparisons = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        constants = [*node.comparators, node.left] if isinstance(node, ast.Compare) else []
        names = {item.value for item in constants if isinstance(item, ast.Constant)} & STAGES.keys()
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            names |= recipes & {getattr(node.args[1], "attr", ""), getattr(node.args[1], "id", "")}
        comparisons += [f"{path.name}:{node.lineno}: {name}" for name in sorted(names)]
    return comparisons


def test_reports_and_plans_do_not_branch_on_single_stages():
    """Add an attribute to `registry.Stage`, or a method to the recipe class, instead."""
    modules = [*(PACKAGE / "report").glob("*.py"), PACKAGE / "planning" / "plan.py"]
    assert [line for path in modules for line in stage_comparisons_of(path)] == []


@pytest.mark.parametrize("code", ['x == "sft"', '"sft" != x', "isinstance(x, schema.SftRecipe)"])
def test_a_branch_on_a_single_stage_is_found(tmp_path, code):
    path = tmp_path / "module.py"
    path.write_text(f"{code}\n")
    assert len(stage_comparisons_of(path)) == 1


@pytest.mark.parametrize("code", ['X = ("sft", "dpo")', 'X = {"sft": 1, "corpus": 2}', 'X = {"sft", "dpo"}'])
def test_planted_list_of_stages_is_detected(tmp_path, code):
    path = tmp_path / "module.py"
    path.write_text(f"{code}\n")
    assert len(stage_lists_of(path)) == 1
