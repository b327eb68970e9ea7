"""How long OpenMP's waiting threads spin is chosen once, by the load of this process's cores."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from toolkit.cli import main
from toolkit.runtime import waiting


@pytest.fixture
def unset(monkeypatch):
    for variable in (waiting.WAIT_POLICY, waiting.SPIN_COUNT):
        monkeypatch.setenv(variable, "")  # so that the value is restored
        monkeypatch.delenv(variable)


@pytest.mark.parametrize(
    ("load", "torch_is_loaded", "variables", "chosen"),
    [
        (0.0, False, {}, "300000"),
        (0.2, False, {}, "300000"),
        (0.3, False, {}, "1000"),
        (0.0, False, {"WORLD_SIZE": "2"}, "1000"),  # the other rank is loading its libraries
        (0.0, False, {"GOMP_SPINCOUNT": "7"}, "7"),
        (1.0, False, {"OMP_WAIT_POLICY": "ACTIVE"}, None),
        (1.0, True, {}, None),  # torch has read the variables
    ],
)
def test_spin_count_follows_the_load(unset, monkeypatch, load, torch_is_loaded, variables, chosen):
    monkeypatch.setattr(waiting, "other_load", lambda: load)
    monkeypatch.setitem(sys.modules, "torch", sys)
    if not torch_is_loaded:
        monkeypatch.delitem(sys.modules, "torch")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    waiting.spin_by_load()
    assert os.environ.get(waiting.SPIN_COUNT) == chosen


def test_run_passes_its_choice_to_its_stages(unset, tmp_path):
    recipe = tmp_path / "tokenizer.yaml"
    recipe.write_text("stage: tokenizer\ndata: {name: storyworld, examples: 10}\nvocab_size: 300\n")
    code = "import os; from toolkit.cli import main; main.main(); print(os.environ['GOMP_SPINCOUNT'])"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(recipe), "--runs-dir", str(tmp_path / "runs")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split()[-1] in ("1000", "300000"), done.stderr


@pytest.mark.parametrize(
    ("variables", "chosen"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_other_verbs_spin_briefly(unset, monkeypatch, variables, chosen, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main.main(["schema"]) == 0
    assert os.environ.get(waiting.SPIN_COUNT) == chosen


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processes that stay on a core")
def test_load_is_that_of_the_cores_of_this_process():
    cores = os.sched_getaffinity(0)
    core = min(cores)
    busy = f"import os; os.sched_setaffinity(0, [{core}]); print(1, flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            os.sched_setaffinity(0, {core})
            assert waiting.other_load() > 0.5
        finally:
            os.sched_setaffinity(0, cores)
            process.kill()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="other systems have no affinity")
def test_cores_of_other_programs_do_not_count(monkeypatch):
    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds, percpu: [50.0, 100.0, 25.0])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 7})
    assert waiting.other_load() == pytest.approx(0.75)
