"""One override makes a training of any shipped recipe short."""

from pathlib import Path

import pytest

from toolkit.base.errors import RecipeError
from toolkit.config.loader import load, load_folder
from toolkit.config.schema import PpoRecipe, PretrainRecipe, TrainerRecipe
from toolkit.execution.check import check_recipes

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted(
    path.relative_to(RECIPES) for path in RECIPES.glob("*/*.yaml") if path.parent.name != "accelerate"
)
SFT = """stage: sft
model: runs/m
data: {name: chats.jsonl}
trainer: {num_train_epochs: 2, warmup_steps: 100, activation_checkpointing: false}
"""
PRETRAIN = """stage: pretrain
tokens: runs/c
batch_tokens: 256
train_tokens: 256000
schedule: {name: wsd, warmup_tokens: 20000, decay_tokens: 30000}
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "a.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_one_override_shortens_every_shipped_recipe(path):
    recipe = load(RECIPES / path).recipe
    if isinstance(recipe, TrainerRecipe):
        override, steps = "trainer.max_steps=5", 5
    elif isinstance(recipe, PretrainRecipe):
        override, steps = f"train_tokens={5 * recipe.batch_tokens}", 5
    elif isinstance(recipe, PpoRecipe):
        override, steps = f"trainer.episodes={recipe.trainer.rollout_examples}", None
    else:
        return
    assert check_recipes(RECIPES / path, [override]).problems == []
    if steps is not None:
        short = load(RECIPES / path, [override]).recipe
        assert (short.planned_steps() if isinstance(short, TrainerRecipe) else short.steps) == steps


@pytest.mark.parametrize("folder", ["tiny", "hh", "own-model", "gpt2-124m", "storyworld-large"])
def test_max_steps_shortens_every_trainer_of_a_shipped_folder(folder):
    shortened = load_folder(RECIPES / folder, ["trainer.max_steps=5"])
    trainers = [loaded.recipe for loaded in shortened if isinstance(loaded.recipe, TrainerRecipe)]
    assert len(trainers) == 3 and all(recipe.planned_steps() == 5 for recipe in trainers)


def test_warmup_longer_than_a_shortened_training_is_a_tenth_of_it(write, capsys):
    recipe = load(write(SFT), ["trainer.max_steps=5"]).recipe
    assert recipe.trainer["warmup_steps"] == 0.1
    path = write(SFT)
    assert load(path, ["trainer.max_steps=100"]).recipe.trainer["warmup_steps"] == 100
    recipe = load(write(PRETRAIN, "p.yaml"), ["train_tokens=2560"]).recipe
    assert (recipe.schedule.warmup_tokens, recipe.schedule.decay_tokens) == (256, None)
    kept = load(write(PRETRAIN, "p.yaml"), ["train_tokens=51200"]).recipe
    assert (kept.schedule.warmup_tokens, kept.schedule.decay_tokens) == (20000, 30000)
    assert capsys.readouterr().err.splitlines() == [
        f"{path}:4: trainer.warmup_steps: 100 is longer than this training; replaced by a tenth of it",
        f"{path.parent}/p.yaml:5: schedule.warmup_tokens: 20000 is longer than this training; replaced by a "
        "tenth of it",
        f"{path.parent}/p.yaml:5: schedule.decay_tokens: 30000 is longer than this training; replaced by a "
        "fifth of it",
    ]


def test_warmup_of_the_command_line_and_of_a_recipe_without_overrides_is_refused(write):
    with pytest.raises(
        RecipeError, match="command line: trainer.warmup_steps: 9 steps of warm-up are longer"
    ):
        load(write(SFT), ["trainer.max_steps=5", "trainer.warmup_steps=9"])
    text = SFT.replace("num_train_epochs: 2", "max_steps: 5")
    with pytest.raises(RecipeError, match="a.yaml:4: trainer.warmup_steps: 100 steps of warm-up are longer"):
        load(write(text))


@pytest.mark.parametrize(
    ("overrides", "absent", "value"),
    [
        (["trainer.max_steps=500"], "num_train_epochs", {"max_steps": 500}),
        (
            ["trainer.gradient_checkpointing=true"],
            "activation_checkpointing",
            {"gradient_checkpointing": True},
        ),
        (["trainer.max_steps=-1"], None, {"max_steps": -1, "num_train_epochs": 2}),
    ],
    ids=str,
)
def test_override_replaces_the_key_that_it_excludes(write, overrides, absent, value):
    trainer = load(write(SFT), overrides).recipe.trainer
    assert absent not in trainer and value.items() <= trainer.items()


def test_override_of_the_held_out_part_replaces_the_other_kind(write):
    text = "stage: corpus\ntokenizer: runs/t\ndata: {name: a.txt, held_out: {last_characters: 0.1}}\n"
    recipe = load(write(text), ["data.held_out.documents=0.2"]).recipe
    assert recipe.data[0].held_out.model_dump(exclude_none=True) == {"documents": 0.2}


def test_overrides_that_exclude_each_other_are_refused(write):
    with pytest.raises(RecipeError, match="command line: trainer.num_train_epochs: has no effect"):
        load(write(SFT), ["trainer.num_train_epochs=3", "trainer.max_steps=500"])


def test_folder_override_applies_where_the_key_that_it_replaces_is_set(write, tmp_path):
    write(SFT)
    write(SFT.replace("num_train_epochs: 2, ", ""), "b.yaml")
    first, second = load_folder(tmp_path, ["trainer.max_steps=500"])
    assert first.recipe.trainer["max_steps"] == 500 and "max_steps" not in second.recipe.trainer
