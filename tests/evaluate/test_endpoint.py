"""A language model as judge, on a real server that behaves well, badly, slowly, or not at all."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from toolkit.evaluate import endpoint, judges
from toolkit.evaluate.endpoint import Endpoint, endpoint_judge
from toolkit.evaluate.journal import Journal
from toolkit.recipe.errors import DataError, ToolkitError

PROMPTS = [[{"role": "user", "content": f"Tell me about number {number}."}] for number in range(12)]
LONG = {
    "texts": [f"It is number {number}, which I like very much." for number in range(12)],
    "ended": [True] * 12,
}
SHORT = {"texts": [f"Number {number}." for number in range(12)], "ended": [True] * 12}


class Server:
    """`reply(text of the request, number of the request)` -> a reply, or a status that is no 200."""

    def __init__(self, reply):
        self.seen, self.headers, self.reply = [], [], reply
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.seen.append(body["messages"][-1]["content"])
                    outer.headers.append(dict(self.headers))
                    number = len(outer.seen)
                found = outer.reply(body["messages"][-1]["content"], number)
                status, text = (found, "no") if isinstance(found, int) else (200, found)
                content = {"choices": [{"message": {"content": text}}]} if status == 200 else {"error": text}
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(endpoint, "BACKOFF_SECONDS", 0.01)
    servers = []

    def start(reply) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def answers_of(text):
    return re.search(r"\[Answer A\]\n(.*)\n\n\[Answer B\]\n(.*)\n\nWhich", text, flags=re.DOTALL).groups()


def longer(text, number):
    first, second = answers_of(text)
    return "A" if len(first) > len(second) else " b.\n"


def judge_at(server, path):
    return endpoint_judge(Endpoint(server.url, "tester"), Journal(path))


def test_both_orders_are_shown_and_nobody_is_asked_twice(serve, tmp_path):
    server = serve(longer)
    compared = judge_at(server, tmp_path / "j.jsonl").compare(PROMPTS, LONG, SHORT)
    assert compared.outcomes.tolist() == [1.0] * 12
    assert len(server.seen) == 24 and len(set(server.seen)) == 24
    again = judge_at(server, tmp_path / "j.jsonl").compare(PROMPTS, SHORT, LONG)
    assert again.outcomes.tolist() == [0.0] * 12 and len(server.seen) == 24
    other = endpoint_judge(Endpoint(server.url, "another"), Journal(tmp_path / "j.jsonl"))
    other.compare(PROMPTS[:1], {"texts": ["a"]}, {"texts": ["b"]})
    assert len(server.seen) == 26


def test_equal_answers_are_a_tie_without_a_question(serve, tmp_path):
    server = serve(longer)
    assert judge_at(server, tmp_path / "j").compare(PROMPTS, SHORT, SHORT).outcomes.tolist() == [0.5] * 12
    assert server.seen == []


def test_a_judge_of_places_decides_nothing_and_is_unfit(serve, tmp_path):
    server = serve(lambda text, number: "A")
    judge = judge_at(server, tmp_path / "j")
    compared = judge.compare(PROMPTS, LONG, SHORT)
    assert compared.outcomes.tolist() == [0.5] * 12
    assert compared.orders[0].tolist() == [1.0] * 12 and compared.orders[1].tolist() == [0.0] * 12
    gate = judges.gate(judge, PROMPTS, SHORT, words=20, seed=0)
    assert gate["passed"] is False and gate["gibberish"]["estimate"] == 0.5


def test_what_was_judged_before_the_server_went_away_is_kept(serve, tmp_path):
    server = serve(lambda text, number: longer(text, number) if number <= 9 else 503)
    with pytest.raises(ToolkitError, match="does not answer, 5 times: HTTP 503") as caught:
        judge_at(server, tmp_path / "j").compare(PROMPTS, LONG, SHORT)
    assert "give the same command again" in caught.value.fix
    kept = (tmp_path / "j").read_text().splitlines()
    assert len(kept) == 9
    server.reply, before = longer, len(server.seen)
    compared = judge_at(server, tmp_path / "j").compare(PROMPTS, LONG, SHORT)
    assert compared.outcomes.tolist() == [1.0] * 12 and len(server.seen) - before == 24 - 9


def test_a_server_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "BACKOFF_SECONDS", 0.0)
    judge = endpoint_judge(Endpoint("http://127.0.0.1:9/v1", "tester"), Journal(tmp_path / "j"))
    with pytest.raises(ToolkitError, match="does not answer, 5 times: .*refused"):
        judge.compare(PROMPTS[:1], {"texts": ["a"]}, {"texts": ["b"]})


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(serve, tmp_path):
    server = serve(lambda text, number: 429 if number < 3 else longer(text, number))
    judge = judge_at(server, tmp_path / "j")
    assert judge.compare(PROMPTS[:1], {"texts": ["long"]}, {"texts": ["s"]}).outcomes.tolist() == [1.0]
    assert len(server.seen) == 4
    refusing = serve(lambda text, number: 401)
    with pytest.raises(ToolkitError, match="refuses: HTTP 401"):
        judge_at(refusing, tmp_path / "k").compare(PROMPTS[:1], {"texts": ["a"]}, {"texts": ["b"]})
    assert len(refusing.seen) <= 2  # one for each order, none twice
    moved = serve(lambda text, number: 302)
    with pytest.raises(ToolkitError, match="refuses: HTTP 302"):
        judge_at(moved, tmp_path / "l").compare(PROMPTS[:1], {"texts": ["a"]}, {"texts": ["b"]})


def test_the_key_is_sent_and_written_nowhere(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sesame")
    server = serve(longer)
    place = Endpoint(server.url, "tester", key_variable="MY_KEY")
    judge = endpoint_judge(place, Journal(tmp_path / "j"))
    judge.compare(PROMPTS, LONG, SHORT)
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer sesame"}
    assert "sesame" not in (tmp_path / "j").read_text() + json.dumps(judges.as_json(judge))


def test_nonsense_is_asked_about_once_more_and_too_much_of_it_is_an_error(serve, tmp_path):
    server = serve(lambda text, number: "I like trains" if number == 1 else longer(text, number))
    compared = judge_at(server, tmp_path / "j").compare(PROMPTS, LONG, SHORT)
    assert compared.outcomes.tolist() == [1.0] * 12 and len(server.seen) == 25
    mad = serve(lambda text, number: "Both are great, A has more detail")
    with pytest.raises(ToolkitError, match=r"named neither A, B nor T in \d+ of \d+ replies"):
        judge_at(mad, tmp_path / "k").compare(PROMPTS, LONG, SHORT)


def test_a_few_replies_of_nonsense_leave_pairs_without_a_verdict(serve, tmp_path):
    server = serve(
        lambda text, number: "?" if "number 3." in text.split("[Answer A]")[0] else longer(text, number)
    )
    many = [*PROMPTS, *([{"role": "user", "content": f"Or {number}?"}] for number in range(20))]
    texts = {"texts": [f"quite long {n}" for n in range(32)]}, {"texts": [f"s {n}" for n in range(32)]}
    outcomes = judge_at(server, tmp_path / "j").compare(many, *texts).outcomes
    assert np.isnan(outcomes).tolist() == [n == 3 for n in range(32)]


@pytest.mark.parametrize("body", ["<html>", '{"choices": []}'])
def test_what_is_no_completion_is_said(serve, tmp_path, monkeypatch, body):
    monkeypatch.setattr(endpoint, "_post", lambda *given: body.encode())
    with pytest.raises(ToolkitError, match="answers no completion"):
        judge_at(serve(longer), tmp_path / "j").compare(PROMPTS[:1], {"texts": ["a"]}, {"texts": ["b"]})


PROGRAM = """
import sys
from pathlib import Path
from tests.evaluate.test_endpoint import LONG, PROMPTS, SHORT
from toolkit.evaluate.endpoint import Endpoint, endpoint_judge
from toolkit.evaluate.journal import Journal
judge = endpoint_judge(Endpoint(sys.argv[1], "tester"), Journal(Path(sys.argv[2])))
print(judge.compare(PROMPTS, LONG, SHORT).outcomes.sum())
"""


def test_a_killed_process_goes_on_with_what_it_had(serve, tmp_path):
    def slow(text, number):
        time.sleep(0.3 if number > 6 else 0)
        return longer(text, number)

    server, path = serve(slow), tmp_path / "j"
    command = [sys.executable, "-c", PROGRAM, server.url, str(path)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": "."})
    while not path.is_file() or len(path.read_text().splitlines()) < 6:
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # what was under way
    kept, before = {json.loads(line)["key"] for line in path.read_text().splitlines()}, len(server.seen)
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True)
    assert float(done.stdout) == 12, done.stderr
    assert 6 <= len(kept) < 24 and len(server.seen) - before == 24 - len(kept)


def test_half_a_line_is_dropped_and_a_foreign_file_refused(tmp_path):
    path = tmp_path / "j"
    journal = Journal(path)
    journal.add("one", 1.0)
    journal.add("two", None)
    path.write_text(path.read_text() + '{"key": "thr')
    again = Journal(path)
    assert again["one"] == 1.0 and again["two"] is None and "thr" not in again
    again.add("three", 0.5)
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["one", "two", "three"]
    path.write_text('{"hello": 1}\n')
    with pytest.raises(DataError, match="is not a line of judgements"):
        Journal(path)
