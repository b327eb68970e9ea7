import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.base.errors import ToolkitError
from toolkit.config import schema
from toolkit.runtime import allocator, devices, env_vars, hardware

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
    ("built", "words"), [(True, "PyTorch sees no Apple GPU here"), (False, "PyTorch was built without MPS")]
)
def test_a_missing_apple_gpu_is_reported(monkeypatch, built, words):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: built)
    with pytest.raises(ToolkitError, match=f"device: mps, but {words}"):
        devices.select("mps")


@pytest.fixture
def apple(monkeypatch):
    """Let PyTorch report an Apple GPU, which nothing here computes on."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("apple")
def test_mps_is_taken_only_if_it_is_asked_for(monkeypatch):
    assert devices.select("mps") == torch.device("mps")
    assert devices.select("auto") == devices.select("cpu") == torch.device("cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ToolkitError, match="one GPU for one process, and 2 processes were started"):
        devices.select("mps")


@pytest.mark.usefixtures("apple")
def test_mps_computes_in_fp32_and_sums_without_float64(monkeypatch):
    mps, cpu = torch.device("mps"), torch.device("cpu")
    monkeypatch.setattr(hardware, "processor", lambda: {"bf16": ["bf16"]})  # as of an M2
    assert devices.precision("auto", mps) == "fp32" and devices.precision("auto", cpu) == "bf16"
    assert (devices.sum_dtype(mps), devices.sum_dtype(cpu)) == (torch.float32, torch.float64)
    arguments = devices.trainer_arguments(mps, bf16=False)
    assert arguments["use_cpu"] is False and arguments["bf16"] is False and arguments["ddp_backend"] is None
    assert allocator.configure(mps, keep=True) is False


@pytest.mark.parametrize("array", [np.array([1 / 3, 1.0]), np.array([1, 3])])
def test_arrays_keep_their_numbers_on_a_device_with_float64(array):
    tensor = devices.to_device(array, torch.device("cpu"))
    assert tensor.numpy().dtype == array.dtype and np.array_equal(tensor.numpy(), array)


def test_arrays_of_float64_get_the_dtype_of_sums(monkeypatch):
    monkeypatch.setattr(devices, "sum_dtype", lambda on: torch.float32)
    assert devices.to_device(np.array([0.1]), torch.device("cpu")).dtype == torch.float32


def test_no_tensor_of_a_device_becomes_float64():
    """MPS has no float64: tensors go to the CPU first, and sums have `devices.sum_dtype`."""
    for path in (ROOT / "toolkit").rglob("*.py"):
        code = path.read_text(encoding="utf-8")
        assert not re.findall(r"(?<!\.cpu\(\))\.double\(\)", code), path
        assert "dtype=torch.float64" not in code, path


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precision": "bf16"}, "device: mps computes in fp32, not with precision: bf16"),
        ({"compile": True}, "device: mps allows no compile: true"),
        ({"exact": True, "micro_batch_tokens": 64}, "device: mps allows no exact: true"),
    ],
)
def test_settings_that_mps_does_not_have_are_refused(settings, words):
    given = {"stage": "pretrain", "tokens": "runs/x/corpus", "train_tokens": 6400, "batch_tokens": 64}
    given |= {"model": {"n_positions": 64}}
    schema.PretrainRecipe.model_validate({**given, "device": "mps"})
    with pytest.raises(ValueError, match=words):
        schema.PretrainRecipe.model_validate({**given, **settings, "device": "mps"})


@pytest.mark.usefixtures("_as_before")
def test_variables_of_apple_computers(monkeypatch):
    monkeypatch.delenv("PYTORCH_ENABLE_MPS_FALLBACK", raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    env_vars.set_variables("mps")
    assert os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] == "1" and "ACCELERATE_USE_CPU" not in os.environ
    env_vars.set_variables("auto")
    assert os.environ["ACCELERATE_USE_CPU"] == "true"


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
