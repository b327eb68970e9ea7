"""The Compare room over HTTP: blind pairs, votes that survive, quotas, checks, statistics."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.architectures import build_architecture
from tests.foreign_tokenizers import byte_level
from tests.playground.conftest import Server, serving
from toolkit.base.errors import UsageError
from toolkit.data import vote_file
from toolkit.playground.contest import (
    LEAVE_SECONDS,
    MAX_AHEAD,
    REPEAT_DISTANCE,
    SHUFFLED,
    AnswerPair,
    BlindContest,
    ContestSettings,
)
from toolkit.playground.feedback import VoteLog
from toolkit.playground.library import Library
from toolkit.playground.rooms import compare

MODELS = ("model one", "model two")


@pytest.fixture
def log(tmp_path):
    opened = VoteLog(tmp_path / "feedback.sqlite")
    yield opened
    opened.close()


def contest(pairs=5, **settings) -> BlindContest:
    """Return a contest without repeats and checks, with pairs that are ready."""
    made = BlindContest(ContestSettings(MODELS, **{"repeats": 0, "checks": 0, **settings}))
    for number in range(pairs):
        prompt = [{"role": "user", "content": f"prompt {number}"}]
        answers = (f"the first answer to prompt {number}", f"the second answer to prompt {number}")
        assert made.add(AnswerPair(number, prompt, MODELS, answers))
    return made


def rows(log):
    return [row for _, row in vote_file._rows(log.path)]


def test_all_threads_write_to_one_file_of_votes_and_statistics_are_computed_once(tmp_path, monkeypatch):
    opened, computed = [], []

    def slowly(path):
        time.sleep(0.01)  # another thread may run here
        opened.append(VoteLog(path))
        return opened[-1]

    def counted(votes):
        time.sleep(0.01)
        computed.append(len(votes))
        return {"votes": len(votes)}

    monkeypatch.setattr(compare, "VoteLog", slowly)
    monkeypatch.setattr(compare.vote_statistics, "statistics", counted)
    found = compare.Comparisons(Library([]), tmp_path / "feedback.sqlite", None, 0)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(found.statistics, [()] * 8))
    assert answers == [{"votes": 0, "rows": 0}] * 8
    assert len(opened) == 1 and computed == [0]
    found.close()


# Who sees what


def test_sides_are_drawn_and_votes_are_on_the_answers_not_on_the_sides(log):
    made = contest(pairs=40)
    orders = Counter()
    for _ in range(40):
        showing = made.next("kim")
        orders[showing.order] += 1
        is_first_left = showing.order == "ab"
        made.vote(log, "kim", showing.id, "left" if is_first_left else "right")
    assert 8 <= orders["ab"] <= 32
    assert {row["vote"] for row in rows(log)} == {"a"}
    assert {row["shown"] for row in rows(log)} == {"ab", "ba"}


def test_a_pair_stays_until_it_is_voted_on_or_skipped(log):
    made = contest()
    first = made.next("kim")
    assert made.next("kim") is first
    made.skip("kim", first.id)
    second = made.next("kim")
    assert second.pair is not first.pair
    with pytest.raises(UsageError, match="not shown any more"):
        made.vote(log, "kim", first.id, "left")
    with pytest.raises(UsageError, match="not shown any more"):
        made.vote(log, "lee", second.id, "left")


def test_each_pair_is_voted_on_by_so_many_people(log):
    made = contest(pairs=3, annotators=2)
    for name in ("kim", "lee", "ann"):
        for _ in range(3):
            if (showing := made.next(name)) is not None:
                made.vote(log, name, showing.id, "tie")
    counts = Counter(row["prompt"] for row in rows(log))
    assert sorted(counts.values()) == [2, 2, 2]
    assert made.next("ann") is None and made._open == []


def test_a_pair_that_somebody_left_open_is_shown_to_others(log, monkeypatch):
    made = contest(pairs=1)
    left = made.next("kim")
    assert made.next("lee") is None
    left.pair.given["kim"] -= LEAVE_SECONDS + 1
    assert made.next("lee").pair is left.pair


def test_skipping_never_runs_out_of_pairs(log):
    made = contest(pairs=MAX_AHEAD)
    for _ in range(MAX_AHEAD):
        made.skip("kim", made.next("kim").id)
    assert made.next("kim") is None and made.wanted() > 0


def test_repeats_are_shown_again_later_and_recorded_as_such(log):
    made = contest(pairs=20, repeats=0.5)
    for _ in range(20):
        made.vote(log, "kim", made.next("kim").id, "left")
    kinds = [row["kind"] for row in rows(log)]
    assert 3 <= kinds.count("repeat") <= 16 and "repeat" not in kinds[: REPEAT_DISTANCE + 1]
    repeated = [row["prompt"] for row in rows(log) if row["kind"] == "repeat"]
    first = [row["prompt"] for row in rows(log) if row["kind"] == "normal"]
    assert set(repeated) <= set(first) and len(set(repeated)) == len(repeated)


def test_attention_checks_have_the_words_of_an_answer_shuffled(log):
    made = contest(pairs=20, checks=0.5)
    for _ in range(15):
        showing = made.next("kim")
        whole = "left" if showing.sides()[0] == 0 else "right"
        made.vote(log, "kim", showing.id, whole)
    checks = [row for row in rows(log) if row["kind"] == "attention"]
    assert len(checks) >= 3
    for row in checks:
        assert json.loads(row["models"])[1] == SHUFFLED and row["vote"] == "a"
        assert sorted(row["answer_a"].split()) == sorted(row["answer_b"].split())
        assert row["answer_a"] != row["answer_b"]


def test_pairs_of_the_same_answer_are_left_out_and_counted():
    made = contest(pairs=0)
    assert not made.add(AnswerPair(0, [], MODELS, ("same", " same\n")))
    assert made.progress("kim") == {"votes": 0, "identical": 1} and made.next("kim") is None


def test_undo_shows_the_pair_again_but_not_after_its_models_were_told(log):
    made = contest(pairs=4)
    first = made.next("kim")
    made.vote(log, "kim", first.id, "left")
    second = made.next("kim")
    assert made.undo(log, "kim") is first and made.next("kim") is first
    made.vote(log, "kim", first.id, "right")
    assert made.next("kim") is second
    votes, left_out = vote_file.read_votes(log.path)
    assert len(votes) == 1 and left_out == {"undone": 1}

    told = contest(pairs=2, reveal=True)
    seen = told.next("lee")
    told.vote(log, "lee", seen.id, "left")
    assert told.undo(log, "lee") is seen and told.next("lee").pair is not seen.pair


def test_a_vote_of_before_the_server_started_can_be_undone(log):
    before = contest()
    before.vote(log, "kim", before.next("kim").id, "left")
    after = contest()
    assert after.undo(log, "lee") is None
    assert after.undo(log, "kim") is not None and after.undo(log, "kim") is None


def test_the_same_vote_twice_is_one_vote_and_another_one_is_refused(log):
    made = contest()
    showing = made.next("kim")
    first = made.vote(log, "kim", showing.id, "left").vote_id
    assert made.vote(log, "kim", showing.id, "left").vote_id == first and log.count() == 1
    with pytest.raises(UsageError, match="voted on this pair already"):
        made.vote(log, "kim", showing.id, "right")


class SlowLog:
    """A file of votes on a slow disk, which others wait for."""

    def __init__(self):
        self.writing, self.go_on, self.votes = threading.Event(), threading.Event(), []

    def add(self, vote):
        self.writing.set()
        assert self.go_on.wait(10)
        self.votes.append(vote)
        return str(len(self.votes))


def test_nobody_waits_for_the_vote_of_another_and_two_clicks_are_one_vote():
    made, log = contest(), SlowLog()
    showing, results = made.next("kim"), []
    clicks = [
        threading.Thread(target=lambda: results.append(made.vote(log, "kim", showing.id, "left")))
        for _ in range(2)
    ]
    for click in clicks:
        click.start()
    assert log.writing.wait(10)
    assert made.next("lee").pair is not showing.pair  # while the vote is written
    log.go_on.set()
    for click in clicks:
        click.join(10)
    assert len(log.votes) == 1 and results == [showing, showing]


# Over HTTP


def asked(model_folder, **more):
    base = {"voter": "kim", "models": [str(model_folder)], "prompt": "Hi", "max_new_tokens": 6}
    return {**base, "temperature": 1.0, "checks": 0, "repeats": 0, **more}


def test_no_answer_names_a_model_before_the_vote(server, model_folder):
    request = asked(model_folder, reveal=True)
    _, headers, body = server.request("POST", "/api/compare/next", request)
    item = json.loads(body)
    assert set(item) == {"item", "prompt", "answers", "votes", "identical"}
    assert [set(answer) for answer in item["answers"]] == [{"text", "ended"}] * 2
    assert str(model_folder) not in body.decode() + json.dumps(headers) and "model" not in body.decode()
    voted = server.post("/api/compare/vote", {**request, "item": item["item"], "vote": "left"})
    assert voted["models"] == {"left": str(model_folder), "right": str(model_folder)}
    hidden = asked(model_folder)
    item = server.post("/api/compare/next", hidden)
    assert server.post("/api/compare/vote", {**hidden, "item": item["item"], "vote": "bad"})["models"] is None


def test_requests_that_are_refused(server, model_folder):
    good = asked(model_folder)
    assert server.refused("/api/compare/next", {**good, "models": ["/etc"]})[0] == 400
    status, error = server.refused("/api/compare/vote", {**good, "item": "0", "vote": "left"})
    assert status == 400 and error["what"] == "this pair is not shown any more"
    status, error = server.refused("/api/compare/next", {**good, "prompt": None})
    assert status == 400 and error["what"] == "there are no prompts for these models"
    for wrong in ({"voter": " "}, {"models": []}, {"vote": "c"}, {"prompt": "x" * 200_000}):
        body = {**good, "item": "0", "vote": "left", **wrong}
        assert server.request("POST", "/api/compare/vote", body)[0] == 422


def test_a_model_that_always_answers_the_same_is_said(server, model_folder):
    status, error = server.refused("/api/compare/next", asked(model_folder, temperature=0, max_new_tokens=1))
    assert status == 422 and "times in a row both answers were the same" in error["what"]


def test_statistics_are_those_of_the_file(server, model_folder):
    request = asked(model_folder, voter="ann")
    before = server.post("/api/compare/statistics", {})["votes"]
    item = server.post("/api/compare/next", request)
    server.post("/api/compare/vote", {**request, "item": item["item"], "vote": "tie"})
    assert server.post("/api/compare/statistics", {})["votes"] == before + 1
    assert server.post("/api/compare/undo", request)["undone"] is True
    assert server.post("/api/compare/statistics", {})["votes"] == before
    assert server.post("/api/compare/statistics", {"models": ["another"]})["votes"] == 0


def test_prompts_of_a_file_are_those_of_its_training_part(model_folder, tmp_path):
    lines = [json.dumps({"prompt": f"prompt {number}?"}) for number in range(40)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    with serving([str(model_folder)], tmp_path, prompts=str(tmp_path / "prompts.jsonl")) as running:
        setup = running.post("/api/compare/setup", {"models": [str(model_folder)]})
        assert setup["prompts"] == {"kind": "file", "name": str(tmp_path / "prompts.jsonl")}
        assert setup["commands"]["export"].startswith("toolkit feedback export ")
        item = running.post("/api/compare/next", asked(model_folder, prompt=None))
        assert item["prompt"][0]["content"].startswith("prompt ")


def test_a_pair_that_needs_another_vote_is_shown_after_a_restart(model_folder, tmp_path):
    request, pairs = asked(model_folder, annotators=2), []
    for voter in ("kim", "lee", "ann"):
        with serving([str(model_folder)], tmp_path) as running:
            item = running.post("/api/compare/next", {**request, "voter": voter})
            vote = {**request, "voter": voter, "item": item["item"], "vote": "tie"}
            running.post("/api/compare/vote", vote)
            pairs.append({answer["text"] for answer in item["answers"]})
    assert pairs[0] == pairs[1] != pairs[2]


@pytest.mark.parametrize("kind", ["own template", "text"])
def test_a_llama_answers_in_its_template_and_a_text_model_continues(tmp_path, kind):
    tokenizer = byte_level()
    if kind == "own template":
        tokenizer.chat_template = (
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        )
    folder = tmp_path / "model"
    build_architecture("llama" if kind == "own template" else "gpt2", tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with serving([str(folder)], tmp_path) as running:
        request = asked(folder, prompt="Once upon a time " * 40)
        item = running.post("/api/compare/next", request)
        assert all(answer["text"] for answer in item["answers"]) and item["prompt"][0]["role"] == "user"
        running.post("/api/compare/vote", {**request, "item": item["item"], "vote": "left"})
    assert len(vote_file.read_rows(tmp_path / "feedback.sqlite")) == 1


VOTERS = 100


@pytest.mark.slow
def test_a_hundred_people_vote_at_once_and_every_vote_is_counted(model_folder, tmp_path):
    errors, items = [], []

    def vote(number: int) -> None:
        try:
            request = asked(model_folder, voter=f"voter {number}", annotators=5)
            for value in ("left", "tie"):
                item = running.post("/api/compare/next", request)["item"]
                items.append(item)
                running.post("/api/compare/vote", {**request, "item": item, "vote": value})
        except BaseException as error:
            errors.append(error)

    with serving([str(model_folder)], tmp_path) as running:
        threads = [threading.Thread(target=vote, args=(number,)) for number in range(VOTERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        statistics = running.post("/api/compare/statistics", {})
    assert (statistics["votes"], statistics["voters"]) == (2 * VOTERS, VOTERS)
    assert len(set(items)) == 2 * VOTERS
    votes, _ = vote_file.read_votes(tmp_path / "feedback.sqlite")
    per_pair = Counter((vote.prompt, vote.answer_a, vote.answer_b) for vote in votes)
    assert max(per_pair.values()) <= 5


@pytest.mark.slow
def test_a_vote_that_the_server_acknowledged_survives_its_kill(model_folder, tmp_path):
    path, given = tmp_path / "feedback.sqlite", []
    options = ["--port", "0", "--feedback", str(path)]
    for attempt in range(2):
        command = [sys.executable, "-m", "toolkit", "playground", str(model_folder), *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            running = Server(int(process.stdout.readline().strip().rstrip("/").rpartition(":")[2]), tmp_path)
            for _ in range(5 + attempt):
                item = running.post("/api/compare/next", asked(model_folder))["item"]
                vote = {**asked(model_folder), "item": item, "vote": "right"}
                given.append(running.post("/api/compare/vote", vote)["id"])
            os.kill(process.pid, signal.SIGKILL)
        assert [row["id"] for _, row in vote_file.read_rows(path)] == given


VOTING = """
import sys
from pathlib import Path
from toolkit.playground.feedback import NewVote, VoteLog
log = VoteLog(Path(sys.argv[1]))
turns = [{"role": "user", "content": "p"}]
number = 0
while True:
    number += 1
    vote = log.add(NewVote(turns, "x", "y", "a", f"voter {number}", ("m", "n"), "ab"))
    print(vote, flush=True)
"""


@pytest.mark.slow
def test_votes_that_were_acknowledged_survive_a_kill(tmp_path):
    path, acknowledged = tmp_path / "feedback.sqlite", []
    for attempt in range(5):
        command = [sys.executable, "-c", VOTING, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(3 + 7 * attempt):
                acknowledged.append(process.stdout.readline().strip())
            os.kill(process.pid, signal.SIGKILL)
            acknowledged += [line for line in process.stdout.read().splitlines() if len(line) == 32]
        written = {row["id"] for _, row in vote_file.read_rows(path)}
        assert set(acknowledged) <= written and len(written) <= len(acknowledged) + attempt + 1
