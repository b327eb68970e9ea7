import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from toolkit.base.errors import ToolkitError
from toolkit.config import schema
from toolkit.runtime import devices, env_vars, hardware

ROOT = Path(__file__).parents[2]
DATA = schema.DataSource(name="storyworld", examples=1)


def recipe(**settings) -> schema.TokenizerRecipe:
    return schema.TokenizerRecipe(stage="tokenizer", data=DATA, **settings)


@pytest.fixture
def _as_before(monkeypatch):
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    for name in env_vars._ALWAYS | {"ACCELERATE_USE_CPU": ""}:
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.mark.usefixtures("_as_before")
def test_configure_sets_all_switches(monkeypatch):
    monkeypatch.setattr(hardware, "cores", lambda: 8)
    devices.configure(recipe())
    assert torch.get_num_threads() == 8 and torch.are_deterministic_algorithms_enabled()
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1" and os.environ["TOKENIZERS_PARALLELISM"] == "false"
    assert "ACCELERATE_USE_CPU" not in os.environ
    devices.configure(recipe(threads=3, device="cpu"))
    assert torch.get_num_threads() == 3 and os.environ["ACCELERATE_USE_CPU"] == "true"
    devices.configure(recipe(threads=3), threads=2)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("cores", "processes", "threads"), [(8, 1, 8), (8, 2, 4), (8, 3, 2), (2, 4, 1)])
def test_threads_share_the_cores(monkeypatch, cores, processes, threads):
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert devices.default_threads(recipe()) == threads
    assert devices.default_threads(recipe(threads=5)) == 5


def test_missing_gpu_is_reported(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ToolkitError, match="no GPU"):
        devices.select("cuda")
    assert devices.select("auto") == devices.select("cpu") == torch.device("cpu")


def test_every_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.select("auto") == torch.device("cuda", 1)
    assert devices.select("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ToolkitError, match="process 2 has no GPU: there are 2"):
        devices.select("cuda")


@pytest.mark.parametrize(
    ("flags", "chosen"), [([], "fp32"), (["avx512_bf16"], "bf16"), (["amx_bf16"], "bf16")]
)
def test_automatic_precision_follows_the_processor(monkeypatch, flags, chosen):
    monkeypatch.setattr(hardware, "processor", lambda: {"bf16": flags})
    assert devices.precision("auto", torch.device("cpu")) == chosen
    assert devices.precision("fp32", torch.device("cpu")) == "fp32"
    assert devices.precision("bf16", torch.device("cpu")) == "bf16"


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_automatic_precision_follows_the_gpu(monkeypatch, native, chosen):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert devices.precision("auto", torch.device("cuda", 0)) == chosen


def test_processes_and_accelerate_must_agree(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    devices.require_agreement(8)
    with pytest.raises(ToolkitError, match="started 8 processes, but Accelerate sees 1"):
        devices.require_agreement(1)


def test_telemetry_is_off_once_the_variables_are_set():
    code = (
        "from toolkit.runtime import env_vars; env_vars.set_variables()\n"
        "from huggingface_hub import constants; assert constants.HF_HUB_DISABLE_TELEMETRY"
    )
    environ = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environ)
