"""Decisions of a run are typed, recorded once, and kept when the run resumes."""

import json

import pytest
import yaml

from tests.runs.small_runs import SOURCE, tokenizer
from toolkit.config import schema
from toolkit.runs import checkpoint
from toolkit.runs.decisions import Decisions
from toolkit.runs.opening import open_run

PRETRAIN = schema.PretrainRecipe(stage="pretrain", tokens="runs/t/corpus", train_tokens=8192)


def test_manifest_decisions_are_typed():
    decisions = Decisions.of({"precision": "bf16", "threads": 2, "of_another_version": 1})
    assert (decisions.precision, decisions.threads, decisions.compile) == ("bf16", 2, None)


def test_resumed_run_keeps_its_decisions(runs, capsys):
    with open_run(tokenizer(), runs_dir=runs) as run:
        assert run.decide("threads", 4) == 4 and run.decide("threads", 4) == 4
        assert run.decisions == Decisions(threads=4)
        checkpoint.save(run, 1, lambda folder: (folder / "state").touch(), keep=1)
    capsys.readouterr()
    with open_run(tokenizer(), runs_dir=runs) as run:
        assert run.decide("threads", 2) == 4 and run.decisions.threads == 4
        assert "keeping what the run began with" in capsys.readouterr().err
        assert run.describe("threads", 2) == 2 and run.decisions.threads == 2


def test_decisions_are_stored_in_order(runs):
    with open_run(tokenizer(), runs_dir=runs) as run:
        run.decide("precision", "fp32")
        run.describe("accelerators", ())
        run.decide("threads", 1)
    facts = json.loads((run.path / "manifest.json").read_text())["facts"]
    assert list(facts.items()) == [("precision", "fp32"), ("accelerators", []), ("threads", 1)]
    resolved = yaml.safe_load((run.path / "resolved.yaml").read_text())
    assert resolved["threads"] == 1 and resolved["found"] == {"precision": "fp32", "accelerators": []}


def test_unknown_decision_is_a_programming_error(runs):
    with open_run(tokenizer(), runs_dir=runs) as run, pytest.raises(TypeError, match="precison"):
        run.decide("precison", "fp32")
    assert run.manifest["facts"] == {}


def test_decisions_replace_only_auto_settings():
    decisions = Decisions(threads=2, precision="bf16", compile=True, device="cpu")
    recipe = decisions.applied_to(PRETRAIN)
    assert (recipe.threads, recipe.precision, recipe.compile, recipe.device) == (2, "bf16", True, "cpu")
    explicit = PRETRAIN.model_copy(update={"threads": 1, "precision": "fp32", "compile": False})
    recipe = decisions.applied_to(explicit)
    assert (recipe.threads, recipe.precision, recipe.compile) == (1, "fp32", False)
    assert Decisions(device="cuda").applied_to(PRETRAIN) == PRETRAIN
    without = schema.TokenizerRecipe(stage="tokenizer", data=SOURCE)
    assert decisions.applied_to(without).threads == 2
