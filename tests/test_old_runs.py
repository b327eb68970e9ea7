"""Runs of an older version are still valid and give the output that the old version printed.

`fixtures/old_run` holds recipes, the sealed runs that `toolkit run recipes --runs-dir runs` of commit 4a212c1
made of them, and in `reports/` what its verbs then printed (`command`, `exit_status`, `output`). A command
names every option whose default has changed since.

Token ids, batch digests and everything else that is counted must be the same everywhere. Floats must have the
same bits where processor and package versions are those that made the runs; else they may differ as
`TOLERANCE` says. That a run trained here is replayed here with the same bits, on any processor, is tested by
tests/pretrain/test_replay.py.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.base import files
from toolkit.cli import main
from toolkit.runs import provenance, seal
from toolkit.runtime import hardware
from toolkit.storyworld import LARGE

FIXTURE = Path(__file__).parent / "fixtures" / "old_run"
ROOT = Path(__file__).parents[1]
RUNS = ("tokenizer", "corpus", "pretrain", "sft", "reward", "dpo", "ppo", "evaluate")
FOLLOW_THE_MACHINE = {"environment", "tier"}
"""Keys of the JSON that say what is different here; the commit of the code always is."""
TOLERANCE = 1e-5
"""Relative, and absolute below 1. Other kernels add fp32 numbers in another order: with
ATEN_CPU_CAPABILITY=default, ONEDNN_MAX_CPU_ISA=SSE41 and MKL_CBWR=COMPATIBLE no number differs by more than
1e-6, after twelve training steps either. This is ten times that."""
KERNELS = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
)
"""Variables that choose other kernels."""


def report(name: str) -> dict[str, Any]:
    return json.loads((FIXTURE / "reports" / f"{name}.json").read_text(encoding="utf-8"))


def processor() -> dict[str, Any]:
    """Return the CPU features that select kernels; a virtual machine may hide the model name."""
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        found[key.strip()] = value.strip()
    flags = " ".join(sorted(found.get("flags", "").split()))
    names = ("vendor_id", "cpu family", "model", "stepping")
    return {name: found.get(name) for name in names} | {"flags": hashlib.sha256(flags.encode()).hexdigest()}


def same_bits() -> bool:
    """Return whether this machine computes the same bits as the machine of the fixture."""
    made = files.read_json(FIXTURE / "runs" / "pretrain" / "manifest.json")
    now = provenance.collect()
    return (
        platform.system() == "Linux"
        and all(made[key] == now[key] for key in ("versions", "python", "hardware"))
        and files.read_json(FIXTURE / "processor.json") == processor()
        and not any(name in os.environ for name in KERNELS)
    )


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """Copy the fixture and change into it."""
    place = tmp_path / "old"
    shutil.copytree(FIXTURE, place)
    monkeypatch.chdir(place)
    return place


def told(name: str, capfd, *, process: bool = False) -> tuple[int, Any]:
    """Run the verb of a report again and return its status and JSON.

    Args:
        process: in a process of its own, as for a user.
    """
    command = report(name)["command"]
    if process:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-m", "toolkit", *command], capture_output=True, text=True,
                              env=environment)  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        return done.returncode, json.loads(done.stdout)
    status = main.main(command)
    return status, json.loads(capfd.readouterr().out)


def differences(old: Any, new: Any, *, exact: bool, place: str = "") -> list[str]:
    """Return what differs in two JSON values; floats may differ by `TOLERANCE` unless `exact`.

    The new value may have further keys.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in old if key not in FOLLOW_THE_MACHINE]
        lines = [f"{place}.{key}: is missing" for key in keys if key not in new]
        for key in keys:
            if key in new:
                lines += differences(old[key], new[key], exact=exact, place=f"{place}.{key}")
        return lines
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line
            for index, (first, second) in enumerate(zip(old, new, strict=True))
            for line in differences(first, second, exact=exact, place=f"{place}[{index}]")
        ]
    if isinstance(old, float) and isinstance(new, float):
        if old == new or (not exact and math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=TOLERANCE)):
            return []
    elif type(old) is type(new) and old == new:
        return []
    return [f"{place}: {old!r} -> {new!r}"]


def test_comparison_detects_a_difference():
    value = {"a": [1, 1.0, "b", None], "environment": ["x"]}
    assert differences(value, {"a": [1, 1.0, "b", None], "environment": []}, exact=True) == []
    assert differences(value, {"a": [1, 1.0 + 1e-15, "b", None]}, exact=True) == [
        ".a[1]: 1.0 -> 1.000000000000001"
    ]
    assert differences(value, {"a": [1, 1.000005, "b", None]}, exact=False) == []
    for other in (
        [2, 1.0, "b", None],
        [1, 1.0001, "b", None],
        [1, 1.0, "c", None],
        [1, 1.0, "b"],
        [1, 1, "b", None],
    ):
        assert differences(value, {"a": other}, exact=False)


# Sealed, and nothing to do


@pytest.mark.parametrize("run", RUNS)
def test_old_chain_verifies(old, capfd, run):
    status, output = told(f"verify-{run}", capfd)
    assert status == 0 and output == report(f"verify-{run}")["output"]


def test_changed_byte_of_an_old_run_is_detected(old, capfd):
    weights = old / "runs/pretrain/model/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert main.main(["verify", "runs/dpo", "--json"]) == 1
    assert "model/model.safetensors" in capfd.readouterr().out


def test_old_recipes_report_nothing_to_do(old, capfd):
    before = {run: seal.digest(old / "runs" / run) for run in RUNS}
    assert main.main(["run", "recipes", "--runs-dir", "runs"]) == 0
    assert "everything is finished, nothing to do" in capfd.readouterr().err
    for run in RUNS:
        assert main.main(["run", f"recipes/{run}.yaml", "--runs-dir", "runs"]) == 0
        assert "finished already, nothing to do" in capfd.readouterr().err
        assert seal.verify(old / "runs" / run) == []
    assert {run: seal.digest(old / "runs" / run) for run in RUNS} == before


@pytest.mark.parametrize(
    ("recipe", "change", "message"),
    [
        ("pretrain", "seed=1", "seed: 0 -> 1"),
        ("ppo", "trainer.kl_in=loss", 'trainer.kl_in: "reward" -> "loss"'),
        ("evaluate", "perplexity.packed=true", "perplexity.packed: false -> true"),
        ("corpus", "data.examples=81", "data.examples: 80 -> 81"),
    ],
)
def test_changed_settings_of_an_old_run_are_refused(old, capfd, recipe, change, message):
    assert main.main(["run", f"recipes/{recipe}.yaml", change, "--runs-dir", "runs"]) != 0
    assert message in capfd.readouterr().err


def test_old_storyworld_digest_counts_as_the_same_data(old, capfd):
    file = old / "runs/corpus/manifest.json"
    content = files.read_json(file)
    recorded = content["inputs"]["data"]["data"]
    assert recorded != f"storyworld:{LARGE.digest}"  # nevertheless there is nothing to do, see above
    content["inputs"]["data"]["data"] = f"storyworld:{'0' * 64}"
    files.write_json(file, content)
    assert main.main(["run", "recipes/corpus.yaml", "--runs-dir", "runs"]) == 1
    assert "data: other data: storyworld:0..." in capfd.readouterr().err


# The same tokens and the same numbers


@pytest.mark.parametrize("step", [1, 12])
def test_old_step_reads_the_same_tokens(old, capfd, step):
    status, output = told(f"batch-{step}", capfd)
    assert status == 0 and output == report(f"batch-{step}")["output"] and output["same_as_recorded"]


@pytest.mark.parametrize("steps", [6, 12])
def test_old_pretraining_replays_from_checkpoint_and_start(old, capfd, steps):
    status, output = told(f"replay-{steps}", capfd)
    before, now = report(f"replay-{steps}")["output"], output["replay"]
    assert [row["batch"] for row in now["losses"]] == [row["recorded_batch"] for row in now["losses"]]
    assert (now["from"], now["checkpoint"]) == (before["replay"]["from"], before["replay"]["checkpoint"])
    if same_bits():
        assert status == 0 and differences(before, output, exact=True) == []
    else:  # the weights differ in their last bits: what is compared are losses and gradient norms
        assert output["whole"]
        assert differences(before["replay"]["losses"], now["losses"], exact=False) == []
        assert [(entry["what"], entry["tensors"]) for entry in now["states"]] == [
            (entry["what"], entry["tensors"]) for entry in before["replay"]["states"]
        ]


@pytest.fixture
def as_started():
    """PyTorch as a new process has it, not as other tests left it: starting one takes 8 s of CPU time."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(hardware.cores())
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


@pytest.mark.parametrize(
    "name",
    [
        "evaluate-corpus",
        "next",
        pytest.param("generate", marks=pytest.mark.slow),
        pytest.param("evaluate-win-rate", marks=pytest.mark.slow),
        pytest.param("evaluate-reward", marks=pytest.mark.slow),
    ],
)
def test_old_models_evaluate_to_the_same_numbers(old, capfd, as_started, name):
    status, output = told(name, capfd)
    assert status == 0 and differences(report(name)["output"], output, exact=same_bits()) == []


@pytest.mark.parametrize(
    "name",
    [
        "corpus",
        *(pytest.param(entry, marks=pytest.mark.slow) for entry in ("tokenizer", "pretrain", "sft", "dpo")),
    ],
)
def test_old_run_is_reproduced(old, capfd, name):
    status, output = told(f"reproduce-{name}", capfd, process=True)
    before = report(f"reproduce-{name}")["output"]
    assert [row["file"] for row in output["files"]] == [row["file"] for row in before["files"]]
    if name in ("corpus", "tokenizer"):  # their evaluations have further keys: the table of their rows
        added = {"file": "evaluation.json", "result": "same", "note": "apart from times"}
        assert added in output["files"]
        output["files"][output["files"].index(added)]["note"] = ""
    for row, old_row in zip(output["files"], before["files"], strict=True):
        if row["file"].endswith("tokenizer_config.json"):  # the old one has keys that follow HF_HUB_OFFLINE
            assert row["result"] == "same"
            row["note"] = old_row["note"]
    if name in ("tokenizer", "corpus") or same_bits():
        assert status == 0 and differences(before, output, exact=True) == []
    else:
        settled = {row["file"] for row in before["files"] if "tokenizer" in row["file"]}
        wrong = [row for row in output["files"] if row["file"] in settled and row["result"] == "differs"]
        assert settled and wrong == []
