"""`/v1/`: the OpenAI interface, asked by the `openai` package and by the toolkit's own judge."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from tests.playground.conftest import Server, serving
from toolkit.evaluate import endpoint
from toolkit.evaluate.endpoint import Endpoint
from toolkit.inference.generation import GenerationSettings, generate_answers
from toolkit.inference.logprobs import answer_logprobs
from toolkit.inference.opening import OpenModel, open_model
from toolkit.playground import openai_api

openai = pytest.importorskip("openai")
ASKED = [{"role": "user", "content": "the fox"}]


@pytest.fixture(scope="module")
def opened(model_folder) -> OpenModel:
    return open_model(str(model_folder))


@pytest.fixture(scope="module")
def name(model_folder) -> str:
    return str(model_folder)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as opened:
        yield opened


def answers(opened: OpenModel, ids: list[int], count: int = 1, **settings) -> list:
    chosen = GenerationSettings(**{"max_new_tokens": 12, "seed": 5, **settings})
    return generate_answers(opened, ids, settings=chosen, count=count)[0]


def test_models_are_listed_and_found_by_name(client, name):
    assert [model.id for model in client.models.list()] == [name]
    with pytest.raises(openai.NotFoundError, match="there is no language model 'x'") as refused:
        client.models.retrieve("x")
    assert refused.value.code == "model_not_found"


def test_chat_answers_are_those_of_toolkit_generate(client, opened, name):
    given = client.chat.completions.create(model=name, messages=ASKED, n=2, seed=5, max_completion_tokens=12)
    ids = opened.chat_ids(ASKED)
    expected = answers(opened, ids, 2)
    assert [choice.message.content for choice in given.choices] == [answer.text for answer in expected]
    reasons = ["stop" if answer.ended else "length" for answer in expected]
    assert [choice.finish_reason for choice in given.choices] == reasons
    count = sum(len(answer.ids) for answer in expected)
    assert (given.usage.prompt_tokens, given.usage.completion_tokens) == (len(ids), count)
    assert given.usage.total_tokens == len(ids) + count


def test_a_stream_gives_the_same_answer_in_pieces(client, name):
    settings = {
        "model": name,
        "messages": ASKED,
        "seed": 5,
        "max_tokens": 12,
        "temperature": 0.7,
        "top_p": 0.9,
    }
    whole = client.chat.completions.create(**settings)
    *chunks, last = client.chat.completions.create(
        **settings, stream=True, stream_options={"include_usage": True}
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content and len(chunks) > 6
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.choices == [] and last.usage == whole.usage


def test_log_probabilities_are_those_of_scoring(client, opened, name):
    given = client.chat.completions.create(
        model=name, messages=ASKED, seed=5, max_tokens=12, logprobs=True, top_logprobs=4
    )
    (answer,) = answers(opened, opened.chat_ids(ASKED))
    told = given.choices[0].logprobs.content
    (expected,) = answer_logprobs(opened.model, [opened.chat_ids(ASKED)], [answer.ids])
    np.testing.assert_allclose([token.logprob for token in told], expected, atol=2e-6)
    written = b"".join(bytes(token.bytes) for token in told)
    assert written.decode(errors="replace") == opened.tokenizer.decode(answer.ids)
    for token in told:
        tops = [one.logprob for one in token.top_logprobs]
        assert len(tops) == 4 and tops == sorted(tops, reverse=True) and tops[0] >= token.logprob


def test_completions_continue_texts_and_token_ids(client, opened, name):
    ids = opened.text_ids("the fox")
    (expected,) = answers(opened, ids)
    settings = {"model": name, "seed": 5, "max_tokens": 12}
    for prompt in ("the fox", ids):
        given = client.completions.create(**settings, prompt=prompt, logprobs=2)
        assert given.choices[0].text == expected.text
    told = given.choices[0].logprobs
    (nats,) = answer_logprobs(opened.model, [ids], [expected.ids])
    np.testing.assert_allclose(told.token_logprobs, nats, atol=2e-6)
    assert told.text_offset[0] == 0 and len(told.text_offset) == len(told.tokens) == len(expected.ids)
    several = client.completions.create(**settings, prompt=["the fox", "a bear"])
    assert [choice.index for choice in several.choices] == [0, 1]
    assert several.choices[0].text == expected.text != several.choices[1].text
    assert client.completions.create(**settings, prompt=[ids]).choices[0].text == expected.text
    chunks = list(client.completions.create(**settings, prompt=["the fox", "a bear"], stream=True))
    for index in (0, 1):
        text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices[0].index == index)
        assert text == several.choices[index].text


def test_an_answer_ends_before_a_stop_string(client, opened, name):
    (expected,) = answers(opened, opened.chat_ids(ASKED), max_new_tokens=40)
    middle = expected.text[len(expected.text) // 2 :][:2]
    settings = {"model": name, "messages": ASKED, "seed": 5, "max_tokens": 40, "stop": [middle, "never said"]}
    given = client.chat.completions.create(**settings)
    assert given.choices[0].message.content == expected.text.partition(middle)[0]
    assert given.choices[0].finish_reason == "stop" and given.usage.completion_tokens < 40
    chunks = client.chat.completions.create(**settings, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == given.choices[0].message.content


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"min_p": 0.1}}, "min_p"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": "2"}, "n"),
        ({"n": 17}, "n"),
        ({"seed": -1}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "fox " * 40}]}, "messages"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_is_not_supported_or_wrong_is_refused_by_name(client, name, changed, param, stream):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": name, "messages": ASKED, **changed}, stream=stream)
    assert refused.value.param == param and refused.value.type == "invalid_request_error"


def test_more_log_probabilities_than_fit_in_memory_are_refused(client, name, monkeypatch):
    monkeypatch.setattr(openai_api, "MAX_LOGPROBS", 2 * 3 * 5)
    fits = {"model": name, "messages": ASKED, "n": 2, "max_tokens": 3, "logprobs": True, "top_logprobs": 4}
    assert len(client.chat.completions.create(**fits).choices) == 2
    with pytest.raises(openai.BadRequestError, match="36 log-probabilities are more than 30") as refused:
        client.chat.completions.create(**{**fits, "top_logprobs": 5})
    assert refused.value.param == "logprobs"
    assert (
        len(client.chat.completions.create(**{**fits, "logprobs": None, "top_logprobs": None}).choices) == 2
    )


def test_values_that_change_nothing_are_accepted(client, name):
    client.chat.completions.create(
        model=name, messages=ASKED, max_tokens=1, frequency_penalty=0, presence_penalty=0.0, user="someone",
        logit_bias={}, response_format={"type": "text"}, extra_body={"top_k": 3, "tool_choice": None},
    )  # fmt: skip


def test_the_token_of_the_server_is_the_api_key(model_folder, tmp_path, name):
    with serving([str(model_folder)], tmp_path, token="secret") as server:
        base = f"{server.url}/v1"
        wrong = openai.OpenAI(base_url=base, api_key="wrong", max_retries=0)
        with wrong, pytest.raises(openai.AuthenticationError, match="token"):
            wrong.models.list()
        with openai.OpenAI(base_url=base, api_key="secret", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == [name]


def test_the_judge_of_an_evaluation_gets_a_completion(server, opened, name):
    text = endpoint._complete(Endpoint(f"{server.url}/v1", name), [*ASKED])
    (expected,) = answers(opened, opened.chat_ids(ASKED), temperature=0.0, max_new_tokens=16, seed=0)
    assert text == expected.text


def test_a_body_that_is_no_json_is_refused_in_the_form_of_openai(server):
    status, _, body = server.request("POST", "/v1/chat/completions", {"model": 5})
    error = json.loads(body)["error"]
    assert status == 400 and error["type"] == "invalid_request_error" and "model" in error["message"]
