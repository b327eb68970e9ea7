"""A language model as judge, on a real server that behaves well, badly, slowly, or not at all."""

from __future__ import annotations

import functools
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

from toolkit.base.errors import DataError, ToolkitError
from toolkit.evaluate import endpoint, judges, win_rate
from toolkit.evaluate.answers import Answers
from toolkit.evaluate.endpoint import Endpoint, endpoint_judge
from toolkit.evaluate.judge_log import JudgementLog
from toolkit.evaluate.rates import rate_all
from toolkit.stats.intervals import wilson_of_units
from toolkit.stats.sequential import anytime, is_decided

PROMPTS = [[{"role": "user", "content": f"Tell me about number {number}."}] for number in range(12)]
LONG = Answers(
    texts=[f"It is number {number}, which I like very much." for number in range(12)],
    ended=[True] * 12,
)
SHORT = Answers(texts=[f"Number {number}." for number in range(12)], ended=[True] * 12)


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
    return endpoint_judge(Endpoint(server.url, "tester"), JudgementLog(path))


def test_both_orders_are_shown_and_nobody_is_asked_twice(serve, tmp_path):
    server = serve(longer)
    compared = judge_at(server, tmp_path / "j.jsonl").compare(PROMPTS, LONG, SHORT)
    assert compared.outcomes.tolist() == [1.0] * 12
    assert len(server.seen) == 24 and len(set(server.seen)) == 24
    again = judge_at(server, tmp_path / "j.jsonl").compare(PROMPTS, SHORT, LONG)
    assert again.outcomes.tolist() == [0.0] * 12 and len(server.seen) == 24
    other = endpoint_judge(Endpoint(server.url, "another"), JudgementLog(tmp_path / "j.jsonl"))
    other.compare(PROMPTS[:1], Answers(texts=["a"]), Answers(texts=["b"]))
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
    assert gate.passed is False and gate.gibberish.estimate == 0.5


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
    judge = endpoint_judge(Endpoint("http://127.0.0.1:9/v1", "tester"), JudgementLog(tmp_path / "j"))
    with pytest.raises(ToolkitError, match="does not answer, 5 times: .*refused"):
        judge.compare(PROMPTS[:1], Answers(texts=["a"]), Answers(texts=["b"]))


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(serve, tmp_path):
    server = serve(lambda text, number: 429 if number < 3 else longer(text, number))
    judge = judge_at(server, tmp_path / "j")
    assert judge.compare(PROMPTS[:1], Answers(texts=["long"]), Answers(texts=["s"])).outcomes.tolist() == [
        1.0
    ]
    assert len(server.seen) == 4
    refusing = serve(lambda text, number: 401)
    with pytest.raises(ToolkitError, match="refuses: HTTP 401"):
        judge_at(refusing, tmp_path / "k").compare(PROMPTS[:1], Answers(texts=["a"]), Answers(texts=["b"]))
    assert len(refusing.seen) <= 2  # one for each order, none twice
    moved = serve(lambda text, number: 302)
    with pytest.raises(ToolkitError, match="refuses: HTTP 302"):
        judge_at(moved, tmp_path / "l").compare(PROMPTS[:1], Answers(texts=["a"]), Answers(texts=["b"]))


def test_the_key_is_sent_and_written_nowhere(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sesame")
    server = serve(longer)
    place = Endpoint(server.url, "tester", key_variable="MY_KEY")
    judge = endpoint_judge(place, JudgementLog(tmp_path / "j"))
    judge.compare(PROMPTS, LONG, SHORT)
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer sesame"}
    assert "sesame" not in (tmp_path / "j").read_text() + json.dumps(judges.describe(judge).to_json())


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
    texts = (
        Answers(texts=[f"quite long {n}" for n in range(32)]),
        Answers(texts=[f"s {n}" for n in range(32)]),
    )
    outcomes = judge_at(server, tmp_path / "j").compare(many, *texts).outcomes
    assert np.isnan(outcomes).tolist() == [n == 3 for n in range(32)]


@pytest.mark.parametrize("body", ["<html>", '{"choices": []}'])
def test_what_is_no_completion_is_said(serve, tmp_path, monkeypatch, body):
    monkeypatch.setattr(endpoint, "_post", lambda *given: body.encode())
    with pytest.raises(ToolkitError, match="answers no completion"):
        judge_at(serve(longer), tmp_path / "j").compare(
            PROMPTS[:1], Answers(texts=["a"]), Answers(texts=["b"])
        )


PROGRAM = """
import json, sys
from pathlib import Path
from toolkit.evaluate.answers import Answers
from toolkit.evaluate.endpoint import Endpoint, endpoint_judge
from toolkit.evaluate.judge_log import JudgementLog
judge = endpoint_judge(Endpoint(sys.argv[1], "tester"), JudgementLog(Path(sys.argv[2])))
prompts, *answers = json.loads(sys.argv[3])
print(judge.compare(prompts, *map(Answers.from_json, answers)).outcomes.sum())
"""
"""It imports only what a judge needs. The other imports of this file load torch, which takes 10 s here."""


def test_a_killed_process_goes_on_with_what_it_had(serve, tmp_path):
    def slow(text, number):
        time.sleep(0.3 if number > 6 else 0)
        return longer(text, number)

    server, path = serve(slow), tmp_path / "j"
    questions = json.dumps([PROMPTS, LONG.to_json(), SHORT.to_json()])
    command = [sys.executable, "-c", PROGRAM, server.url, str(path), questions]
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
    log = JudgementLog(path)
    log.add("one", 1.0)
    log.add("two", None)
    path.write_text(path.read_text() + '{"key": "thr')
    again = JudgementLog(path)
    assert again["one"] == 1.0 and again["two"] is None and "thr" not in again
    again.add("three", 0.5)
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["one", "two", "three"]
    path.write_text('{"hello": 1}\n')
    with pytest.raises(DataError, match="is not a line of judgements"):
        JudgementLog(path)


def contest_of(prompts, samples=1):
    """A contest over so many prompts, and answers to each of them, all different, of two lengths."""
    asked = [[{"role": "user", "content": f"Tell me about number {number}."}] for number in range(prompts)]
    contest = win_rate.Contest(
        [prompt for prompt in asked for _ in range(samples)], seed=0, samples_per_prompt=samples
    )

    def answers(text):
        texts = [f"{text} {number}" for number in range(len(contest.prompts))]
        return Answers(texts=texts, ended=[True] * len(texts), ids=[[1] * len(each) for each in texts])

    return contest, answers


def stopping(server, path):
    return endpoint_judge(Endpoint(server.url, "tester"), JudgementLog(path), stop_early=True)


@pytest.mark.parametrize("samples", [1, 2])
def test_a_clear_winner_is_told_after_one_look_by_an_interval_that_holds_at_any_time(
    serve, tmp_path, samples
):
    server, (contest, answers) = serve(longer), contest_of(100, samples)
    given = {"base": answers("s"), "long": answers("quite long")}
    given["long"].texts[60] = given["base"].texts[60]  # never looked at, and so no tie
    found = win_rate.summarize(given, contest, stopping(server, tmp_path / "j"), baseline="base")
    row, gate = found.models["long"].win_rate.to_json(), 20 * 3 * 2
    assert len(server.seen) == gate + 20 * samples * 2
    assert found.outcomes["long"] == [1.0] * 20 * samples + [None] * 80 * samples
    assert row["n"] == 20 and row["unjudged"] == 80 * samples and row["wilson_interval"] is None
    expected = anytime([1.0] * 20)
    assert (row["low"], row["high"], row["e_value"]) == (
        expected.rate.low,
        expected.rate.high,
        expected.e_value,
    )
    assert row["p_value"] == 1 / expected.e_value and found.judge.stopped_early is True
    judge = found.judge.to_json()
    assert judge["power"] is None and judge["ranking"] is None
    json.dumps(found.models["long"].to_json(), allow_nan=False)


def test_equal_models_are_asked_about_to_the_end_and_a_kill_costs_nothing(serve, tmp_path):
    def coin(text, number):
        number = int(re.search(r"about number (\d+)", text).group(1))
        return "A" if (number % 2 == 0) == (len(answers_of(text)[0]) > len(answers_of(text)[1])) else "B"

    server, (contest, answers) = serve(coin), contest_of(90)
    given = {"base": answers("s"), "long": answers("quite long"), "longest": answers("very, very long")}
    found = win_rate.summarize(given, contest, stopping(server, tmp_path / "j"), baseline="base")
    rows = [found.models[name].win_rate for name in ("long", "longest")]
    assert [row.n for row in rows] == [90, 90] and [row.unjudged for row in rows] == [0, 0]
    assert all(row.verdict == "no verdict" and row.low < 0.5 < row.high for row in rows)
    before = len(server.seen)
    win_rate.summarize(given, contest, stopping(server, tmp_path / "j"), baseline="base")
    assert len(server.seen) == before


def test_looking_again_and_again_finds_nothing_where_nothing_is():
    """Of 300 contests of three models that are no better, in one of twenty at most something is found; with
    intervals for a fixed number of prompts in several times as many."""
    generator = np.random.default_rng(0)
    outcomes = generator.integers(0, 2, size=(300, 3, 200))
    looks = range(20, 201, 20)
    wins = [[(n, int(one[:n].sum())) for one in each for n in looks] for each in outcomes]

    # both depend on the number of wins alone: 298 different looks instead of 9,000, 4 s less
    @functools.cache
    def decided(n: int, count: int) -> tuple[bool, bool]:
        values = np.repeat([1.0, 0.0], [count, n - count])
        return is_decided(values, level=1 - 0.05 / 3), wilson_of_units(values).excludes(0.5)

    found, naive = ([any(decided(*look)[of] for look in each) for each in wins] for of in (0, 1))
    assert np.mean(found) <= 0.05 and np.mean(naive) > 0.2


def test_what_is_decided_the_verdict_confirms():
    generator = np.random.default_rng(1)
    for share in (0.1, 0.6, 0.7, 0.9):
        values = (generator.random(200) < share).astype(float)
        end = next((n for n in range(20, 201, 20) if is_decided(values[:n], level=1 - 0.05 / 3)), 200)
        names, even = ("a", "b", "c"), np.tile([0.0, 1.0], 100)
        outcomes = {name: values[:end] if name == "a" else even for name in names}
        longer = {name: np.zeros(len(each)) for name, each in outcomes.items()}
        rows = rate_all(outcomes, longer, seed=0, samples=100, stopped=True)
        wanted = (
            "no verdict"
            if not is_decided(values[:end], level=1 - 0.05 / 3)
            else ("better" if share > 0.5 else "worse")
        )
        assert rows["a"].verdict == wanted


def test_beside_other_models_more_is_asked_before_one_half_is_excluded(serve, tmp_path):
    """19 wins of 20 are enough for one model (its capital is above 20), and not for one of three (60)."""

    def reply(text, number):
        said = longer(text, number)
        return said if "number 7." not in text.split("[Answer A]")[0] else ("A" if said != "A" else "B")

    server, (contest, answers) = serve(reply), contest_of(60)
    given = {"base": answers("s"), "a": answers("quite long")}
    more = {**given, "b": answers("very, very long"), "c": answers("longer than others")}
    n = {}
    for name, each in (("alone", given), ("beside", more)):
        found = win_rate.summarize(each, contest, stopping(server, tmp_path / "j"), baseline="base")
        n[name] = found.models["a"].win_rate.n
    assert n == {"alone": 20, "beside": 40}
