"""The recipe loader: bases, overrides, folders and run names."""

import base64
import random
from pathlib import Path

import pytest

from toolkit.base.errors import RecipeError
from toolkit.config import recipe_texts
from toolkit.config.loader import load, load_folder, run_name
from toolkit.config.yaml_source import Tree, merge, parse, read_text

TOKENIZER = "stage: tokenizer\ndata: {name: storyworld, config: stories, examples: 10}\nvocab_size: 300\n"
DPO = "stage: dpo\nmodel: runs/x/sft\ndata: {name: a.jsonl}\ntrainer: {beta: 0.1, max_steps: 5}\n"
PRETRAIN = "stage: pretrain\ntokens: runs/x/corpus\ntrain_tokens: 100000\n"


@pytest.fixture
def write(tmp_path):
    def written(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return written


def said(function, *arguments):
    with pytest.raises(RecipeError) as caught:
        function(*arguments)
    return str(caught.value)


def test_integer_is_accepted_as_number(write):
    recipe = load(write("r.yaml", PRETRAIN + "optimizer: {learning_rate: 1}\n")).recipe
    assert recipe.optimizer.learning_rate == 1.0 and isinstance(recipe.optimizer.learning_rate, float)


def test_files_of_a_recipe_are_read_once_or_handed_over(write, tmp_path, monkeypatch):
    write("_base.yaml", "seed: 5\n")
    path = write("r.yaml", "base: _base.yaml\n" + TOKENIZER)
    read = []
    monkeypatch.setattr(recipe_texts, "read_text", lambda path: read.append(path) or read_text(path))
    loaded = load(path)
    assert read == [path, tmp_path / "_base.yaml"]
    monkeypatch.setenv(*next(iter(recipe_texts.handed_over(loaded.sources).items())))
    path.unlink()
    (tmp_path / "_base.yaml").write_text("seed: 6\n")
    again = load(path, texts=recipe_texts.receive())
    assert again == loaded and again.recipe.seed == 5 and again.text == "base: _base.yaml\n" + TOKENIZER
    assert len(read) == 2 and not recipe_texts.are_handed_over()


def test_endless_files_are_no_recipes():
    with pytest.raises(RecipeError, match="larger than a recipe can be"):
        load(Path("/dev/zero"))
    noise = base64.b64encode(random.Random(0).randbytes(130_000)).decode()
    with pytest.raises(RecipeError, match=r"^r.yaml: is, with its bases, larger than a recipe can be"):
        recipe_texts.handed_over({"_base.yaml": noise[:80_000], "r.yaml": noise[80_000:]})


def test_recipe_is_frozen_and_keeps_its_text(write):
    loaded = load(write("recipes/a/b.yaml", TOKENIZER))
    assert (
        loaded.text == TOKENIZER
        and loaded.name == "a/b"
        and loaded.positions[("vocab_size",)].endswith("b.yaml:3")
    )
    with pytest.raises(ValueError):
        loaded.recipe.vocab_size = 4


@pytest.mark.parametrize("path,name", [
    ("/x/recipes/tiny/dpo.yaml", "tiny/dpo"), ("/recipes/x/recipes/dpo.yml", "dpo"), ("/a/b/c.yaml", "b/c"),
    ("/site/toolkit/_recipes/hh/sft.yaml", "hh/sft"), ("/x/recipes/a/b/c.yaml", "a/b/c"),
    ("/x/recipes/v1.5.yaml", "v1.5"),
])  # fmt: skip
def test_run_name_follows_the_recipe_path(path, name):
    assert run_name(Path(path)) == name


def test_run_key_sets_the_run_name(write):
    assert load(write("recipes/a/b.yaml", TOKENIZER + "run: other/place\n")).name == "other/place"


# base


def test_base_merges_mappings_and_replaces_lists(write):
    write("_base.yaml", "stage: pretrain\ntokens: runs/x\ntrain_tokens: 100000\n"
          "model: {n_layer: 2, n_embd: 64}\nsamples: {prompts: [a, b], temperature: 0.5}\n")  # fmt: skip
    loaded = load(write("r.yaml", "base: _base.yaml\nmodel: {n_layer: 6}\nsamples:\n  prompts: [c]\n"))
    assert loaded.recipe.model.n_layer == 6 and loaded.recipe.model.n_embd == 64
    assert loaded.recipe.samples.prompts == ["c"] and loaded.recipe.samples.temperature == 0.5
    place = {".".join(map(str, key)): Path(text).name for key, text in loaded.positions.items()}
    assert place["model.n_layer"] == "r.yaml:2" and place["model.n_embd"] == "_base.yaml:4"
    assert (
        place["samples.prompts.0"] == "r.yaml:4" and "samples.prompts.1" not in place and "base" not in place
    )


def test_null_removes_a_base_setting(write):
    write("_base.yaml", DPO + "lora: {r: 4}\n")
    loaded = load(write("r.yaml", "base: _base.yaml\nlora: null\n"))
    assert loaded.recipe.lora is None and ("lora", "r") not in loaded.positions


def test_nested_base_in_another_folder(write):
    write("common/all.yaml", "seed: 7\nvocab_size: 400\n")
    write("_base.yaml", "base: common/all.yaml\nstage: tokenizer\nvocab_size: 500\n")
    recipe = load(write("sub/r.yaml", "base: ../_base.yaml\ndata: {name: a.txt}\n")).recipe
    assert recipe.seed == 7 and recipe.vocab_size == 500


def test_error_in_base_is_reported_in_the_base(write):
    base = write("_base.yaml", "stage: tokenizer\n\nvocab_sise: 400\n")
    recipe = write("r.yaml", "base: _base.yaml\ndata: {nam: a.txt}\n")
    assert said(load, recipe).splitlines() == [
        f"{recipe}:2: data.nam: unknown key; did you mean name?",
        f"{recipe}:2: data.name: is required",
        f"{base}:3: vocab_sise: unknown key; did you mean vocab_size?",
    ]


def test_invalid_bases_are_refused(write, tmp_path):
    write("_base.yaml", TOKENIZER)
    recipe = write("r.yaml", "stage: tokenizer\nbase: _bas.yaml\n")
    assert (
        said(load, recipe)
        == f"{recipe}:2: base: there is no file {tmp_path}/_bas.yaml; did you mean _base.yaml?"
    )
    recipe = write("r.yaml", "base: [a, b]\n")
    assert said(load, recipe) == f"{recipe}:1: base: must be the path of one file, not ['a', 'b']"
    write("a.yaml", "base: b.yaml\n")
    write("b.yaml", "\nbase: ./a.yaml\n")
    assert said(load, tmp_path / "a.yaml").startswith(f"{tmp_path}/b.yaml:2: base: a cycle: ")
    recipe = write("r.yaml", "base: r.yaml\n")
    assert "a cycle" in said(load, recipe)


def test_merge_replaces_a_mapping_by_a_scalar_and_back():
    below, above = parse("a: {b: 1, c: 2}\nd: 3\n", "x"), parse("a: 5\nd: {e: 6}\n", "y")
    merged = merge(below, above)
    assert merged.value == {"a": 5, "d": {"e": 6}}
    assert merged.positions == {(): "y:1", ("a",): "y:1", ("d",): "y:2", ("d", "e"): "y:2"}
    assert merge(Tree({"a": 1}), Tree({})).value == {"a": 1}


# overrides


@pytest.mark.parametrize("override,key,value", [
    ("trainer.beta=0.2", "trainer", {"beta": 0.2, "max_steps": 5}),
    ("trainer.learning_rate=5e-6", "trainer", {"beta": 0.1, "max_steps": 5, "learning_rate": 5e-6}),
    ("trainer={beta: 0.3}", "trainer", {"beta": 0.3}), ("lora=null", "lora", None), ("seed=12", "seed", 12),
    ("model=hub/x@main", "model", "hub/x@main"), ("model='12'", "model", "12"),
    ("trainer.loss_type=[sigmoid, sft]", "trainer", {"beta": 0.1, "max_steps": 5, "loss_type": ["sigmoid",
     "sft"]}),
])  # fmt: skip
def test_override_sets_a_value(write, override, key, value):
    loaded = load(write("r.yaml", DPO), [override])
    assert getattr(loaded.recipe, key) == value and loaded.overrides == (override,)


def test_override_indexes_lists_and_creates_mappings(write):
    path = write("r.yaml", "stage: dpo\nmodel: m\ndata: [{name: a.jsonl}, {name: b.jsonl}]\n")
    recipe = load(path, ["data.1.weight=3", "lora.r=2", "trainer.beta=1"]).recipe
    assert recipe.data[1].weight == 3 and recipe.lora.r == 2 and recipe.trainer == {"beta": 1}
    globbed = load(path, ["data.0.name=*.jsonl"])
    assert globbed.recipe.data[0].name == "*.jsonl"
    assert globbed.positions[("data", 0, "name")] == "command line"


@pytest.mark.parametrize("override,problem", [
    ("trainer.betta=1", "trainer.betta: unknown key: not a setting of trl.DPOConfig; did you mean beta?"),
    ("trainerr.beta=1", "trainerr: unknown key; did you mean trainer?"),
    ("beta=1", "beta: unknown key; did you mean trainer.beta?"),
    ("seed=no", "seed: must be an integer, not 'no'"),
    ("data.0.name=x", "data.0.name: data is not a list"),
    ("model.path=x", "model.path: model is 'runs/x/sft', not a mapping"),
    ("seed=", "seed: no value; write seed=null or seed=\"''\""),
    ("base=x.yaml", "base: cannot be overridden"),
    ("trainer.beta={a", "trainer.beta: not valid YAML: expected ',' or '}', but got '<stream end>' "
     "(while parsing a flow mapping, line 1)"),
    ("trainer", "'trainer' is not an override; write key=value, for instance trainer.learning_rate=5e-5"),
    ("=3", "'=3' is not an override; write key=value, for instance trainer.learning_rate=5e-5"),
    ("data.-1=3", "'data.-1=3' is not an override; write key=value, for instance trainer.learning_rate=5e-5"),
    ("trainer.beta=.inf", "trainer.beta: must be a finite number, not .inf"),
    ("batch_examples=10\nmicro", None),
])  # fmt: skip
def test_invalid_override_is_refused(write, override, problem):
    text = said(load, write("r.yaml", DPO), [override])
    assert text == f"command line: {problem}" if problem else text.startswith("command line: ")


def test_override_list_index_out_of_range(write):
    path = write("r.yaml", "stage: evaluate\nmodels: [a, b]\nsamples: [x]\n")
    assert (
        said(load, path, ["models.2=c"])
        == "command line: models.2: models has 2 entries, the last is models.1"
    )
    expected = (
        "command line: models.name: models is a list; give the index of an entry, for instance models.0.name"
    )
    assert said(load, path, ["models.name=c"]) == expected
    assert load(path, ["models=[c]"]).recipe.models == ["c"]


def test_unknown_keys_do_not_hide_broken_rules(write):
    path = write("e.yaml", "stage: evaluate\nmodels: [a]\nxx: 3\nwin_rate: {baseline: c, yy: 1}\n")
    lines = said(load, path).splitlines()
    assert [line.split(": ", 1)[1].partition(";")[0] for line in lines] == [
        "data: has the prompts of win_rate: give both or neither", "xx: unknown key",
        "win_rate.yy: unknown key",
    ]  # fmt: skip
    path = write("s.yaml", DPO.rstrip() + "\nxx: 3\n")
    assert [line.split(": ")[1] for line in said(load, path, ["micro_batch_examples=3"]).splitlines()] == [
        "micro_batch_examples", "xx"
    ]  # fmt: skip


# folders


def test_folder_override_applies_where_the_key_is_set(write, tmp_path):
    write("a.yaml", DPO), write("b.yaml", DPO.replace("beta: 0.1, ", "")), write("t.yaml", TOKENIZER)
    first, second, tokenizer = load_folder(tmp_path, ["trainer.beta=0.5", "data.examples=7"])
    assert first.recipe.trainer["beta"] == 0.5 and "beta" not in second.recipe.trainer
    assert tokenizer.recipe.data[0].examples == 7 and second.recipe.data[0].examples is None
    assert (first.overrides, second.overrides) == (("trainer.beta=0.5",), ())


def test_folder_override_may_be_a_mapping_or_a_list(write, tmp_path):
    write("a.yaml", DPO), write("t.yaml", TOKENIZER)
    mapping = load_folder(tmp_path, ["data={name: other.jsonl, examples: 7}"])
    assert [one.recipe.data[0].examples for one in mapping] == [7, 7]
    listed = load_folder(tmp_path, ["data=[{name: one.jsonl}, {name: two.jsonl}]"])
    assert [len(one.recipe.data) for one in listed] == [2, 2]


def test_folder_override_of_a_model_leaves_the_stages_of_the_folder_connected(write, tmp_path):
    for name, model in [("a", "org/base"), ("b", "runs/my/a"), ("c", "runs/my/named")]:
        write(f"recipes/my/{name}.yaml", f"stage: dpo\nmodel: {model}\ndata: {{name: rows.jsonl}}\n")
    write("recipes/my/d.yaml", "stage: dpo\nrun: my/named\nmodel: org/other\ndata: {name: rows.jsonl}\n")
    loaded = load_folder(tmp_path / "recipes" / "my", ["model=mine"])
    assert [one.recipe.model for one in loaded] == ["mine", "runs/my/a", "runs/my/named", "mine"]
    assert [one.overrides for one in loaded] == [("model=mine",), (), (), ("model=mine",)]


def test_folder_override_of_a_model_applies_to_all_if_each_is_a_run_of_the_folder(write, tmp_path):
    for name, model in [("a", "runs/my/b"), ("b", "runs/my/a")]:
        write(f"recipes/my/{name}.yaml", f"stage: dpo\nmodel: {model}\ndata: {{name: rows.jsonl}}\n")
    loaded = load_folder(tmp_path / "recipes" / "my", ["model=mine"])
    assert [one.recipe.model for one in loaded] == ["mine", "mine"]


def test_seed_applies_to_every_recipe_of_a_folder(write, tmp_path):
    write("a.yaml", DPO)
    write("b.yaml", DPO + "seed: 3\n")
    assert [loaded.recipe.seed for loaded in load_folder(tmp_path, ["seed=7"])] == [7, 7]


@pytest.mark.parametrize("override,end", [
    ("trainer.betta=1", "; did you mean trainer.beta?"), ("lora.r=3", ""),
    ("threads=3", "; on a folder an override changes only keys that a recipe sets"),
])  # fmt: skip
def test_folder_override_of_an_unused_key_is_refused(write, tmp_path, override, end):
    write("a.yaml", DPO)
    key = override.partition("=")[0]
    hint = end or "; on a folder an override changes only keys that a recipe sets"
    assert (
        said(load_folder, tmp_path, [override])
        == f"command line: {key}: no recipe in {tmp_path} sets this key{hint}"
    )


def test_all_problems_of_all_files_are_reported(write, tmp_path):
    write("a.yaml", DPO + "sed: 1\n"), write("b.yaml", "stage: [\n"), write("c.yml", "stage: tokenizer\n")
    write("_base.yaml", "not: a recipe\n"), write(".hidden.yaml", "["), write("notes.txt", "[")
    assert [line.split(":")[0].rpartition("/")[2] for line in said(load_folder, tmp_path).splitlines()] == [
        "a.yaml", "b.yaml", "c.yml"]  # fmt: skip


def test_folders_without_recipes_are_refused(write, tmp_path):
    assert said(load_folder, tmp_path) == f"{tmp_path}: no recipes (*.yaml) in this folder"
    write("tiny/a.yaml", DPO)
    expected = f"{tmp_path}: no recipes (*.yaml) in this folder; subfolders with recipes: {tmp_path / 'tiny'}"
    assert said(load_folder, tmp_path) == expected
    assert said(load_folder, tmp_path / "x") == f"{tmp_path / 'x'}: there is no such folder"


def test_two_recipes_with_the_same_run_are_refused(write, tmp_path):
    write("recipes/a.yaml", DPO + "run: x/y\n"), write("recipes/b.yaml", DPO + "run: x/y\n")
    text = said(load_folder, tmp_path / "recipes")
    assert text == f"{tmp_path}/recipes/b.yaml:5: run: 'x/y' is already the run of {tmp_path}/recipes/a.yaml"


def test_paths_are_kept_verbatim(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    recipe = load(write("recipes/x/r.yaml", DPO.replace("runs/x/sft", "./model"))).recipe
    assert recipe.model == "./model" and recipe.data[0].name == "a.jsonl"


def test_preset_fast_uses_a_shared_critic(tmp_path):
    lines = ["stage: ppo", "model: a", "reward_model: b", "data: {name: a.jsonl}"]
    for more, critic in (
        (["preset: fast"], "shared"),
        (["preset: fast", "trainer: {episodes: 640}"], "shared"),
        ([], "separate"),
    ):
        path = tmp_path / "ppo.yaml"
        path.write_text("\n".join([*lines, *more]) + "\n")
        assert load(path).recipe.trainer.critic == critic
