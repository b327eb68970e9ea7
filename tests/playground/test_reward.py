"""The reward model room over HTTP."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from tests.playground.conftest import serving
from toolkit.inference.reward_scores import reward_scores
from toolkit.models.loading import load_reward_model, save_model
from toolkit.playground.worlds import world_of
from toolkit.runs import layout, seal
from toolkit.storyworld import get_world

PROMPT = [{"role": "user", "content": "Say it"}]


@pytest.fixture(scope="module")
def reward_folder(tiny_tokenizer, tmp_path_factory) -> Path:
    """Return the folder of a run of the reward stage: an untrained model, made from the small storyworld."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(2)
    config = GPT2Config(
        vocab_size=320, n_positions=64, n_embd=32, n_layer=2, n_head=2, num_labels=1, initializer_range=0.2,
        bos_token_id=None, eos_token_id=tiny_tokenizer.eos_token_id, pad_token_id=tiny_tokenizer.pad_token_id,
    )  # fmt: skip
    config.score_mean, config.score_std = 0.5, 2.0
    save_model(GPT2ForSequenceClassification(config), tiny_tokenizer, folder / "reward" / "model")
    data = {"name": "storyworld", "world": "small", "config": "preferences"}
    write_manifest(folder / "preferences", "preferences", {"data": data}, {})
    parents = {"data": {"kind": "run", "path": "../preferences", "digest": "0"}}
    write_manifest(folder / "reward", "reward", {"data": {"name": "runs/preferences"}}, parents)
    return folder / "reward"


def write_manifest(folder: Path, stage: str, settings: dict, parents: dict) -> None:
    folder.mkdir(exist_ok=True)
    manifest = {"format": seal.FORMAT, "name": folder.name, "stage": stage,
                "inputs": {"settings": settings, "parents": parents, "data": {}}}  # fmt: skip
    (folder / layout.MANIFEST).write_text(json.dumps(manifest))
    (folder / layout.LOCK).write_text("{}")


@pytest.fixture(scope="module")
def other_folder(reward_folder, tmp_path_factory) -> Path:
    """Return a folder with the same model, of no run."""
    return Path(shutil.copytree(reward_folder / "model", tmp_path_factory.mktemp("other") / "judge"))


@pytest.fixture(scope="module")
def served(reward_folder, other_folder, model_folder, tmp_path_factory):
    with serving(
        [str(reward_folder), str(other_folder), str(model_folder)], tmp_path_factory.mktemp("s")
    ) as running:
        yield running


@pytest.fixture(scope="module")
def samples(served, model_folder):
    """Return the events of sampling 18 answers."""
    given = {"model": str(model_folder), "prompt": "Say it", "count": 18, "max_new_tokens": 6}
    events = served.events("/api/reward/sample", given)
    return [sample for event in events if event["event"] == "samples" for sample in event["samples"]]


def test_folders_of_classifiers_are_reward_models(served, reward_folder, other_folder, model_folder):
    kinds = {model["id"]: model["kind"] for model in served.get("/api/models")["models"]}
    assert kinds == {str(reward_folder): "reward", str(other_folder): "reward", str(model_folder): "language"}


def test_a_reward_model_opens_with_its_scale_judges_and_examples(served, reward_folder, other_folder):
    found = served.post("/api/reward/open", {"model": str(reward_folder)})
    assert (found["mean"], found["std"], found["context"], found["world"]) == (0.5, 2.0, 64, "small")
    assert found["judges"] == ["gold", str(other_folder), "logprob"]
    for example in found["examples"]:
        prompt = [{"role": "user", "content": example["prompt"]}]
        better, worse = (
            get_world("small").utility(prompt, example[kind]).total for kind in ("better", "worse")
        )
        assert better > worse
    assert len(found["examples"]) == 6
    other = served.post("/api/reward/open", {"model": str(other_folder)})
    assert (other["world"], other["examples"], other["judges"]) == (None, [], [str(reward_folder), "logprob"])


def test_a_score_equals_that_of_the_stages(served, reward_folder):
    model, tokenizer = load_reward_model((str(reward_folder / "model"), None))
    given = {"model": str(reward_folder), "prompt": "Say it", "answer": "a é <|user|> fox"}
    found = served.post("/api/reward/score", given)
    for key, ended in (("score", True), ("unended", False)):
        [expected] = reward_scores(model, tokenizer, [PROMPT], answers=[given["answer"]], ended=[ended])
        assert found[key] == expected
    assert [word["text"] for word in found["words"]] == ["a", "é", "<|user|>", "fox"]
    assert all(word["effect"] == found["score"] - word["score"] for word in found["words"])
    lengths = served.post("/api/reward/lengths", given)
    assert [row[0] for row in lengths["cut"]] == [0, 1, 2, 3, 4]
    assert lengths["cut"][-1][1] == pytest.approx(found["score"], abs=1e-5)


def test_a_score_of_a_part_is_said_to_be_one(served, reward_folder):
    given = {"model": str(reward_folder), "prompt": "Say it", "answer": "a" * 200}
    assert served.post("/api/reward/score", given)["cut"]


def test_the_gold_judge_is_the_utility_of_the_world(served, reward_folder, samples):
    given = {"model": str(reward_folder), "prompt": "Say it", "judge": "gold", "samples": samples}
    found = served.post("/api/reward/judge", given)
    model, tokenizer = load_reward_model((str(reward_folder / "model"), None))
    texts = [sample["text"] for sample in samples]
    ended = [sample["ended"] for sample in samples]
    expected = reward_scores(model, tokenizer, [PROMPT] * len(texts), answers=texts, ended=ended)
    assert [one["score"] for one in found["samples"]] == expected.tolist()
    utilities = [get_world("small").utility(PROMPT, text).total for text in texts]
    assert [one["value"] for one in found["samples"]] == utilities
    assert (found["best"], found["judged_best"]) == (expected.argmax(), utilities.index(max(utilities)))
    assert found["length"]["low"] <= found["length"]["value"] <= found["length"]["high"]


def test_other_judges_are_another_reward_model_and_the_log_probability(
    served, reward_folder, other_folder, samples
):
    given = {"model": str(reward_folder), "prompt": "Say it", "samples": samples}
    by_model = served.post("/api/reward/judge", {**given, "judge": str(other_folder)})
    assert all(one["score"] == one["value"] for one in by_model["samples"])
    assert by_model["judge"]["value"] == pytest.approx(1)
    by_logprob = served.post("/api/reward/judge", {**given, "judge": "logprob"})
    assert [one["value"] for one in by_logprob["samples"]] == [sample["logprob"] for sample in samples]


def test_a_world_that_is_damaged_or_missing_is_none(reward_folder, tmp_path):
    def world(path):
        return world_of(str(path))

    assert world(reward_folder).name == "small"
    assert world(tmp_path) is None
    assert world("org/model") is None
    write_manifest(
        tmp_path / "loop", "reward", {}, {"model": {"kind": "run", "path": "../loop", "digest": "0"}}
    )
    assert world(tmp_path / "loop") is None
    write_manifest(tmp_path / "odd", "reward", {"data": {"name": "storyworld", "world": "huge"}}, {})
    assert world(tmp_path / "odd") is None


@pytest.mark.parametrize(
    ("what", "given", "status"),
    [
        ("score", {"answer": "a " * 201}, 400),
        ("score", {"answer": "a" * 20_001}, 422),
        ("score", {"answer": "a", "change": "other"}, 422),
        ("sample", {"count": 257}, 422),
        ("judge", {"judge": "gold", "samples": [{"text": "a", "ended": True, "logprob": -1.0}]}, 422),
        ("judge", {"judge": "/etc", "samples": [{"text": "a", "ended": True, "logprob": -1.0}] * 2}, 400),
    ],
    ids=["words", "characters", "change", "count", "one sample", "judge"],
)  # fmt: skip
def test_wrong_requests_are_refused(served, reward_folder, what, given, status):
    body = {"model": str(reward_folder), "prompt": "Say it", **given}
    assert served.request("POST", f"/api/reward/{what}", body)[0] == status


def test_a_language_model_is_no_reward_model(served, model_folder, reward_folder):
    status, error = served.refused(
        "/api/reward/score", {"model": str(model_folder), "prompt": "", "answer": "a"}
    )
    assert (status, error["where"]) == (400, "model")
    body = {"model": str(reward_folder), "prompt": "", "count": 2}
    assert served.refused("/api/reward/sample", body)[0] == 400
