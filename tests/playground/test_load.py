"""Solidity: clients that go away, slow ones, a hundred at once, and hostile requests."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.playground.conftest import Server, serving
from tests.playground.test_chat import asked, text_of
from toolkit.base.rng import derive
from toolkit.inference import sampling
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.opening import open_model
from toolkit.playground.security import MAX_BODY

SECONDS = 30


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Slowly:
    """Tokens that take 0.1 s each until `hurry` is set; `made` has the length of the prompt of each."""

    def __init__(self):
        self.made: list[int] = []
        self.hurry = threading.Event()
        self.steps = sampling.steps

    def __call__(self, model, ids, **settings) -> Iterator[sampling.Step]:
        for step in self.steps(model, ids, **settings):
            self.hurry.wait(0.1)
            self.made.append(len(ids))
            yield step


@pytest.fixture
def slow(monkeypatch):
    slowly = Slowly()
    monkeypatch.setattr(sampling, "steps", slowly)
    yield slowly
    slowly.hurry.set()


def sent(server: Server, body: dict, path: str = "/api/chat") -> socket.socket:
    """Send a request and return its connection, before the answer."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    found = b""
    while wanted not in found:
        part = connection.recv(4096)
        assert part, found
        found += part
    return found


def place_of_a_new_client(server: Server, model: Path) -> bytes:
    """Return the line that tells a new client its place in the queue; it leaves again."""
    connection = sent(server, asked(model, "probe"))
    found = read_until(connection, b"}\n")
    while b"event" not in found:
        found += read_until(connection, b"}\n")
    connection.close()
    return found[found.index(b'{"event') :].split(b"\n")[0]


LONG = {"max_new_tokens": 55}
FIRST_PLACE = b'{"event": "queued", "position": 1}'


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_a_client_that_goes_away_stops_its_answer(server, model_folder, slow, path):
    more = {"stream": True, "max_tokens": 55} if path.startswith("/v1") else {"sampling": LONG}
    body = asked(model_folder, "x", **more)
    if path.startswith("/v1"):
        del body["sampling"]
    connection = sent(server, body, path)
    read_until(connection, b'"token"' if path == "/api/chat" else b"data: ")
    connection.close()
    before = len(slow.made)
    answered = server.events("/api/chat", asked(model_folder, "yy", sampling={"max_new_tokens": 2}))
    assert answered[-1]["event"] == "done"
    assert len(slow.made) - before - 2 <= 6  # half a second of tokens, and those of the other answer


@pytest.mark.slow
def test_a_client_that_goes_away_before_its_whole_answer_is_sent_stops_it(server, model_folder, slow):
    body = {"model": str(model_folder), "prompt": "x", "max_tokens": 55, "temperature": 1}
    connection = sent(server, body, "/v1/completions")
    eventually(lambda: len(slow.made) > 1)
    connection.close()
    before = len(slow.made)
    answered = server.events("/api/chat", asked(model_folder, "yy", sampling={"max_new_tokens": 2}))
    assert answered[-1]["event"] == "done" and len(slow.made) - before - 2 <= 6


@pytest.mark.slow
def test_a_client_that_goes_away_while_it_waits_is_never_answered(server, model_folder, slow):
    first = sent(server, asked(model_folder, "x", sampling=LONG))
    read_until(first, b'"token"')
    waiting = sent(server, asked(model_folder, "yyyyyy", sampling=LONG))
    read_until(waiting, FIRST_PLACE)
    waiting.close()
    eventually(lambda: place_of_a_new_client(server, model_folder) == FIRST_PLACE)
    assert len(slow.made) < 55  # the first one still runs: the other has left
    first.close()
    assert server.events("/api/chat", asked(model_folder, "zz"))[-1]["event"] == "done"
    assert len(server_prompt("yyyyyy", model_folder)) not in slow.made


def server_prompt(text: str, model: Path) -> list[int]:
    return open_model(str(model)).chat_ids([{"role": "user", "content": text}])


@pytest.mark.slow
def test_a_question_to_another_room_leaves_the_queue_with_its_client(server, model_folder, slow):
    first = sent(server, asked(model_folder, "x", sampling=LONG))
    read_until(first, b'"token"')
    gone = sent(server, {"model": str(model_folder), "text": "a"}, "/api/next")
    eventually(lambda: b'"position": 2' in place_of_a_new_client(server, model_folder))
    gone.close()
    eventually(lambda: place_of_a_new_client(server, model_folder) == FIRST_PLACE)
    assert len(slow.made) < 55  # the first one still runs: the other has left
    first.close()


@pytest.mark.slow
def test_a_slow_client_blocks_nobody(server, model_folder, slow):
    slow.hurry.set()
    connection = sent(server, asked(model_folder, "x", sampling=LONG))
    for _ in range(3):
        assert connection.recv(1)
        time.sleep(1)
    for _ in range(5):
        assert server.get("/api/models")
        assert server.events("/api/chat", asked(model_folder, "y"))[-1]["event"] == "done"
    assert b'"reason": "length"' in read_until(connection, b"done") + connection.recv(4096)
    connection.close()


@pytest.fixture(scope="module")
def million(tiny_tokenizer, tmp_path_factory) -> Path:
    """Return the folder of an untrained GPT-2 of about a million parameters."""
    from toolkit.config.schema import ModelSettings
    from toolkit.models.gpt2 import build

    settings = ModelSettings(n_layer=4, n_head=4, n_embd=140, n_positions=128)
    model = build(settings, vocab_size=len(tiny_tokenizer), seed=0, end_id=tiny_tokenizer.eos_token_id,
                  pad_id=tiny_tokenizer.pad_token_id)  # fmt: skip
    assert 0.9e6 < model.num_parameters() < 1.1e6
    folder = tmp_path_factory.mktemp("million") / "model"
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_hundred_clients_at_once_get_their_own_whole_answers(million, tmp_path):
    clients, length = 100, 24
    with serving([str(million)], tmp_path) as server:
        server.events("/api/chat", asked(million, "the first one"))
        before = psutil.Process().memory_info().rss
        together = threading.Barrier(clients)

        def ask(number: int) -> list[dict]:
            together.wait(SECONDS)
            return server.events("/api/chat", asked(million, f"client {number}", sampling={
                "max_new_tokens": length, "seed": number}))  # fmt: skip

        with ThreadPoolExecutor(clients) as pool:
            found = list(pool.map(ask, range(clients)))
        grown = psutil.Process().memory_info().rss - before
    opened = open_model(str(million))
    for number, events in enumerate(found):
        ids = opened.chat_ids([{"role": "user", "content": f"client {number}"}])
        settings = GenerationSettings(max_new_tokens=length).for_model(opened)
        expected = sampling.generate(opened.model, [ids], seed=[derive(number, "chat", 0)], **settings)
        assert [event["token"]["id"] for event in events if event["event"] == "token"] == expected.ids[0]
        assert text_of(events) == opened.tokenizer.decode(expected.ids[0], skip_special_tokens=True)
        places = [event["position"] for event in events if event["event"] == "queued"]
        assert places == sorted(places, reverse=True) and len(set(places)) == len(places)
    longest = max(event.get("position", 0) for events in found for event in events)
    assert 50 < longest < clients  # everybody saw their place
    assert grown < 200 << 20, f"{grown >> 20} MB"


def body(text: object, model: object = "M", **more: object) -> bytes:
    """Return a request to any room, most of whose values are the same."""
    messages = [{"role": "user", "content": text}]
    given = {"model": model, "text": text, "prompt": text, "messages": messages, **more}
    return json.dumps(given).encode()


HOSTILE = {
    "no JSON": b"{",
    "no text": b"\xff\xfe\xfd",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "wrong types": body({}, model=5),
    "surrogates": body("\ud800", model="\udfff"),
    "NUL": body("\0", model="\0"),
    "NaN": body(float("nan"), temperature=float("inf"), sampling={"temperature": float("nan")}),
    "negative": body(-1, max_tokens=-1, sampling={"max_new_tokens": -1, "seed": -1}),
    "huge": body(1, seed=10**400, sampling={"seed": 10**400}),
    "too long": body("a" * 200_000),
}
PATHS = ("/api/chat", "/api/next", "/api/models/open", "/v1/chat/completions", "/v1/completions")


@pytest.mark.parametrize("path", PATHS)
def test_wrong_bodies_are_refused_without_a_traceback(server, model_folder, caplog, capfd, path):
    caplog.set_level(logging.WARNING)
    for name, given in HOSTILE.items():
        status, answer = raw(server, path, given.replace(b'"M"', json.dumps(str(model_folder)).encode()))
        if path == "/api/models/open" and name in ("NaN", "negative", "huge", "too long"):
            continue  # the rest of the body is ignored: the model is opened
        assert 400 <= status < 500, (name, status, answer)
        error = json.loads(answer)["error"]
        assert error.get("what") or error.get("message"), name
    assert caplog.records == [] and "Traceback" not in capfd.readouterr().err


def raw(server: Server, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    connection.request("POST", path, body, {"content-type": "application/json", **headers})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.mark.parametrize("path", ["/api/chat", "/v1/completions"])
def test_a_body_without_a_length_is_limited(server, path):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    parts = iter([b"{", b" " * MAX_BODY])
    connection.request("POST", path, parts, {"content-type": "application/json"}, encode_chunked=True)
    answer = connection.getresponse()
    error = json.loads(answer.read())["error"]
    connection.close()
    assert answer.status == 413 and "at most 1048576 bytes" in str(error)


def test_text_with_a_nul_character_is_answered(server, model_folder):
    assert server.events("/api/chat", asked(model_folder, "a\0b"))[-1]["event"] == "done"


def test_other_methods_and_paths_are_refused_as_json(server):
    for method, path, expected in [("PUT", "/api/chat", 405), ("GET", "/api/chat", 405), ("POST", "/no", 405),
                                   ("GET", "/v1/no", 404), ("DELETE", "/", 405)]:  # fmt: skip
        status, _, body = server.request(method, path)
        assert status == expected and json.loads(body)["error"], (method, path, body)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/models"])
def test_pages_of_other_sites_are_refused_everywhere(server, path):
    method = "GET" if path == "/v1/models" else "POST"
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        assert server.request(method, path, {}, headers)[0] == 403
    assert server.request(method, path, {}, {"host": "evil.example"})[0] == 421
