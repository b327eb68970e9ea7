"""`/api/attention`: grids, heads, the logit lens, senses, and kept steps."""

from __future__ import annotations

import base64
import gc
import json
import math
import shutil
import threading
import weakref

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.architectures import build_architecture
from tests.playground.conftest import serving
from toolkit.base.errors import UsageError
from toolkit.inference.attention import attention, without_first
from toolkit.inference.engine import BusyError, Engine
from toolkit.inference.opening import open_model
from toolkit.playground.kept import KeptSteps
from toolkit.playground.library import Entry, Library

TEXT = "a fox, a fox"
STEPS = {0: 0, 1: 64, 20: 1280}


def keep_steps(model_folder, folder):
    """Copy a model as a run with kept steps, whose weights are multiples of it."""
    shutil.copytree(model_folder, folder)
    for step, tokens in STEPS.items():
        kept = folder / "steps" / f"{step:06d}"
        shutil.copytree(model_folder, kept)
        model = AutoModelForCausalLM.from_pretrained(model_folder)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + step)
        model.save_pretrained(kept)
        (kept / "samples.json").write_text(json.dumps({"step": step, "tokens": tokens, "samples": []}))
    return folder


@pytest.fixture(scope="module")
def kept_folder(model_folder, tmp_path_factory):
    return keep_steps(model_folder, tmp_path_factory.mktemp("runs") / "kept")


@pytest.fixture(scope="module")
def kept_server(kept_folder, model_folder, tmp_path_factory):
    with serving([str(kept_folder), str(model_folder)], tmp_path_factory.mktemp("server")) as running:
        yield running


def test_a_grid_has_a_picture_of_every_head(server, model_folder):
    found = server.post("/api/attention", {"model": str(model_folder), "text": TEXT, "first": True})
    opened = open_model(str(model_folder))
    ids = opened.text_ids(TEXT)
    weights = attention(opened.model, ids).weights
    assert [len(layer) for layer in found["heads"]] == [2, 2]
    assert (found["layers"], found["side"], found["total"]) == (2, len(ids), len(ids))
    assert "".join(found["tokens"][1:]) == TEXT
    picture = np.frombuffer(base64.b64decode(found["heads"][1][0]["picture"]), dtype=np.uint8)
    assert picture.reshape(len(ids), len(ids)) == pytest.approx(weights[1][0] * 255, abs=0.6)


def test_a_head_has_the_exact_weights_with_or_without_the_first_position(server, model_folder):
    body = {"model": str(model_folder), "text": TEXT, "layer": 1, "head": 1}
    opened = open_model(str(model_folder))
    weights = attention(opened.model, opened.text_ids(TEXT)).weights[1][1]
    whole = server.post("/api/attention/head", {**body, "first": True})
    assert whole["rows"][5] == pytest.approx(weights[5, :6].tolist(), abs=1e-6)
    rest = server.post("/api/attention/head", body)
    assert rest["rows"][0] == [None]
    assert rest["rows"][5] == pytest.approx(without_first(weights)[5, :6].tolist(), abs=1e-6)
    assert rest["first"] == pytest.approx(weights[:, 0].tolist(), abs=1e-6)


def test_a_lens_ends_with_the_models_own_prediction(server, model_folder):
    found = server.post("/api/attention/lens", {"model": str(model_folder), "text": TEXT})
    own = server.post("/api/next", {"model": str(model_folder), "text": TEXT})["candidates"][0]
    assert (found["first"], len(found["rows"])) == (0, 3)
    last = found["rows"][-1][-1]
    assert last["text"] == own["text"]
    assert last["p"] == last["final"] == pytest.approx(own["p"])


def test_senses_are_compared_layer_by_layer(server, model_folder):
    senses = [["on the bank", "a river bank"], ["in the bank", "my bank", "a rich bank"]]
    found = server.post(
        "/api/attention/senses", {"model": str(model_folder), "word": "bank", "senses": senses}
    )
    assert (len(found["layers"]), found["divisions"], found["exact"]) == (3, 10, True)
    assert found["tokens"][0] == list("bank")
    matrix = np.array(found["layers"][1]["cosines"])
    assert matrix.shape == (5, 5)
    assert found["layers"][1]["across"] == pytest.approx(matrix[:2, 2:].mean())
    assert all(0 < layer["p_value"] <= 1 for layer in found["layers"])


@pytest.mark.parametrize(
    ("path", "change", "status"),
    [
        ("/api/attention", {"text": ""}, 422),
        ("/api/attention", {"text": "x" * 100_001}, 422),
        ("/api/attention", {"model": "/etc"}, 400),
        ("/api/attention", {"step": 0}, 400),
        ("/api/attention/head", {"layer": 2, "head": 0}, 400),
        ("/api/attention/head", {"layer": -1, "head": 0}, 422),
        (
            "/api/attention/senses",
            {"word": "bank", "senses": [["a bank", "the bank"], ["a river", "bank"]]},
            422,
        ),
        ("/api/attention/senses", {"word": "bank", "senses": [["bank"], ["a bank", "the bank"]]}, 422),
    ],
    ids=["empty", "long", "path", "no-steps", "layer", "negative", "without-word", "one-sentence"],
)
def test_wrong_requests_are_refused(server, model_folder, path, change, status):
    body = {"model": str(model_folder), "text": TEXT, **change}
    found, _, answer = server.request("POST", path, body)
    assert found == status, answer


def test_a_long_text_is_cut_at_the_context(server, model_folder):
    found = server.post("/api/attention", {"model": str(model_folder), "text": "word " * 60})
    assert (len(found["tokens"]), found["total"]) == (64, 301)


def test_kept_steps_are_listed_and_answer_by_their_number(kept_server, kept_folder):
    (listed,) = kept_server.get("/api/attention/kept")["models"]
    assert listed["model"] == str(kept_folder)
    assert listed["steps"] == [{"step": step, "tokens": tokens} for step, tokens in STEPS.items()]
    body = {"model": str(kept_folder), "text": TEXT}
    for step in STEPS:
        found = kept_server.post("/api/attention/step", {**body, "step": step})
        opened = open_model(str(kept_folder / "steps" / f"{step:06d}"))
        ids = torch.tensor([opened.text_ids(TEXT)])
        with torch.no_grad():
            output = opened.model(input_ids=ids, labels=ids)
        assert found["bits_per_token"] == pytest.approx(float(output.loss) / math.log(2), rel=1e-4)
        assert found["next"][0]["p"] == pytest.approx(float(output.logits[0, -1].softmax(-1).max()), rel=1e-4)
        assert found["rest"] + sum(token["p"] for token in found["next"]) == pytest.approx(1)
    first, last = (kept_server.post("/api/attention/lens", {**body, "step": step}) for step in (0, 20))
    assert first["rows"] != last["rows"]
    assert kept_server.refused("/api/attention/step", {**body, "step": 5})[0] == 400


def test_two_kept_steps_stay_in_memory_and_the_others_are_freed(kept_folder):
    kept = KeptSteps(Library([Entry("kept", str(kept_folder), "pretrain", "language")]))
    engines = {step: kept.engine("kept", step) for step in (0, 1)}
    assert kept.engine("kept", 0) is engines[0]
    freed = weakref.ref(engines[1].opened.model)
    assert engines[1].call(lambda opened: opened.model.num_parameters()).result() > 0
    worker = engines[1]._worker
    kept.engine("kept", 20)
    assert kept.engine("kept", 0) is engines[0]
    worker.join(10)
    assert not worker.is_alive()
    del engines, worker
    gc.collect()
    assert freed() is None
    with pytest.raises(UsageError, match="has not kept step 7"):
        kept.engine("kept", 7)


def test_kept_steps_load_where_all_models_load_and_close_with_them(kept_folder, monkeypatch):
    threads = []

    def noting(name):
        threads.append(threading.current_thread().name)
        return open_model(name)

    monkeypatch.setattr("toolkit.playground.kept.open_model", noting)
    library = Library([Entry("kept", str(kept_folder), "pretrain", "language")])
    engine = KeptSteps(library).engine("kept", 0)
    assert threads == ["loader"]  # two models that load at once disturb each other
    library.close()
    with pytest.raises(BusyError):
        engine.call(lambda opened: 1)


def test_a_retired_engine_finishes_what_waits_and_still_answers(model_folder):
    engine = Engine(open_model(str(model_folder)))
    answers = [engine.call(lambda opened, number=number: number) for number in range(3)]
    engine.retire()
    assert [answer.result(10) for answer in answers] == [0, 1, 2]
    assert engine.call(lambda opened: "late").result(10) == "late"


def test_a_model_without_attention_has_a_lens_but_no_grid(tiny_tokenizer, tmp_path):
    folder = tmp_path / "mamba"
    build_architecture("mamba", tiny_tokenizer).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    with serving([str(folder)], tmp_path) as running:
        body = {"model": str(folder), "text": TEXT}
        status, error = running.refused("/api/attention", body)
        assert (status, error["what"]) == (422, "a MambaForCausalLM has no attention weights")
        assert running.post("/api/attention/lens", body)["first"] == 1
