"""`/api/next` and `/api/next/tree`."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest

from toolkit.inference import next_token
from toolkit.inference.opening import open_model
from toolkit.inference.restricted import restricted
from toolkit.playground.rooms import next_word

TEXT = "A story about a fox"


@pytest.fixture(scope="module")
def opened(model_folder):
    return open_model(str(model_folder))


@pytest.fixture
def ask(server, model_folder):
    return lambda **body: server.post("/api/next", {"model": str(model_folder), "text": TEXT, **body})


def test_the_whole_distribution_is_that_of_toolkit_next(ask, opened):
    found = ask()
    expected = next_token.distribution(opened, opened.text_ids(TEXT))
    order = np.frombuffer(base64.b64decode(found["order"]), dtype="<i4")
    logprobs = np.frombuffer(base64.b64decode(found["logprobs"]), dtype="<f8")
    np.testing.assert_allclose(np.exp(logprobs), expected[order], rtol=1e-12)
    assert set(order) == set(np.flatnonzero(next_token.allowed(opened)))
    assert (np.diff(logprobs) <= 0).all()
    (prediction,) = next_token.follow(opened, opened.text_ids(TEXT), top=10, steps=1, temperature=0, seed=0)
    assert [token["id"] for token in found["candidates"][:10]] == prediction.tokens
    assert found["entropy_bits"] == pytest.approx(prediction.entropy_bits, abs=1e-12)


@pytest.mark.parametrize("whole", [True, False], ids=["small_vocabulary", "large_vocabulary"])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1, 0, 1), (0.5, 20, 0.9), (1.7, 0, 0.4), (0, 5, 1)]
)
def test_what_is_drawn_from_is_that_of_the_sampler(
    ask, opened, monkeypatch, whole, temperature, top_k, top_p
):
    if not whole:
        monkeypatch.setattr(next_word, "WHOLE_VOCABULARY", 10)
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    found = ask(settings=settings)
    assert (found["logprobs"] is not None) == whole
    logprobs = np.log(next_token.distribution(opened, opened.text_ids(TEXT)))
    expected = restricted(logprobs, allowed=next_token.allowed(opened), **settings)
    ids, drawn = [token["id"] for token in found["candidates"]], found["drawn"]
    np.testing.assert_allclose(drawn["p"], expected.probabilities[ids], atol=1e-12)
    np.testing.assert_allclose(drawn["softened"], expected.softened[ids], atol=1e-12)
    assert drawn["kept"] == (expected.probabilities > 0).sum()
    assert drawn["rest"] + sum(drawn["p"]) == pytest.approx(1)
    assert drawn["entropy_bits"] == pytest.approx(expected.entropy_bits)
    choice = drawn["choice"]
    assert choice["low"] <= found["uniform"] < choice["high"]
    assert expected.probabilities[choice["token"]] == pytest.approx(choice["high"] - choice["low"])


def test_a_place_in_the_text_is_predicted_from_what_is_before_it(ask, opened):
    found, ids = ask(at=5), opened.text_ids(TEXT)
    expected = next_token.distribution(opened, ids[:5])
    assert found["actual"]["id"] == ids[5]
    assert found["actual"]["p"] == pytest.approx(expected[ids[5]])
    assert found["actual"]["rank"] == 1 + (expected[next_token.allowed(opened)] > expected[ids[5]]).sum()
    assert len(found["tokens"]) == len(ids)


def test_chosen_tokens_are_appended_as_they_are(ask, opened):
    found = ask(appended=[70, 71])
    expected = next_token.distribution(opened, [*opened.text_ids(TEXT), 70, 71])
    assert found["candidates"][0]["p"] == pytest.approx(expected.max())
    assert (len(found["tokens"]), found["typed"]) == (
        len(opened.text_ids(TEXT)) + 2,
        len(opened.text_ids(TEXT)),
    )


def test_draws_are_seeded_and_differ_by_place(ask):
    numbers = [ask(**body)["uniform"] for body in ({}, {"seed": 1}, {"appended": [70]}, {})]
    assert len(set(numbers)) == 3
    assert numbers[0] == numbers[3]


def test_storyworld_text_has_the_truth_beside_it(ask, monkeypatch):
    monkeypatch.setattr(next_word, "TOP", 261)
    found = ask(text="A story about a fox who finds a ke")
    assert found["truth"]["p"][[token["text"] for token in found["candidates"]].index("y")] == 1
    assert found["truth"]["entropy_bits"] == 0
    assert ask(text="Why")["truth"] is None
    assert ask(text=TEXT, chat=True)["truth"] is None


def test_a_text_beyond_the_context_is_cut_on_the_left(ask, opened):
    found, ids = ask(text="abc" * 40), opened.text_ids("abc" * 40)
    expected = next_token.distribution(opened, ids[-64:])
    assert found["candidates"][0]["p"] == pytest.approx(expected.max())
    assert (len(found["tokens"]), found["context"]) == (121, 64)


def test_a_wrong_request_is_refused(server, model_folder):
    body = {"model": str(model_folder), "text": TEXT}
    assert "at most 4096" in server.refused("/api/next", {**body, "text": "a" * 5000})[1]["fix"]
    assert "no token 99999" in server.refused("/api/next", {**body, "appended": [99999]})[1]["what"]
    for wrong in (
        {"settings": {"top_p": 0}},
        {"settings": {"temperature": -1}},
        {"at": 0},
        {"appended": [-1]},
    ):
        assert server.request("POST", "/api/next", {**body, **wrong})[0] == 422
    for wrong in ({"count": 501}, {"count": 5}, {"depth": 9}):
        assert server.request("POST", "/api/next/tree", {**body, **wrong})[0] == 422


def test_the_tree_grows_and_tells_its_test(server, model_folder, opened):
    body = {"model": str(model_folder), "text": TEXT, "count": 60, "depth": 2, "settings": {"top_k": 3}}
    trees = [event for event in server.events("/api/next/tree", body) if event["event"] == "tree"]
    assert [tree["done"] for tree in trees] == list(range(6, 61, 6))
    root = trees[-1]["root"]
    logprobs = np.log(next_token.distribution(opened, opened.text_ids(TEXT)))
    expected = restricted(logprobs, allowed=next_token.allowed(opened), temperature=1, top_k=3, top_p=1)
    shares = sorted(expected.probabilities[expected.probabilities > 0])
    assert sorted(child["p"] for child in root["children"]) == pytest.approx(shares, abs=1e-5)
    chi = sum((child["count"] - 60 * child["p"]) ** 2 / (60 * child["p"]) for child in root["children"])
    assert root["fit"]["statistic"] == pytest.approx(chi, rel=1e-4)
    assert root["fit"]["p_value"] == pytest.approx(math.exp(-chi / 2), rel=1e-4)  # 2 degrees of freedom
    assert trees[-1]["fit"]["degrees_of_freedom"] > 2
    long = server.events("/api/next/tree", {**body, "text": "abc" * 40})
    assert long[-1]["event"] == "tree"
