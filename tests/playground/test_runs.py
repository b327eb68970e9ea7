"""The runs room over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.playground.conftest import Server, serving
from tests.runs import small_runs
from toolkit.playground.catalog import Catalog
from toolkit.runs import layout, seal


def write_run(folder: Path, *, stage: str = "sft", parents: dict | None = None, steps: int = 0) -> Path:
    """Write the files of an unfinished run."""
    folder.mkdir(parents=True)
    settings = {"stage": stage, "seed": 0, "model": "runs/x", "trainer": {"max_steps": 40}}
    manifest = {"format": seal.FORMAT, "name": folder.name, "stage": stage, "operational": {}, "facts": {},
                "inputs": {"settings": settings, "parents": parents or {}, "data": {}}}  # fmt: skip
    (folder / layout.MANIFEST).write_text(json.dumps(manifest))
    lines = ["# a comment", *(f"{key}: {json.dumps(value)}" for key, value in settings.items())]
    (folder / layout.RESOLVED).write_text("\n".join(lines) + "\n")
    if steps:
        append(folder, *range(1, steps + 1))
    return folder


def append(run: Path, *steps: int) -> None:
    with (run / layout.METRICS).open("a") as handle:
        for step in steps:
            handle.write(
                json.dumps({"step": step, "time": step * 0.5, "loss": 1 / step, "grad_norm": 2.0}) + "\n"
            )


def get(server: Server, what: str, **parameters):
    return server.get(f"/api/runs/{what}?{urlencode(parameters)}")


@pytest.fixture(scope="module")
def served(model_folder, tmp_path_factory):
    """Serve a finished tokenizer and corpus, and an unfinished sft run."""
    runs = tmp_path_factory.mktemp("runs")
    small_runs.make(small_runs.tokenizer("a/tokenizer"), runs)
    small_runs.make(small_runs.corpus("a/corpus", parent="runs/a/tokenizer"), runs)
    write_run(
        runs / "a/sft", parents={"model": {"kind": "hub", "reference": "org/m", "digest": "org/m"}}, steps=10
    )
    with serving([str(model_folder)], runs) as running:
        yield running


def test_runs_are_listed_without_their_paths(served):
    listed = served.get("/api/runs")
    assert [(run["reference"], run["stage"], run["state"]) for run in listed["runs"]] == [
        ("a/corpus", "corpus", "sealed"),
        ("a/sft", "sft", "unfinished"),
        ("a/tokenizer", "tokenizer", "sealed"),
    ]
    assert str(served.folder) not in json.dumps(listed)
    assert not any(run["running"] for run in listed["runs"])


def test_a_run_shows_settings_numbers_and_lineage(served):
    found = get(served, "one", run="a/corpus")
    assert ["stage", "corpus"] in found["settings"]
    assert {(edge["parent"], edge["child"]) for edge in found["lineage"]["edges"]} == {
        ("a/tokenizer", "a/corpus")
    }
    assert found["report"]
    assert found["problems"] == []
    assert str(served.folder) not in json.dumps(found)
    [hub] = [node for node in get(served, "one", run="a/sft")["lineage"]["nodes"] if node["kind"] == "hub"]
    assert hub["id"] == "org/m"


def test_settings_and_numbers_are_flat(tmp_path, model_folder):
    run = write_run(tmp_path / "r")
    (run / layout.RESOLVED).write_text("a: {b: [1, 2], c: null}\nd: [{e: x}, {e: true}]\n")
    numbers = {
        "loss": 0.5,
        "loss_interval": [0.4, 0.6],
        "seed": 3,
        "ok": True,
        "samples": [{"prompt": "p", "text": "t"}],
        "models": {"m": {"win_rate": {"estimate": 0.7, "low": 0.6, "high": None, "n": 9}}},
    }
    (run / layout.EVALUATION).write_text(json.dumps(numbers))
    with serving([str(model_folder)], tmp_path) as server:
        found = get(server, "one", run="r")
    assert found["settings"] == [["a.b", "[1, 2]"], ["a.c", "null"], ["d[0].e", "x"], ["d[1].e", "true"]]
    assert found["numbers"] == [
        {"key": "loss", "value": 0.5, "low": 0.4, "high": 0.6},
        {"key": "models.m.win_rate", "value": 0.7, "low": 0.6, "high": None},
    ]
    assert [(row["prompt"], row["answer"]) for row in found["samples"]] == [("p", "t")]


def test_curves_grow_with_the_file(served):
    run = served.folder / "a/sft"
    first = get(served, "curves", run="a/sft")
    [loss] = first["curves"]
    assert (loss["metric"], loss["axis"], loss["count"]) == ("loss", "step", 10)
    assert first["progress"] | {"changed": ""} == {
        "state": "unfinished",
        "running": False,
        "step": 10,
        "steps": 40,
        "seconds": 5.0,
        "left_seconds": 15.0,
        "changed": "",
    }
    same = get(served, "curves", run="a/sft", version=first["version"])
    assert same["unchanged"] and "curves" not in same
    with (run / layout.METRICS).open("a") as handle:
        handle.write('{"step": 11, "ti')
    assert get(served, "curves", run="a/sft", version=first["version"])["unchanged"]
    with (run / layout.METRICS).open("a") as handle:
        handle.write('me": 5.5, "loss": 0.25}\n')
    newer = get(served, "curves", run="a/sft", version=first["version"])
    assert newer["curves"][0]["points"][-1] == [11, 0.25]
    assert newer["problems"] == []


def test_the_page_s_language_and_everything_that_is_logged(served):
    japanese = get(served, "curves", run="a/sft", language="ja", everything="true")
    assert [curve["metric"] for curve in japanese["curves"]] == ["loss", "grad_norm"]
    assert "損失" in japanese["curves"][0]["title"]


def test_a_run_whose_process_lives_is_running(tmp_path, model_folder):
    run = write_run(tmp_path / "r", steps=3)
    note = {"pid": os.getpid(), "host": socket.gethostname()}
    with serving([str(model_folder)], tmp_path) as server:
        (run / layout.IN_USE).write_text(json.dumps(note))
        assert get(server, "curves", run="r")["progress"]["running"]
        (run / layout.IN_USE).write_text(json.dumps({**note, "host": "elsewhere"}))
        assert not get(server, "curves", run="r")["progress"]["running"]


def test_no_path_reaches_the_file_system(served):
    for name in (
        "../a/corpus",
        "/etc",
        str(served.folder / "a/corpus"),
        "a/../a/corpus",
        "a",
        "",
        "a/corpus/",
    ):
        for what in ("one", "curves", "report"):
            status, _, body = served.request("GET", f"/api/runs/{what}?{urlencode({'run': name})}")
            assert (status, json.loads(body)["error"]["where"]) == (400, "run"), (what, name)


@pytest.mark.slow  # it draws its figures with matplotlib
def test_the_report_may_not_run_scripts(served):
    status, headers, body = served.request("GET", "/api/runs/report?run=a/corpus&language=ja")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and policy.endswith("sandbox") and "script-src" not in policy
    assert b"<script" not in body
    assert b'lang="ja"' in body


def test_damaged_files_are_lines_of_the_answer(tmp_path, model_folder):
    run = write_run(tmp_path / "r", steps=3)
    (run / layout.RESOLVED).write_text("a: [1")
    (run / layout.EVALUATION).write_text('{"loss": ')
    with (run / layout.METRICS).open("a") as handle:
        handle.write("no row\n")
    broken = write_run(tmp_path / "broken")
    (broken / layout.MANIFEST).write_text('{"format": "toolk')
    other = write_run(tmp_path / "other-program")
    (other / layout.MANIFEST).write_text('{"format": "npm"}')
    with serving([str(model_folder)], tmp_path) as server:
        listed = server.get("/api/runs")
        assert [run["reference"] for run in listed["runs"]] == ["r"]
        [damaged] = listed["damaged"]
        assert damaged["reference"] == "broken"
        assert damaged["problem"].startswith("manifest.json: cannot be read")
        assert [line.partition(":")[0] for line in get(server, "one", run="r")["problems"]] == [
            layout.EVALUATION, layout.RESOLVED,
        ]  # fmt: skip
        found = get(server, "curves", run="r")
        assert "metrics.jsonl: 1 damaged lines, the first is line 4" in found["problems"]
        assert found["curves"][0]["count"] == 3


def test_a_folder_that_is_missing_is_named(tmp_path, model_folder):
    with serving([str(model_folder)], tmp_path / "none") as server:
        status, _, body = server.request("GET", "/api/runs")
    assert (status, json.loads(body)["error"]["what"]) == (422, "there is no such folder")


def test_a_sealed_run_is_measured_once_and_a_new_one_is_found(tmp_path, monkeypatch):
    small_runs.make(small_runs.tokenizer("a/tokenizer"), tmp_path)
    catalog, measured = Catalog(tmp_path), []
    from toolkit.runs import index

    monkeypatch.setattr(
        index, "entry_of", lambda *args, entry=index.entry_of: (measured.append(args), entry(*args))[1]
    )
    first = catalog.listing()
    assert catalog.listing() == first
    assert len(measured) == 1
    shutil.copytree(tmp_path / "a/tokenizer", tmp_path / "a/copy")
    assert catalog.find("a/copy").stage == "tokenizer"


@pytest.mark.slow
def test_it_stays_fast_with_200_runs_and_100_000_lines(tmp_path, model_folder):
    small_runs.make(small_runs.tokenizer("a/tokenizer"), tmp_path)
    for number in range(200):
        shutil.copytree(tmp_path / "a/tokenizer", tmp_path / f"b/{number:03}")
    run = write_run(tmp_path / "long")
    rows = (json.dumps({"step": step, "time": step / 9, "loss": 1 / (step + 1), "grad_norm": 1.5,
                        "learning_rate": 1e-3, "tokens": step * 512}) for step in range(100_000))  # fmt: skip
    (run / layout.METRICS).write_text("\n".join(rows) + "\n")
    with serving([str(model_folder)], tmp_path) as server:
        took = {}
        for name, call in {
            "list": lambda: server.get("/api/runs"),
            "list again": lambda: server.get("/api/runs"),
            "one": lambda: get(server, "one", run="b/100"),
            "curves": lambda: get(server, "curves", run="long", everything="true"),
            "curves again": lambda: (
                append(run, 100_001),
                get(server, "curves", run="long", everything="true"),
            )[1],
        }.items():
            start = time.process_time()
            answer = call()
            took[name] = time.process_time() - start
        assert all(len(curve["points"]) <= 500 for curve in answer["curves"])
        assert answer["curves"][0]["count"] == 100_001
    # CPU seconds, so that other processes do not matter; measured: 0.02, 0.04, 0.6 and 0.01
    assert took["list again"] < 0.5
    assert took["one"] < 1
    assert took["curves"] < 6
    assert took["curves again"] < 0.3
