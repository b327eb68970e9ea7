"""Stages of a folder that run side by side: two toy stages, each in a process of its own."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.execution.test_runner import PROGRAM, finish, run, start, wait_for_step
from tests.runs.small_runs import tokenizer
from toolkit.base import files
from toolkit.config import schema
from toolkit.execution import folder as folder_module
from toolkit.execution import launching
from toolkit.runs import layout, seal
from toolkit.runtime import hardware, signals

STAGES = ["a", "b"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two independent recipes."""
    recipes = tmp_path / "recipes" / "t"
    recipes.mkdir(parents=True)
    (tmp_path / "data.txt").write_text("hello\n")
    for seed, name in enumerate(STAGES):
        text = f"stage: tokenizer\nseed: {seed}\ndata: {{name: {tmp_path / 'data.txt'}}}\n"
        (recipes / f"{name}.yaml").write_text(text)
    return tmp_path


def wait_for_both(process: subprocess.Popen, step: int) -> str:
    """Wait until both stages have printed that they are at a step, and return what was printed."""
    text = ""
    for line in process.stderr:
        text += line
        if all(f"{name} | at step {step}\n" in text for name in STAGES):
            return text
    raise AssertionError(text)


def test_independent_stages_run_at_the_same_time_and_compute_the_same(folder):
    """test_pipeline.py compares the weights of trained models."""
    weights = [folder / "runs" / "t" / name / "model" / "weights.txt" for name in STAGES]
    _, err = run(folder, "recipes/t", TOY_MEET_AT="2")
    together = [path.read_bytes() for path in weights]
    assert all(seal.verify(folder / "runs" / "t" / name) == [] for name in STAGES)
    assert re.findall(r"^\[(\d/2)\] tokenizer  recipes/t/(\w).yaml", err, re.M) == [
        ("1/2", "a"),
        ("2/2", "b"),
    ]
    for name in STAGES:
        assert f"{name} | 3/3 steps, total" in err and f"{name} | runs/t/{name}: finished and sealed" in err
    assert "\x1e" not in err

    for name in STAGES:
        shutil.rmtree(folder / "runs" / "t" / name)
    _, err = run(folder, "recipes/t", "--jobs", "1")
    assert [path.read_bytes() for path in weights] == together == [b"3\n", b"6\n"]
    assert " | " not in err and err.index("t/a: finished and sealed") < err.index("[2/2]")


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGTERM, signal.SIGHUP))],
)
def test_signal_stops_all_stages_and_the_same_command_resumes_them(folder, number):
    process = start(folder, "recipes/t", TOY_STOP_AT="2")
    wait_for_both(process, 2)
    process.send_signal(number)
    _, err = finish(process, 130)
    assert err.count("the same command resumes from step 2") == 2 and "Traceback" not in err
    assert "stopped in tokenizer and tokenizer; the same command continues with these stages" in err
    _, err = run(folder, "recipes/t")
    assert err.count("resuming from step 2") == 2
    for name in STAGES:
        evaluation = files.read_json(folder / "runs" / "t" / name / layout.EVALUATION)
        assert evaluation["steps_here"] == 1 and seal.is_sealed(folder / "runs" / "t" / name)


def test_failing_stage_stops_the_others_in_order(folder):
    _, err = run(folder, "recipes/t", status=1, TOY_FAIL="t/a", TOY_MEET_AT="1", TOY_STOP_AT="2")
    assert "a | toy.txt: a toy's complaint" in err and "tokenizer failed; stopping tokenizer" in err
    assert "b | runs/t/b: interrupted; the same command resumes from step" in err
    assert err.rstrip().endswith("toolkit run recipes/t/a.yaml --runs-dir runs") and "Traceback" not in err
    assert "tokenizer failed (exit status 1); finished stages are kept" in err
    _, err = run(folder, "recipes/t")
    assert err.count("finished and sealed") == 2 and "b | runs/t/b: not finished yet, resuming" in err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_idle_core_loads_the_libraries_of_a_later_stage(folder):
    """Its process ends with an interrupted run, and runs the stage in its turn."""
    recipes = folder / "recipes" / "t"
    source = (recipes / "a.yaml").read_text().splitlines()[-1]
    (recipes / "b.yaml").write_text(f"stage: corpus\ntokenizer: runs/t/a\nworkers: 1\n{source}\n")
    (recipes / "c.yaml").write_text("stage: pretrain\ntokens: runs/t/b\ntrain_tokens: 8192\nthreads: 1\n")
    process = start(folder, "recipes/t", TOY_STOP_AT="2")
    wait_for_step(process, 2)
    while len(processes := signals.children(process.pid)) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = finish(process, 130)
    assert "stopped in tokenizer; the same command continues with this stage" in err
    assert not any(Path(f"/proc/{pid}").exists() for pid in processes)
    run(folder, "recipes/t")
    assert files.read_json(folder / "runs" / "t" / "c" / layout.EVALUATION) == {"preloaded": True}


@pytest.mark.slow
def test_terminal_shows_bars_that_the_stages_report(folder, monkeypatch):
    for name, value in (("TOY_WITHOUT_TORCH", "1"), ("TOY_MEET_AT", "2"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        command = [sys.executable, str(PROGRAM), "run", "recipes/t", "--runs-dir", "runs"]
        os.execv(sys.executable, command)
    shown = b""
    with suppress(OSError):  # Linux: the other end was closed
        while piece := os.read(terminal, 10_000):
            shown += piece
    os.close(terminal)
    assert os.waitpid(process, 0)[1] == 0
    for text in ("a | ", "b | ", "\u2501", "3/3 steps, total", "finished and sealed"):
        assert text in shown.decode()
    assert re.search("\u2501 [12]/3 steps, total", re.sub(r"\x1b\[[0-9;?]*\w", "", shown.decode()))
    assert "\x1e" not in shown.decode()


def test_jobs_are_an_option_of_the_folder_only():
    options = launching.RunOptions(Path("runs"), jobs=2)
    assert launching.arguments(Path("r"), [], options) == ["run", "r", "--runs-dir", "runs", "--jobs", "2"]
    loaded = tokenizer()
    assert "--jobs" not in launching.stage_arguments(loaded, options)


@pytest.mark.slow
def test_killing_the_runner_kills_all_stages(folder):
    process = start(folder, "recipes/t", TOY_STOP_AT="1")
    wait_for_both(process, 1)
    process.kill()
    finish(process, -signal.SIGKILL)  # returns only after both stages have closed the pipe
    _, err = run(folder, "recipes/t")
    assert err.count("resuming from step 1") == 2


def test_cores_of_a_stage(monkeypatch):
    monkeypatch.setattr(hardware, "cores", lambda: 8)
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    source = schema.DataSource(name="storyworld")
    sft = schema.SftRecipe(stage="sft", model="gpt2", data=source, threads=2)
    assert folder_module.cores_of(sft) == 2
    assert folder_module.cores_of(sft.model_copy(update={"threads": None})) == 8
    assert folder_module.cores_of(sft, launched=True) == 8
    tokenizer = schema.TokenizerRecipe(stage="tokenizer", data=source)
    assert folder_module.cores_of(tokenizer) == folder_module.cores_of(tokenizer, launched=True) == 1
    corpus = schema.CorpusRecipe(stage="corpus", tokenizer="runs/t", data=source)
    assert folder_module.cores_of(corpus) == 8
    assert folder_module.cores_of(corpus.model_copy(update={"workers": 2})) == 2
    preferences = schema.PreferencesRecipe(stage="preferences", threads=1, workers=2)
    assert folder_module.cores_of(preferences) == 2
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    assert folder_module.cores_of(sft) == 8
    assert folder_module.cores_of(sft.model_copy(update={"device": "cpu"})) == 2


@pytest.mark.parametrize(
    ("available", "order"),
    [(2**40, ["start a", "start b", "end", "end"]), (0, ["start a", "end", "start b", "end"])],
)
def test_stage_waits_for_memory_beside_another_one(folder, monkeypatch, available, order):
    happened, both = [], threading.Event()

    def start_process(loaded, options, *, captured):
        happened.append(f"start {loaded.path.stem}")
        if happened == ["start a", "start b"]:
            both.set()

        def wait():
            both.wait(0.3)
            happened.append("end")
            return 0

        return launching.StageProcess(SimpleNamespace(stdout=None, wait=wait))

    monkeypatch.chdir(folder)
    monkeypatch.setattr(hardware, "cores", lambda: 2)
    monkeypatch.setattr(folder_module, "available_memory", lambda: available)
    monkeypatch.setattr(launching, "start", start_process)
    options = launching.RunOptions(Path("runs"))
    assert folder_module.run_folder(Path("recipes/t"), [], options, None).status == 0
    assert happened == order
