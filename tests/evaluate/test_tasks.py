"""`toolkit evaluate --tasks`: lm-eval's own tasks and evaluator on our model folders, from a local folder."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from toolkit.cli import main
from toolkit.cli.evaluate_tasks import INSTALL
from toolkit.data.chat import template
from toolkit.inference.logprobs import answer_logprobs
from toolkit.models.loading import load_causal_lm

pytest.importorskip("lm_eval")

QUESTIONS = [
    {"question": "The fox finds a", "choices": [" key", " lantern", " bear"], "answer": 0},
    {"question": "Once there was", "choices": [" a hare", " two spaces", " the"], "answer": 2},
    {"question": "The bear lost the", "choices": [" coin", " map", " story about a fox"], "answer": 1},
    {"question": "In the end", "choices": [" all was well", ".", " the hare"], "answer": 1},
    {"question": "They all", "choices": [" x", " laughed", " went home"], "answer": 0},
]
YAML = """\
task: animals
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 2.0
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "animals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    (folder / "animals.yaml").write_text(YAML.format(path=folder / "animals.jsonl"))
    return folder


def accuracy(folder):
    """By our own log-probabilities: the likeliest choice is right."""
    model, tokenizer = load_causal_lm((str(folder), None))
    right = []
    for row in QUESTIONS:
        prompt = template.encode_text(tokenizer, row["question"])
        whole = [template.encode_text(tokenizer, row["question"] + choice) for choice in row["choices"]]
        assert all(ids[: len(prompt)] == prompt for ids in whole)
        answers = [ids[len(prompt) :] for ids in whole]
        sums = [values.sum() for values in answer_logprobs(model, [prompt] * len(answers), answers)]
        right.append(int(np.argmax(sums)) == row["answer"])
    return float(np.mean(right))


def test_a_local_task_on_two_models(folders, tasks, capsys, monkeypatch):
    first, second = str(folders / "first"), str(folders / "second")
    options = ["--tasks", "animals", "--include-path", str(tasks)]
    assert main.main(["evaluate", first, second, *options, "--json"]) == 0
    out = capsys.readouterr()
    result = json.loads(out.out)
    for name in ("first", "second"):
        row = result["models"][name]["animals"]
        assert row["acc"] == pytest.approx(accuracy(folders / name))
        error = np.sqrt(row["acc"] * (1 - row["acc"]) / 4)  # of a mean of 5
        low, high = row["acc_interval"]
        assert (high - low) / 2 == pytest.approx(1.96 * error, rel=1e-3)
        assert row["n"] == 5 and row["version"] == 2.0
    assert result["versions"]["lm_eval"] and result["settings"]["tasks"] == ["animals"]
    monkeypatch.setenv("COLUMNS", "140")
    assert main.main(["evaluate", first, *options, "--examples", "3"]) == 0
    out = capsys.readouterr()
    assert out.out == "" and "animals" in out.err and "acc" in out.err and "lm-evaluation-harness" in out.err


def test_mistakes_are_told_without_a_traceback(folders, tasks, tmp_path, capsys):
    first = str(folders / "first")
    for options, words in (
        (["--tasks", "animals", "--include-path", str(tmp_path / "none")], "no such folder"),
        (["--tasks", ","], "names of tasks"),
        (
            ["--tasks", "animals", "--include-path", str(tasks), "--data", "x"],
            "unrecognized arguments: --data",
        ),
    ):
        assert main.main(["evaluate", first, *options]) != 0
        err = capsys.readouterr().err
        assert words in err and "Traceback" not in err
    (tasks / "animals.jsonl").unlink()
    assert main.main(["evaluate", first, "--tasks", "animals", "--include-path", str(tasks)]) == 1
    assert "the task cannot be read" in capsys.readouterr().err


@pytest.mark.slow
def test_an_unknown_task_is_named(folders, tasks, capsys):
    """Slow: lm-eval reads the YAML of all of its own tasks to say so."""
    arguments = ["--tasks", "animals,animalz", "--include-path", str(tasks)]
    assert main.main(["evaluate", str(folders / "first"), *arguments]) == 2
    err = capsys.readouterr().err
    assert "has no task animalz" in err and "Traceback" not in err


def test_without_lm_eval_the_package_is_named(folders):
    """In a process of its own, in which there is no such package."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["optional-dependencies"]["tasks"] == [INSTALL.split("'")[1]]
    code = (
        "import sys; sys.modules['lm_eval'] = None\n"
        "from toolkit.cli import main\n"
        f"sys.exit(main.main(['evaluate', {str(folders / 'first')!r}, '--tasks', 'hellaswag']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and INSTALL in done.stderr
    assert "Traceback" not in done.stderr
