"""The graph of runs and what they were made from."""

from __future__ import annotations

import json

from tests.runs import small_runs
from toolkit.runs import layout
from toolkit.runs.lineage import LineageEdge, LineageNode, family


def write(folder, stage, parents):
    folder.mkdir(parents=True)
    manifest = {
        "format": "toolkit run 1",
        "stage": stage,
        "inputs": {"settings": {}, "parents": parents, "data": {}},
    }
    (folder / layout.MANIFEST).write_text(json.dumps(manifest))
    return folder


def run(name):
    return {"kind": "run", "path": f"../{name}", "digest": "0"}


def test_a_family_has_all_ancestors_and_descendants_and_no_one_else(tmp_path):
    runs = {
        "a": write(tmp_path / "a", "tokenizer", {}),
        "b": write(tmp_path / "b", "corpus", {"tokenizer": run("a")}),
        "c": write(tmp_path / "c", "pretrain", {"tokens": run("b")}),
        "d": write(tmp_path / "d", "pretrain", {"tokens": run("b")}),
        "e": write(tmp_path / "e", "evaluate", {"models[0]": run("c"), "models[1]": run("d")}),
    }
    found = family(runs).of("c")
    assert {node.id for node in found.nodes} == {"a", "b", "c", "e"}
    assert {(edge.parent, edge.child) for edge in found.edges} == {("a", "b"), ("b", "c"), ("c", "e")}
    assert family(runs).of("e").nodes == family(runs).nodes


def test_other_parents_are_named_without_their_paths(tmp_path):
    parents = {
        "model": {"kind": "hub", "reference": "org/model@main", "digest": "org/model@main"},
        "tokens": {"kind": "folder", "path": "../../elsewhere/texts", "digest": "0"},
        "judge": run("gone"),
    }
    found = family({"a": write(tmp_path / "a", "sft", parents)})
    assert found.nodes == [
        LineageNode("a", "run", "sft"),
        LineageNode("org/model@main", "hub"),
        LineageNode("texts", "folder"),
        LineageNode("gone", "missing"),
    ]


def test_two_settings_that_name_one_parent_are_one_edge(tmp_path):
    runs = {
        "a": write(tmp_path / "a", "sft", {}),
        "b": write(tmp_path / "b", "ppo", {"model": run("a"), "reward_model": run("a")}),
    }
    assert family(runs).edges == [LineageEdge("a", "b", ("model", "reward_model"))]


def test_a_parent_that_was_sealed_again_is_marked(tmp_path):
    small_runs.make(small_runs.tokenizer("a/tokenizer"), tmp_path)
    small_runs.make(small_runs.corpus("a/corpus", parent="runs/a/tokenizer"), tmp_path)
    runs = {name: tmp_path / name for name in ("a/tokenizer", "a/corpus")}
    assert [edge.changed for edge in family(runs).edges] == [False]
    lock = tmp_path / "a/tokenizer" / layout.LOCK
    lock.write_text(lock.read_text() + " ")
    assert [edge.changed for edge in family(runs).edges] == [True]


def test_a_damaged_manifest_names_no_parents(tmp_path):
    damaged = write(tmp_path / "a", "sft", {})
    (damaged / layout.MANIFEST).write_text('{"inputs": {"parents": [1]}, "stage": 3}')
    assert family({"a": damaged}).nodes == [LineageNode("a", "run", None)]
