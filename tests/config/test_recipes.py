"""Every shipped recipe is valid and every shipped folder is complete."""

from pathlib import Path

import pytest
import yaml

from toolkit.config.loader import load, load_folder
from toolkit.execution import dag
from toolkit.models.shape import num_parameters

RECIPES = Path(__file__).parents[2] / "recipes"
CHAIN = ["tokenizer", "corpus", "pretrain", "sft", "reward", "dpo", "ppo", "evaluate"]
STAGES = [*CHAIN, "preferences"]
FILES = sorted(
    path
    for path in RECIPES.rglob("*.yaml")
    if path.parent.name != "accelerate" and not path.name.startswith("_")
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_recipe_is_valid(path):
    loaded = load(path)
    assert loaded.name == f"{path.parent.name}/{path.stem}"
    assert loaded.recipe.stage in STAGES


@pytest.mark.parametrize(
    "folder,stages",
    [
        ("tiny", STAGES),
        ("storyworld-large", CHAIN),
        ("hh", CHAIN),
        ("gpt2-124m", CHAIN),
    ],
)
def test_shipped_folder_is_ordered_and_complete(folder, stages):
    order = [loaded.recipe.stage for loaded in dag.order(load_folder(RECIPES / folder, []))]
    assert sorted(order) == sorted(stages)
    for earlier, later in (
        ("tokenizer", "corpus"),
        ("corpus", "pretrain"),
        ("pretrain", "sft"),
        ("sft", "reward"),
        ("reward", "ppo"),
        ("dpo", "evaluate"),
        ("ppo", "evaluate"),
    ):
        assert order.index(earlier) < order.index(later)


def test_sample_prompts_do_not_end_in_a_space():
    """A byte-level tokenizer makes the space and the next word one token."""
    prompts: list[str] = []
    for recipe in (load(path).recipe for path in FILES):
        if recipe.stage == "pretrain":
            prompts += recipe.samples.prompts or []
        if recipe.stage == "evaluate":
            prompts += [prompt if isinstance(prompt, str) else prompt[-1] for prompt in recipe.samples]
    assert len(prompts) > 10 and not [prompt for prompt in prompts if prompt.endswith(" ")]


def test_second_round_continues_the_first():
    rounds = [load_folder(RECIPES / name, []) for name in ("tiny", "tiny-second-round")]
    first, second = ({loaded.name: loaded.recipe for loaded in recipes} for recipes in rounds)
    assert [loaded.recipe.stage for loaded in dag.order(rounds[1])] == ["preferences", "dpo", "evaluate"]
    dpo, again = first["tiny/dpo"], second["tiny-second-round/dpo-2"]
    assert again.model == "runs/tiny/dpo" and again.trainer == dpo.trainer
    assert second["tiny-second-round/evaluate"].data == first["tiny/evaluate"].data


@pytest.mark.parametrize("folder", ["gpt2-or-llama", "gpt2-or-llama-text"])
def test_compared_architectures_differ_only_in_the_model_and_have_the_same_size(folder):
    recipes = {loaded.name.rpartition("/")[2]: loaded.recipe for loaded in load_folder(RECIPES / folder, [])}
    gpt2, llama = recipes["gpt2"], recipes["llama"]
    assert (gpt2.shape.architecture, llama.shape.architecture) == ("gpt2", "llama")
    assert gpt2.model_dump(exclude={"model", "run"}) == llama.model_dump(exclude={"model", "run"})
    vocab_size = recipes["tokenizer"].vocab_size
    counts = [num_parameters(recipe.shape, vocab_size=vocab_size) for recipe in (gpt2, llama)]
    assert counts[1] == pytest.approx(counts[0], rel=0.01)
    assert recipes["evaluate"].models == [f"runs/{folder}/gpt2", f"runs/{folder}/llama"]


def test_launcher_files_have_portable_defaults():
    root = yaml.safe_load((RECIPES.parent / "accelerate_config.yaml").read_text())
    assert root["num_processes"] == 1 and root["distributed_type"] == "NO"
