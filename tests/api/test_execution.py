"""Tests of `toolkit.run`: stages in subprocesses, errors and interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

import toolkit as tk
from toolkit.api import execution
from toolkit.base import error_file
from toolkit.base.errors import DataError, Problem, RecipeError, RunError, ToolkitError, UsageError
from toolkit.config import loader
from toolkit.runs import checkpoint

TOKENIZER = "stage: tokenizer\ndata: {name: storyworld, config: stories, examples: 30}\nvocab_size: 300\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


def write_recipe(folder: Path) -> Path:
    path = folder / "recipes" / "t" / "tokenizer.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(TOKENIZER)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, tk.Run]:
    """A recipe and its sealed run."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_recipe(folder)
    return path, tk.run(path, {"data.examples": 20}, runs_dir=folder / "runs", quiet=True)


def test_run_of_a_recipe_file_is_sealed(finished):
    path, run = finished
    assert run == tk.Run(path.parents[2] / "runs" / "t" / "tokenizer")
    assert run.state == "sealed" and run.verify() == []
    assert run.evaluation.vocab_size == run.recipe.vocab_size == 300 and run.recipe.data[0].examples == 20


def test_finished_run_is_returned_unchanged(finished, capsys):
    path, run = finished
    before = (run.path / "lock.json").read_bytes()
    assert tk.run(path, {"data.examples": 20}, runs_dir=path.parents[2] / "runs") == run
    assert (run.path / "lock.json").read_bytes() == before
    assert "nothing to do" in capsys.readouterr().err  # shows the output of the process


def test_recipe_object_produces_the_same_run_as_its_file(finished, runs, capsys):
    _, from_file = finished
    source = {"name": "storyworld", "config": "stories", "examples": 20}
    recipe = tk.TokenizerRecipe(stage="tokenizer", run="u/tokenizer", data=source, vocab_size=300)
    run = tk.run(recipe, runs_dir=runs, quiet=True)
    assert run.reference == "u/tokenizer" and capsys.readouterr().err == ""
    assert run.manifest["inputs"]["settings"] == from_file.manifest["inputs"]["settings"]
    bytes_of = [(made.path / "tokenizer" / "tokenizer.json").read_bytes() for made in (run, from_file)]
    assert bytes_of[0] == bytes_of[1]


@pytest.mark.parametrize(
    "stage", ["tokenizer", "corpus", "pretrain", "sft", "reward", "dpo", "ppo", "evaluate"]
)
def test_recipe_of_a_run_round_trips(old_runs, tmp_path, stage):
    """`tk.run(run.recipe.model_copy(update={"run": ..., "seed": 1}))` runs with another seed."""
    recipe = tk.Run(old_runs / stage).recipe
    changed = recipe.model_copy(update={"run": "other/run", "seed": 1})
    loaded = loader.load(execution._write(changed, tmp_path))
    assert loaded.recipe == changed and loaded.name == "other/run"


def test_recipe_object_requires_a_run_name(finished, runs):
    with pytest.raises(UsageError, match="does not name its run"):
        tk.run(finished[1].recipe, runs_dir=runs)


def test_overrides_accept_python_values_and_runs(finished):
    _, run = finished
    values = {"a.b": 0.00001, "c": None, "d": "x: y", "e": [True, run]}
    assert execution._settings(values, "runs") == [
        "a.b=1e-05", "c=null", 'd="x: y"', f'e=[true, "{run.path}"]',
    ]  # fmt: skip


def test_path_starting_with_runs_ignores_another_runs_directory():
    values = {"model": tk.Run("runs/x"), "models": [Path("runs/y"), "runs/z"]}
    assert execution._settings(values, "runs") == ['model="runs/x"', 'models=["runs/y", "runs/z"]']
    assert execution._settings(values, "other") == ['model="./runs/x"', 'models=["./runs/y", "runs/z"]']


def test_run_reference_in_settings_is_relative_to_the_runs_directory(finished, tmp_path):
    path, tokenizer = finished
    recipe = tmp_path / "recipes" / "t" / "corpus.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(
        "stage: corpus\ntokenizer: runs/t/absent\nworkers: 1\n"
        "data: {name: storyworld, config: stories, examples: 20, held_out_examples: 5}\n"
    )
    runs_dir = path.parents[2] / "runs"
    corpus = tk.run(recipe, {"tokenizer": "runs/t/tokenizer"}, runs_dir=runs_dir, quiet=True)
    assert corpus.parents == {"tokenizer": tokenizer}
    assert corpus.recipe.tokenizer == "runs/t/tokenizer"


def test_folder_runs_in_reference_order(recipe, runs):
    recipe.with_name("a_corpus.yaml").write_text(
        "stage: corpus\nrun: t/corpus\ntokenizer: runs/t/tokenizer\nworkers: 1\n"
        "data: {name: storyworld, config: stories, examples: 20, held_out_examples: 5}\n"
    )
    tokenizer, corpus = tk.run_folder(recipe.parent, runs_dir=runs, quiet=True)
    assert (tokenizer.stage, corpus.stage) == ("tokenizer", "corpus")
    assert corpus.parents == {"tokenizer": tokenizer}
    with pytest.raises(UsageError, match="run_folder"):
        tk.run(recipe.parent, runs_dir=runs)


def test_options_are_passed_to_the_command(recipe, runs, tmp_path, monkeypatch):
    launch, record = tmp_path / "launch.yaml", tmp_path / "arguments"
    launch.write_text("{}")
    program = f"import sys; open({str(record)!r}, 'w').write(' '.join(sys.argv[1:]))"
    monkeypatch.setattr(execution, "PROGRAM", ("-c", program))
    tk.run(recipe, {"seed": 1}, runs_dir=runs, fresh=True, launch=launch)
    assert record.read_text() == f"run {recipe} --set seed=1 --runs-dir {runs} --fresh --launch {launch}"


def test_run_from_another_thread_leaves_the_process_unchanged(recipe, runs):
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = dict(os.environ), [signal.getsignal(number) for number in numbers]
    results = []
    thread = threading.Thread(
        target=lambda: results.append(tk.run(recipe, {"threads": 1}, runs_dir=runs, quiet=True))
    )
    thread.start()
    thread.join()
    assert [run.state for run in results] == ["sealed"]
    assert before == (dict(os.environ), [signal.getsignal(number) for number in numbers])


# Errors


def test_invalid_recipe_is_refused_before_any_process_starts(recipe, runs):
    with pytest.raises(RecipeError) as error:
        tk.run(recipe, {"vocab_sise": 310}, runs_dir=runs)
    assert error.value.problems[0].key == "vocab_sise" and not runs.exists()


def test_stage_error_is_raised_with_kind_location_and_fix(recipe, runs, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError) as error:
        tk.run(recipe, {"data": {"name": str(tmp_path / "empty.txt")}}, runs_dir=runs, quiet=True)
    assert "empty.txt" in str(error.value)


def test_changed_inputs_raise_an_error(finished):
    path, run = finished
    with pytest.raises(RunError, match="vocab_size: 300 -> 290") as error:
        tk.run(path, {"vocab_size": 290, "data.examples": 20}, runs_dir=path.parents[2] / "runs", quiet=True)
    assert error.value.where == str(run.path) and "--fresh" in error.value.fix


def test_error_in_a_folder_is_the_error_of_its_stage(recipe, runs, tmp_path):
    recipe.write_text(
        TOKENIZER.replace("{name: storyworld, config: stories, examples: 30}", "{name: absent.txt}")
    )
    with pytest.raises(ToolkitError, match=r"absent\.txt"):
        tk.run_folder(recipe.parent, runs_dir=runs, quiet=True)


def test_process_that_exits_without_a_message_raises_an_error(recipe, runs, monkeypatch):
    monkeypatch.setattr(execution, "PROGRAM", ("-c", "import sys; sys.exit(9)"))
    with pytest.raises(RunError, match="exit status 9"):
        tk.run(recipe, runs_dir=runs, quiet=True)


@pytest.mark.parametrize(
    "error",
    [
        RunError("what", where="where", fix="fix"),
        ToolkitError("what"),
        RecipeError([Problem("a.yaml:1", "key", "what"), Problem("b.yaml:2", "", "else")]),
    ],
)
def test_error_round_trips_through_a_file(tmp_path, monkeypatch, error):
    file = tmp_path / "error.json"
    assert error_file.read(file) is None
    monkeypatch.setenv(error_file.VARIABLE, str(file))
    error_file.write(error)
    error_file.write(RunError("a later one"))
    read = error_file.read(file)
    assert type(read) is type(error) and str(read) == str(error)


# Interrupts


def interrupt_when(condition) -> threading.Thread:
    """Interrupt the main thread, as a notebook's stop button does, once a condition holds."""

    def watch() -> None:
        deadline = time.monotonic() + 120
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


PATIENT = """
import pathlib, signal, sys, time
folder = pathlib.Path({folder!r})
def stop(number, frame):
    (folder / "told").touch()
    if {obeys}:
        (folder / "saved").touch()
        sys.exit(130)
signal.signal(signal.SIGINT, stop)
(folder / "started").touch()
while True:
    time.sleep(0.05)
"""


def test_interrupt_is_forwarded_once_and_awaited(recipe, runs, tmp_path, monkeypatch):
    program = PATIENT.format(folder=str(tmp_path), obeys=True)
    monkeypatch.setattr(execution, "PROGRAM", ("-c", program))
    interrupt_when((tmp_path / "started").exists)
    with pytest.raises(KeyboardInterrupt):
        tk.run(recipe, runs_dir=runs, quiet=True)
    assert (tmp_path / "saved").exists()


def test_second_interrupt_kills_the_process(recipe, runs, tmp_path, monkeypatch):
    processes = []

    class Recorded(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            processes.append(self)

    program = PATIENT.format(folder=str(tmp_path), obeys=False)
    monkeypatch.setattr(execution, "PROGRAM", ("-c", program))
    monkeypatch.setattr(execution.subprocess, "Popen", Recorded)
    interrupt_when((tmp_path / "started").exists)
    interrupt_when((tmp_path / "told").exists)
    with pytest.raises(KeyboardInterrupt):
        tk.run(recipe, runs_dir=runs, quiet=True)
    assert processes[0].wait(10) == -signal.SIGKILL


@pytest.mark.slow
def test_interrupted_training_can_be_resumed(old_runs, tmp_path, runs):
    path = tmp_path / "recipes" / "pretrain.yaml"
    path.parent.mkdir()
    text = (old_runs.parent / "recipes" / "pretrain.yaml").read_text()
    path.write_text(text.replace("train_tokens: 6144", "train_tokens: 6144000"))
    changes = {"tokens": tk.Run(old_runs / "corpus")}
    run = tk.Run(runs / "pretrain")
    folder = run.path / "checkpoints"
    steps = [0]
    for _ in range(2):
        before = steps[-1]
        interrupt_when(lambda before=before: any(step > before for step, _ in checkpoint.steps(folder)))
        with pytest.raises(KeyboardInterrupt):
            tk.run(path, changes, runs_dir=runs, quiet=True)
        step, newest = checkpoint.steps(folder)[-1]
        assert run.state == "unfinished" and checkpoint.is_whole(newest)
        steps.append(step)
    assert 0 < steps[1] < steps[2]
