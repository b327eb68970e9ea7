"""The answer browser: placement and grouping of pairs."""

from __future__ import annotations

import json

from toolkit.report import answers


def row(model, number, text, *, outcome=None, score=None, ended=True):
    answer = {"model": model, "number": number, "prompt": [{"role": "user", "content": f"p{number}"}],
             "answer": text, "ended": ended}  # fmt: skip
    return answer | {
        key: value for key, value in (("outcome", outcome), ("score", score)) if value is not None
    }


def test_pairs_are_grouped_by_verdict(tmp_path):
    rows = [row("base", number, f"b{number}", score=1.0) for number in range(30)]
    rows += [row("new", number, f" n{number} ", outcome=1.0, score=2.0) for number in range(20)]
    rows += [row("new", 20, "cut", outcome=0.5, score=1.0, ended=False), row("new", 21, "n", outcome=0.25)]
    rows += [row("new", 22, "nobody judged this")]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    [group] = answers.grouped(tmp_path, baseline="base")
    assert (group["model"], group["baseline"]) == ("new", "base")
    assert [(kind["name"], kind["count"], len(kind["pairs"])) for kind in group["kinds"]] == [
        ("won", 20, answers.SHOWN), ("tied", 1, 1), ("lost", 1, 1)]  # fmt: skip
    assert group["kinds"][0]["pairs"][3] == {
        "prompt": "p3", "answer": "n3", "other": "b3", "score": "2.00", "other_score": "1.00"}  # fmt: skip
    assert group["kinds"][1]["pairs"][0]["answer"] == "cut …"
    assert group["kinds"][2]["pairs"][0]["score"] == ""


def test_runs_without_answers_have_no_pairs(tmp_path):
    assert answers.grouped(tmp_path, baseline="base") == []
    (tmp_path / "answers.jsonl").write_text(json.dumps(row("base", 0, "b")) + "\n")
    assert answers.grouped(tmp_path, baseline="base") == []
