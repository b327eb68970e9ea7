"""The frontier benchmark on two untrained models of the small world.

Their answers have no sentence of the world and thus equal utilities. Except in the test of that error, the
utility is therefore the number of vowels.
"""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from transformers import GPT2ForSequenceClassification

from benchmarks import frontier as benchmark
from toolkit.config.schema import ModelSettings
from toolkit.models import gpt2, loading
from toolkit.stages.tokenizer import learn
from toolkit.storyworld import SMALL, Utility

SMALL_SIZES = "--prompts 12 --answers 16 --method-answers 4 --max-new-tokens 16 --seed 1".split()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with language models `a`, `b` and `other` (another vocabulary) and a reward model `r`."""
    root = tmp_path_factory.mktemp("models")
    for seed, (name, vocab_size) in enumerate({"a": 600, "b": 600, "other": 400}.items()):
        texts = (row["text"] + " " for row in SMALL.rows("turns", 0, "train", 300))
        tokenizer = learn(texts, vocab_size=vocab_size)
        settings = ModelSettings(n_layer=1, n_head=2, n_embd=16, n_positions=256)
        ids = {"end_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
        model = gpt2.build(settings, vocab_size=len(tokenizer), seed=seed, **ids)
        with torch.no_grad():  # far from uniform: the two models answer differently
            for parameter in model.transformer.parameters():
                parameter.mul_(3.0)
        loading.save_model(model, tokenizer, root / name)
    model, tokenizer = loading.load_reward_model((str(root / "a"), None), new_head_seed=0)
    assert isinstance(model, GPT2ForSequenceClassification)
    loading.save_model(model, tokenizer, root / "r")
    return root


@pytest.fixture(scope="module")
def vowels():
    """Let the gold utility be the number of vowels."""

    def utility(messages, answer):
        return Utility(sum(letter in "aeiou" for letter in answer), {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "get_world", lambda name: replace(SMALL, utility=utility))
        yield


@pytest.fixture(scope="module")
def finished(models, vowels, tmp_path_factory):
    """The JSON content, the figure and the models of a run with `a` as the reference and as a method."""
    folder = tmp_path_factory.mktemp("output")
    names = [str(models / name) for name in "aab"]
    files = ["--json", str(folder / "out.json"), "--figure", str(folder / "out.svg")]
    assert benchmark.main([*names, *SMALL_SIZES, *files, "--reward-model", str(models / "r")]) == 0
    return json.loads((folder / "out.json").read_text()), folder / "out.svg"


def test_equal_utilities_have_no_frontier(models, capsys):
    assert benchmark.main([str(models / "a"), *SMALL_SIZES]) == 1
    assert "the same utility: there is no frontier" in capsys.readouterr().err


def test_reference_as_a_method_has_no_kl_and_the_reference_utility(finished):
    content, _ = finished
    points = {point["label"]: point for point in content["points"]}
    assert points["a"]["kl"] == 0 and points["a"]["fraction"] is None
    low, high = points["a"]["utility_interval"]
    assert low <= content["frontier"]["reference"] <= high
    assert points["a (reference)"]["utility"] == content["frontier"]["reference"]
    assert points["b"]["kl"] > 0 and points["b"]["fraction"] is not None


def test_json_has_all_points_and_the_figure_is_xml(finished):
    content, figure = finished
    kinds = [point["kind"] for point in content["points"]]
    counts = {kind: kinds.count(kind) for kind in kinds}
    assert counts == {
        "reference": 1,
        "frontier": benchmark.GRID,
        "best of n by gold": 2,
        "best of n by the reward model": 2,
        "method": 2,
    }
    frontier = [point["utility"] for point in content["points"] if point["kind"] == "frontier"]
    assert frontier == sorted(frontier)
    for point in content["points"]:
        if point["kind"] == "best of n by gold":
            assert 0 < point["fraction"] <= 1
    assert content["settings"]["seed"] == 1 and content["versions"]
    text = figure.read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "KL to the reference, nats per answer" in text and "gold utility" in text


def test_same_seed_gives_the_same_table(models, vowels, capsys):
    tables = []
    for seed in ("3", "3", "4"):
        assert benchmark.main([str(models / "a"), str(models / "b"), *SMALL_SIZES, "--seed", seed]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] != tables[2]
    assert len(tables[0].splitlines()) == 2 + 1 + benchmark.GRID + 2 + 1


def test_kl_above_that_of_the_answers_is_compared_with_the_best_answer():
    utilities = np.random.default_rng(0).normal(size=(50, 8))
    reached = (utilities.max(1) + utilities.mean(1)) / 2
    point = benchmark.compare("method", "m", utilities, reached, np.full(50, 9.0), seed=0)
    assert point.fraction.estimate == pytest.approx(0.5) and point.reliable is False
    tied = np.repeat(utilities, 10, axis=1)
    assert benchmark.compare("method", "m", tied, reached, np.full(50, 9.0), seed=0).reliable is True


def test_wrong_usage_is_reported(models, tmp_path, capsys):
    a, b = str(models / "a"), str(models / "b")
    for given, message in [
        ([], "required: MODEL"),
        ([a, "--answers", "1"], "--answers 1: give at least 2"),
        ([a, "--prompts", "1"], "--prompts 1: give at least 2"),
        ([a, "--world", "tiny"], "invalid choice: 'tiny'"),
        ([a, "--figure", str(tmp_path / "none" / "out.svg")], "none does not exist"),
    ]:
        with pytest.raises(SystemExit) as ended:
            benchmark.main(given)
        assert ended.value.code == 2 and message in capsys.readouterr().err
    for given, status, message in [
        ([a, b, b], 2, "are the same"),
        ([a, str(models / "other")], 2, "its vocabulary differs"),
        ([a, str(models / "none")], 1, "there is no such folder"),
        ([a, b, "--reward-model", b], 1, "not a reward model"),
    ]:
        assert benchmark.main([*given, *SMALL_SIZES]) == status
        assert message in capsys.readouterr().err
