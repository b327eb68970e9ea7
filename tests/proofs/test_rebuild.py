"""Rebuilding settings, parents and environment of a run from its manifest in another directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.config import schema
from toolkit.proofs import rebuild
from toolkit.runs import layout, manifest, provenance, references, seal


def a_run(path: Path, recipe, parents: dict[str, Path] | None = None, **recorded) -> Path:
    """Create a run directory with only a manifest and a lock."""
    path.mkdir(parents=True)
    given = {
        key: {"kind": "run", "path": Path("..", "..", parent.relative_to(path.parents[1])).as_posix(),
              "digest": seal.digest(parent)}
        for key, parent in (parents or {}).items()
    }  # fmt: skip
    content = {
        "format": seal.FORMAT, "name": "/".join(path.parts[-2:]), "stage": recipe.stage,
        "operational": {}, "inputs": {"settings": manifest.settings(recipe), "parents": given, "data": {}},
        **provenance.collect(), "facts": recorded, "resumed": [],
    }  # fmt: skip
    files.write_json(path / layout.MANIFEST, content)
    files.write_json(path / layout.LOCK, {"format": seal.FORMAT, "files": {}})
    return path


def pretraining(**settings) -> schema.PretrainRecipe:
    return schema.PretrainRecipe(stage="pretrain", tokens="runs/t/corpus", train_tokens=8192 * 3, **settings)


@pytest.fixture
def corpus(tmp_path) -> Path:
    data = schema.DataSource(name="storyworld", examples=5)
    return a_run(
        tmp_path / "runs" / "t" / "corpus", schema.CorpusRecipe(stage="corpus", tokenizer="x", data=data)
    )


def test_settings_round_trip_through_the_manifest(tmp_path, corpus):
    """Includes settings that are valid only in combination; a full dump would be refused."""
    given = pretraining(guard={"action": "skip", "max_skips": 3}, threads=2, precision="fp32", compile=False)
    for number, recipe in enumerate((given, pretraining(threads=1, precision="bf16", compile=True))):
        assert rebuild.recipe(a_run(tmp_path / "runs" / "t" / str(number), recipe)) == recipe


def test_auto_settings_are_replaced_by_decisions(tmp_path):
    run = a_run(tmp_path / "runs/t/a", pretraining(), threads=3, precision="bf16", compile=True, device="cpu")
    rebuilt = rebuild.recipe(run)
    assert (rebuilt.threads, rebuilt.precision, rebuilt.compile, rebuilt.device) == (3, "bf16", True, "cpu")
    run = a_run(tmp_path / "runs/t/b", pretraining(threads=1, precision="fp32"), threads=3, precision="bf16")
    assert (rebuild.recipe(run).threads, rebuild.recipe(run).precision) == (1, "fp32")


def test_references_resolve_from_another_directory(tmp_path, corpus):
    model = a_run(tmp_path / "runs" / "t" / "model", pretraining())
    (model / "checkpoints" / "step-00000002").mkdir(parents=True)
    names = ["runs/t/model", "runs/t/model/checkpoints/step-00000002", "gone/t/model"]
    recipe = schema.EvaluateRecipe(stage="evaluate", models=names, perplexity={"tokens": "runs/t/corpus"})
    parents = {f"models[{i}]": model for i in range(3)} | {"perplexity.tokens": corpus}
    run = a_run(tmp_path / "runs" / "t" / "evaluate", recipe, parents)
    elsewhere = tmp_path / "elsewhere"
    rebuilt = rebuild.recipe(run, runs_dir=elsewhere)
    assert rebuilt.models == [*names[:2], str(model)] and rebuilt.perplexity.tokens == "runs/t/corpus"
    for reference, parent in ((names[0], model), (names[1], model / "checkpoints" / "step-00000002"),
                             ("runs/t/corpus", corpus), (rebuilt.models[2], model)):  # fmt: skip
        assert references.resolve(reference, runs_dir=elsewhere).resolve() == parent.resolve()


@pytest.mark.parametrize("several", [False, True])
def test_preferences_of_a_run_stay_a_data_source(tmp_path, corpus, several):
    """A run of preferences is the name of a source, beside its other settings."""
    source = schema.DataSource(name="runs/t/preferences", on_bad_row="skip")
    sources = [schema.DataSource(name="pairs.jsonl"), source] if several else [source]
    parents = {"data[1]" if several else "data": corpus, "model": corpus}
    recipe = schema.DpoRecipe(stage="dpo", model="runs/t/sft", data=sources)
    run = a_run(tmp_path / "runs" / "t" / "dpo", recipe, parents)
    assert rebuild.recipe(run, runs_dir=tmp_path / "elsewhere").data == recipe.data
    assert (tmp_path / "elsewhere" / "t" / "preferences").resolve() == corpus.resolve()


def test_hub_models_keep_the_commit_that_the_run_recorded(tmp_path):
    commit = "c" * 40
    facts = {"hub_commits": {"org/tokenizer": commit, "org/one@main": commit}}
    recipe = schema.CorpusRecipe(
        stage="corpus", tokenizer="org/tokenizer", data=schema.DataSource(name="storyworld", examples=4)
    )
    run = a_run(tmp_path / "runs" / "t" / "corpus", recipe, **facts)
    assert rebuild.recipe(run, runs_dir=tmp_path).tokenizer == f"org/tokenizer@{commit}"
    assert rebuild.recipe(run).tokenizer == "org/tokenizer"
    evaluation = schema.EvaluateRecipe(stage="evaluate", models=["org/one@main"], samples=["Once"])
    run = a_run(tmp_path / "runs" / "t" / "evaluate", evaluation, **facts)
    assert rebuild.recipe(run, runs_dir=tmp_path).models == ["org/one@main"], "its results name its settings"


def test_parents_must_match_the_manifest(tmp_path, corpus):
    run = a_run(tmp_path / "runs" / "t" / "a", pretraining(), {"tokens": corpus})
    rebuild.require_parents(run)
    files.write_json(corpus / layout.LOCK, {"format": seal.FORMAT, "files": {}, "sealed": "again"})
    with pytest.raises(RunError, match="tokens: .*corpus is not what the run was made from"):
        rebuild.require_parents(run)
    corpus.rename(corpus.with_name("away"))
    with pytest.raises(RunError, match="tokens: what the run was made from is missing"):
        rebuild.require_parents(run)


def test_reproducibility_tier_depends_on_the_differences(tmp_path):
    run = a_run(tmp_path / "runs/t/a", pretraining(), accelerators=["GPU 1"])
    assert rebuild.environment_differences(run) == [] and rebuild.tier([]) == "B"
    content = files.read_json(run / layout.MANIFEST)
    content["hardware"]["processor"]["cores"] += 1  # threads are pinned
    content["code"] = {"commit": "0123456789abcdef" * 3}
    content["world_size"] = 2
    files.write_json(run / layout.MANIFEST, content)
    lines = rebuild.environment_differences(run, accelerators=["GPU 2"])
    keys = [line.partition(":")[0] for line in lines]
    assert "world_size" in keys and "code.commit" in keys and "accelerators[0]" in keys
    assert "hardware.processor.cores" not in keys and '"0123456789ab..."' in "".join(lines)
    assert (
        rebuild.tier(["world_size: 2 -> 1"], exact=True) == "C"
        and rebuild.tier(["world_size: 2 -> 1"]) == "A"
    )
    assert rebuild.tier(lines, exact=True) == "A"
    for tier in "ABC":
        assert f"(tier {tier})" in rebuild.promise(tier, lines)
