"""The inputs of a recipe: local or Hub names, data sources, references and files."""

import pytest

from toolkit.base.errors import DataError, ToolkitError
from toolkit.cli import main
from toolkit.config import inputs, schema
from toolkit.config.loader import load
from toolkit.data import files
from toolkit.runs import references
from toolkit.runs.hub import local_folder

# name, whether it is local as data, whether it is local as a model
NAMES = [
    ("squad", False, False),
    ("owner/name", False, False),
    ("owner/name@main", False, False),
    ("owner/name@refs/convert/parquet", False, False),
    ("owner/corpus-v1.5", False, False),
    ("owner/whisper-small.en", True, False),
    ("storyworld", False, False),
    ("a/b/c", True, True),
    ("a/b/c@v1", True, True),
    ("a/b.csv", True, False),
    ("x.txt", True, False),
    ("x.txt@v1", False, False),
    ("a/b.jsonl.gz", True, False),
    ("./x", True, True),
    ("../x@v1", True, True),
    ("/x", True, True),
    ("~/x", True, True),
    ("*.txt", True, True),
    ("a\\b", True, True),
    ("runs/x", True, True),
]


@pytest.mark.parametrize("name,as_data,as_model", NAMES)
def test_names_are_classified_as_local_or_hub(name, as_data, as_model):
    assert inputs.is_local(name) is as_data
    assert inputs.is_local(name, kind="model") is as_model


@pytest.mark.parametrize("name,as_data,as_model", NAMES)
def test_every_caller_classifies_names_alike(name, as_data, as_model, tmp_path, monkeypatch, capsys):
    """`check`, the reader of data, the loader of models and references decide alike."""
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"stage: tokenizer\ndata: {{name: '{name}'}}\n")
    is_refused = name.endswith((".csv", ".en")) or name.startswith("runs/")  # no text: a run of preferences
    if name != "storyworld" and not is_refused:
        assert main.main(["check", str(recipe)]) == 0
        assert ("of the Hub" in capsys.readouterr().err) is not as_data
    if as_data:
        with pytest.raises(DataError):
            files.resolve(schema.DataSource(name=name))
    else:
        assert files.resolve(schema.DataSource(name=name)) is None
    if as_model:
        for look_up in (local_folder, lambda name: references.resolve(name, runs_dir=tmp_path)):
            with pytest.raises(ToolkitError):
                look_up(name)
    else:
        assert local_folder(name) is None and references.resolve(name, runs_dir=tmp_path) == name


def test_existing_path_is_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert inputs.is_local("owner/name") and inputs.is_local("owner/name", kind="model")


EVALUATE = """
stage: evaluate
models: [runs/t/sft, gpt2@main]
data: DATA
perplexity: {tokens: runs/t/corpus}
win_rate:
  baseline: runs/t/sft
  judge: votes.jsonl
"""


def test_recipe_references_are_collected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(EVALUATE.replace("DATA", "[{name: a.jsonl}, {name: b.jsonl}]"))
    recipe = load(tmp_path / "r.yaml").recipe
    sources = {inputs.key_text(key): source.name for key, source in inputs.data_sources(recipe)}
    assert sources == {"data[0]": "a.jsonl", "data[1]": "b.jsonl"}
    assert {inputs.key_text(key): name for key, name in inputs.references(recipe)} == {
        "models[0]": "runs/t/sft",
        "models[1]": "gpt2@main",
        "perplexity.tokens": "runs/t/corpus",
        "win_rate.baseline": "runs/t/sft",
    }
    with pytest.raises(DataError, match="votes"):
        list(inputs.files(recipe))
    (tmp_path / "votes.jsonl").write_text("{}\n")
    assert [(inputs.key_text(key), path.name) for key, path in inputs.files(recipe)] == [
        ("win_rate.judge", "votes.jsonl")
    ]


def test_reward_function_file_is_an_input(tmp_path):
    function = f"{tmp_path / 'rewards.py'}:short"
    recipe = schema.PpoRecipe(
        stage="ppo",
        model="runs/sft",
        reward_model="gold",
        data=schema.DataSource(name="storyworld", examples=4),
        rewards=[schema.RewardSettings(function=function)],
    )
    with pytest.raises(DataError, match="there is no file"):
        list(inputs.files(recipe))
    (tmp_path / "rewards.py").write_text("")
    assert list(inputs.files(recipe)) == [(("rewards", 0, "function"), tmp_path / "rewards.py")]
    assert list(inputs.references(recipe)) == [(("model",), "runs/sft")]


@pytest.mark.parametrize("data", ["{name: a.txt}", "[{name: a.txt}]"])
def test_single_source_as_mapping_equals_list(tmp_path, data):
    path = tmp_path / "r.yaml"
    path.write_text(f"stage: tokenizer\ndata: {data}\n")
    recipe = load(path).recipe
    assert recipe.data == [schema.DataSource(name="a.txt")]
    assert recipe.model_dump(mode="json")["data"]["name"] == "a.txt"
    assert [key for key, _ in inputs.data_sources(recipe)] == [("data",)]


def test_several_sources_remain_a_list(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("stage: tokenizer\ndata: [{name: a.txt}, {name: b.txt}]\n")
    dumped = load(path).recipe.model_dump(mode="json")["data"]
    assert [source["name"] for source in dumped] == ["a.txt", "b.txt"]


def test_canonical_form_of_older_records():
    source = {"name": "a"}
    settings = {"data": [source], "models": ["m"], "win_rate": {"judge_data": [source]}, "rewards": [source]}
    assert inputs.canonical_settings(settings) == {
        "data": source,
        "models": ["m"],
        "win_rate": {"judge_data": source},
        "rewards": [source],
    }
    assert inputs.canonical_settings({"data": [source, source]}) == {"data": [source, source]}
    keys = {"data[0]": 1, "win_rate.judge_data[0]": 2, "perplexity.data[0]": 3, "perplexity.data[1]": 4}
    assert inputs.canonical_keys(keys) == {
        "data": 1,
        "win_rate.judge_data": 2,
        "perplexity.data[0]": 3,
        "perplexity.data[1]": 4,
    }
    assert inputs.canonical_keys({"models[0]": 1}) == {"models[0]": 1}
