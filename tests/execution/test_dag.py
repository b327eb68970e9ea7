import dataclasses
import re
from pathlib import Path

import pytest

from tests.runs.small_runs import SOURCE, corpus, tokenizer
from toolkit.base.errors import RecipeError
from toolkit.config import schema
from toolkit.config.loader import LoadedRecipe
from toolkit.config.registry import PRODUCTS
from toolkit.execution import dag
from toolkit.runs import references


def loaded(name: str, recipe: schema.StageRecipe) -> LoadedRecipe:
    return LoadedRecipe(Path(f"{name}.yaml"), name, recipe, "", {("tokenizer",): f"{name}.yaml:2"})


def test_references_of_a_recipe_are_complete():
    evaluate = schema.EvaluateRecipe(
        stage="evaluate",
        models=["runs/t/sft", "gpt2@main"],
        samples=["runs/no"],
        perplexity=schema.PerplexitySettings(tokens="runs/t/corpus"),
        data=SOURCE,
        win_rate=schema.WinRateSettings(baseline="runs/t/sft"),
    )
    assert references.find(evaluate) == {
        "models[0]": "runs/t/sft",
        "models[1]": "gpt2@main",
        "perplexity.tokens": "runs/t/corpus",
        "win_rate.baseline": "runs/t/sft",
    }
    win_rate = evaluate.win_rate.model_copy(update={"judge": "runs/t/rm"})
    judged = evaluate.model_copy(update={"win_rate": win_rate})
    assert references.find(judged)["win_rate.judge"] == "runs/t/rm"
    pretrain = schema.PretrainRecipe(stage="pretrain", tokens="runs/t/corpus", train_tokens=10)
    assert references.find(pretrain) == {"tokens": "runs/t/corpus"}


def test_every_reference_setting_is_registered():
    """A new setting that references a run must be in registry.PRODUCTS, so that its parent is verified."""
    plain = {
        "stage",
        "run",
        "name",
        "config",
        "split",
        "field",
        "architecture",
        "activation",
        "precision",
        "prefix",
        "device",
        "schedule",
        "prompts",
        "samples",
        "target_modules",
        "compile",
        "function",  # a file whose digest the run records
        "judge_model",  # a model of an endpoint, not a run
        "judge_key_variable",
        "word",  # a word that the annotator likes
        "chat_template",
        "encoding",
        "separator",
        *schema.Columns.model_fields,
    }

    def strings(model) -> set[str]:
        done = set()
        for name, field in model.model_fields.items():
            text = str(field.annotation)
            for inner in settings:
                if f".{inner.__name__}" in text:
                    done |= strings(inner)
            if re.search(r"\bstr\b", text):
                done.add(name)
        return done

    settings = [
        kind for kind in vars(schema).values() if isinstance(kind, type) and issubclass(kind, schema.Settings)
    ]
    stages = [kind for kind in settings if issubclass(kind, schema.StageRecipe)]
    assert len(stages) > 8
    unknown = set().union(*map(strings, stages)) - plain - PRODUCTS.keys()
    unknown = {name for name in unknown if name not in ("trainer", "data", "optimizer", "model")}
    assert unknown == set()


def test_order_follows_references():
    pretrain = loaded("t/a", schema.PretrainRecipe(stage="pretrain", tokens="runs/t/corpus", train_tokens=10))
    ordered = dag.order([pretrain, corpus(), tokenizer()])
    assert [loaded.name for loaded in ordered] == ["t/tokenizer", "t/corpus", "t/a"]
    elsewhere = corpus(parent="runs/other/tokenizer")
    assert dag.order([elsewhere, tokenizer()]) == [elsewhere, tokenizer()]
    inside = schema.PretrainRecipe(stage="pretrain", tokens="runs/t/corpus/train", train_tokens=1)
    checkpoint = loaded("t/b", inside)
    assert [loaded.name for loaded in dag.order([checkpoint, corpus()])] == ["t/corpus", "t/b"]


def test_cycle_is_reported_with_locations():
    first, second = corpus("t/a", "runs/t/b"), corpus("t/b", "runs/t/a")
    first, second = (
        dataclasses.replace(loaded, positions={("tokenizer",): f"{loaded.name}.yaml:2"})
        for loaded in (first, second)
    )
    with pytest.raises(RecipeError) as caught:
        dag.order([corpus("t/c", "runs/t/a"), first, second])
    assert sorted(str(problem) for problem in caught.value.problems) == [
        "t/a.yaml:2: tokenizer: refers to runs/t/b, which needs runs/t/a first (a cycle)",
        "t/b.yaml:2: tokenizer: refers to runs/t/a, which needs runs/t/b first (a cycle)",
    ]
    with pytest.raises(RecipeError, match="refers to runs/t/a, which needs"):
        dag.order([corpus("t/a", "runs/t/a")])


def test_duplicate_run_is_refused():
    with pytest.raises(RecipeError, match="same run"):
        dag.order([tokenizer("t/a"), corpus("t//a", "runs/t/b")])


def test_longer_chains_come_first():
    """Reward comes before dpo, because ppo waits for it; the given order decides between equal ones."""
    sft = loaded("t/sft", schema.SftRecipe(stage="sft", model="gpt2", data=SOURCE))
    dpo = loaded("t/dpo", schema.DpoRecipe(stage="dpo", model="runs/t/sft", data=SOURCE))
    reward = loaded("t/reward", schema.RewardRecipe(stage="reward", model="runs/t/sft", data=SOURCE))
    ppo = loaded(
        "t/ppo",
        schema.PpoRecipe(stage="ppo", model="runs/t/sft", reward_model="runs/t//reward/model", data=SOURCE),
    )
    recipes = [dpo, ppo, reward, sft]
    assert [recipe.name for recipe in dag.order(recipes)] == ["t/sft", "t/reward", "t/dpo", "t/ppo"]
    assert dag.parents(recipes) == {
        "t/dpo": {"t/sft"},
        "t/ppo": {"t/sft", "t/reward"},
        "t/reward": {"t/sft"},
        "t/sft": set(),
    }
