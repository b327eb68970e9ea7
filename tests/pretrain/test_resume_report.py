"""A run resumed elsewhere reports before its first step what changed and how that affects the result."""

from __future__ import annotations

import json
import shutil
from functools import cache

import pytest

from tests.pretrain.conftest import write_part, write_recipe
from toolkit.base import ranks
from toolkit.base.errors import RunError
from toolkit.config import loader
from toolkit.runs import checkpoint, opening, provenance
from toolkit.runs.opening import open_run
from toolkit.runtime import hardware

BITS_LOST = "each step still reads the same data; the same bits are not promised\n"
BITS_KEPT = "each step still reads the same data and computes the same bits"
EXACT = {"exact": True, "micro_batch_tokens": 32}


@pytest.fixture
def attempt(tmp_path, corpus, capsys, monkeypatch):
    """Open the run as on a machine with 4 cores and return the messages."""
    monkeypatch.setattr(hardware, "cores", lambda: 4)
    hardware.processor.cache_clear()

    def go(**settings) -> str:
        hardware.processor.cache_clear()
        loaded = loader.load(write_recipe(tmp_path, corpus, **settings))
        with open_run(loaded, runs_dir=tmp_path / "runs") as run:
            threads = loaded.recipe.threads or hardware.cores() // ranks.local_world_size()
            record = run.decide if opening.keeps_threads(run.manifest) else run.describe
            record("threads", threads)  # as execution.runner
            checkpoint.save(run, 4, lambda folder: (folder / "state").touch(), keep=1)
        return capsys.readouterr().err

    yield go
    hardware.processor.cache_clear()


def other_torch(patch):
    patch.setattr(provenance, "versions", lambda: {"torch": "1.0"})


def other_processor(patch):
    patch.setattr(hardware, "processor", cache(lambda: {"name": "an abacus", "bf16": [], "cores": 4}))


def more_cores(patch):
    patch.setattr(hardware, "cores", lambda: 8)


def fewer_cores(patch):
    patch.setattr(hardware, "cores", lambda: 2)


def two_processes(patch):
    patch.setenv("WORLD_SIZE", "2")
    patch.setenv("LOCAL_WORLD_SIZE", "2")


@pytest.mark.parametrize(
    ("change", "settings", "line", "promise"),
    [
        (other_torch, {}, 'versions.torch: "2', BITS_LOST),
        (other_torch, EXACT, 'versions.torch: "2', BITS_LOST),
        (other_processor, {}, '-> "an abacus"', BITS_LOST),
        (two_processes, {}, "world_size: 1 -> 2", BITS_LOST),
        (two_processes, EXACT, "world_size: 1 -> 2", BITS_KEPT + " (exact: true)\n"),
        (two_processes, {"threads": None}, "threads: 4 -> 2", BITS_LOST),
        (fewer_cores, {"threads": None}, "threads: 4 -> 2", BITS_LOST),
        (fewer_cores, {"threads": 2}, "hardware.processor.cores: 4 -> 2", BITS_KEPT + "\n"),
        (more_cores, {"threads": None}, "hardware.processor.cores: 4 -> 8", BITS_KEPT + "\n"),
    ],
)  # fmt: skip
def test_resume_reports_changes_and_their_effect(attempt, change, settings, line, promise):
    attempt(**settings)
    with pytest.MonkeyPatch.context() as patch:
        change(patch)
        message = attempt(**settings)
        assert "resuming from step 4" in message and "changed since the last attempt:" in message
        assert line in message and promise in message
        # compared with the last attempt and reported once
        assert "changed since the last attempt" not in attempt(**settings)


def test_resume_without_changes_reports_nothing(attempt):
    attempt()
    message = attempt()
    assert "resuming from" in message and "each step" not in message and "changed since" not in message


def test_changed_corpus_is_refused(tmp_path, corpus, tiny_tokenizer):
    """One changed document would break tier A; the message names the data setting."""
    own = tmp_path / "corpus"
    shutil.copytree(corpus, own)
    loaded = loader.load(write_recipe(tmp_path, own))
    with open_run(loaded, runs_dir=tmp_path / "runs") as run:
        (run.checkpoints / "step-00000004").mkdir(parents=True)
    with open_run(loaded, runs_dir=tmp_path / "runs"):
        pass
    shutil.rmtree(own / "train")
    write_part(own / "train", tiny_tokenizer, ["the river sings"] * 40)
    with (
        pytest.raises(RunError, match=r"made from other inputs:\n +tokens: another parent") as caught,
        open_run(loaded, runs_dir=tmp_path / "runs"),
    ):
        pass
    assert "corpus" in caught.value.what and "->" in caught.value.what
    assert caught.value.fix == "put them back, give another `run:`, or start over with --fresh"


def test_only_settings_without_effect_on_results_may_change(tmp_path, corpus):
    """time_limit_minutes and the number of kept checkpoints are not inputs; the learning rate is."""
    for settings in (
        {"time_limit_minutes": 5.0},
        {"time_limit_minutes": 7.5, "keep_checkpoints": 3},
        {"keep_every_tokens": 1024},
    ):
        loaded = loader.load(write_recipe(tmp_path, corpus, **settings))
        with open_run(loaded, runs_dir=tmp_path / "runs") as run:
            (run.checkpoints / "step-00000004").mkdir(parents=True, exist_ok=True)
        manifest = json.loads((tmp_path / "runs/t/first/manifest.json").read_text())
        name, value = next(iter(settings.items()))
        assert manifest["operational"][name] == value and name not in manifest["inputs"]["settings"]
    loaded = loader.load(write_recipe(tmp_path, corpus, optimizer={"learning_rate": 0.5}))
    with (
        pytest.raises(RunError, match="optimizer.learning_rate: null -> 0.5"),
        open_run(loaded, runs_dir=tmp_path / "runs"),
    ):
        pass
