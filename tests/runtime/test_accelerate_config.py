"""The recipe decides: what a launcher or a variable would change behind it is refused."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from toolkit.base.errors import ToolkitError, UsageError
from toolkit.config.schema import EvaluateRecipe, PretrainRecipe
from toolkit.runtime import accelerate_config

ROOT = Path(__file__).parents[2]
RECIPE = PretrainRecipe(stage="pretrain", tokens="runs/t/corpus", train_tokens=4096)
LAUNCH = {"distributed_type": "MULTI_GPU", "num_processes": 2, "mixed_precision": "no"}


@pytest.mark.parametrize(
    ("name", "value", "harmless"),
    [
        ("ACCELERATE_MIXED_PRECISION", "fp16", "no"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "bf16"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "NO"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "1"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "false"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "false"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "false"),
        ("ACCELERATE_TORCH_DEVICE", "cpu", ""),
        ("NVIDIA_TF32_OVERRIDE", "1", "0"),
        ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1", "0"),
        ("TORCHDYNAMO_DISABLE", "1", "0"),
        ("TORCH_COMPILE_DISABLE", "1", "0"),
    ],
)
def test_variable_that_changes_results_is_refused(monkeypatch, name, value, harmless):
    monkeypatch.setenv(name, harmless)
    accelerate_config.require_supported(RECIPE)
    monkeypatch.setenv(name, value)
    with pytest.raises(ToolkitError) as caught:
        accelerate_config.require_supported(RECIPE)
    assert name in caught.value.what or "is not supported" in caught.value.what


@pytest.mark.parametrize(
    ("recipe", "agrees"),
    [
        (RECIPE, True),  # auto: compared when it is decided
        (RECIPE.model_copy(update={"precision": "bf16"}), True),
        (RECIPE.model_copy(update={"precision": "fp32"}), False),
        (EvaluateRecipe(stage="evaluate", models=["runs/t/dpo"], samples=["Hello"]), True),  # trains nothing
    ],
    ids=["auto", "bf16", "fp32", "without"],
)
def test_mixed_precision_is_accepted_where_the_recipe_says_the_same(monkeypatch, recipe, agrees):
    accelerate_config.require_supported_configuration(
        {**LAUNCH, "mixed_precision": "bf16"}, where="launch.yaml"
    )
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    if agrees:
        accelerate_config.require_same_precision(recipe, {"mixed_precision": "bf16"}, where="launch.yaml")
        accelerate_config.require_supported(recipe)
        return
    with pytest.raises(
        UsageError, match="is 'bf16', but `precision` of the pretrain recipe is another"
    ) as caught:
        accelerate_config.require_same_precision(recipe, {"mixed_precision": "bf16"}, where="launch.yaml")
    assert caught.value.where == "launch.yaml"
    with pytest.raises(ToolkitError, match="ACCELERATE_MIXED_PRECISION is 'bf16'"):
        accelerate_config.require_supported(recipe)


def test_automatic_precision_is_compared_when_it_is_decided(monkeypatch):
    from toolkit.runtime import devices, hardware

    cpu = devices.torch.device("cpu")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setattr(hardware, "processor", lambda: {"bf16": ["amx_bf16"]})
    assert devices.precision("auto", cpu) == "bf16"
    monkeypatch.setattr(hardware, "processor", lambda: {"bf16": []})
    with pytest.raises(
        ToolkitError, match="is 'bf16', but `precision` of the recipe decides, which is fp32 here"
    ):
        devices.precision("auto", cpu)


def test_compilation_that_is_off_anyway_may_be_turned_off(monkeypatch):
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    accelerate_config.require_supported(RECIPE.model_copy(update={"compile": False}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixed_precision": "fp16"}, "mixed_precision is 'fp16', but `precision` of the recipe decides"),
        ({"fp16": True}, "fp16 is True"),
        ({"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, "dynamo_backend is 'INDUCTOR'"),
        ({"dynamo_backend": "EAGER"}, "dynamo_backend is 'EAGER'"),
        ({"parallelism_config": {"parallelism_config_tp_size": 2}}, "parallelism_config is"),
        ({"distributed_type": "NO"}, "num_processes: 2 with distributed_type: NO would start one process"),
        ({"distributed_type": False}, "would start one process"),  # NO without quotes
        ({"distributed_type": "XLA"}, "distributed_type: XLA is not supported"),
        ({"distributed_type": "MULTI_NPU"}, "MULTI_NPU is not supported"),
        ({"num_processes": 0}, "num_processes must be a positive integer, not 0"),
        ({"num_processes": "two"}, "num_processes must be a positive integer, not 'two'"),
    ],
)
def test_launch_file_that_decides_for_the_recipe_is_refused(settings, message):
    accelerate_config.require_supported_configuration(LAUNCH, where="launch.yaml")
    with pytest.raises(UsageError) as caught:
        accelerate_config.require_supported_configuration({**LAUNCH, **settings}, where="launch.yaml")
    assert message in caught.value.what and caught.value.where == "launch.yaml"


def test_shipped_launch_files_are_accepted():
    for path in (ROOT / "accelerate_config.yaml", *(ROOT / "recipes/accelerate").glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        accelerate_config.require_supported_configuration(content, where=str(path))


READ_BACK = """
    import os
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from toolkit.base.errors import ToolkitError
    from toolkit.runtime import devices
    for name, value in (("MIXED_PRECISION", "bf16"), ("DYNAMO_BACKEND", "EAGER"), ("MIXED_PRECISION", "no")):
        os.environ["ACCELERATE_" + name] = value
        accelerator = Accelerator(cpu=True)
        try:
            devices.require_as_recorded(accelerator, bf16=False)
            print("as recorded")
        except ToolkitError as error:
            print(error.what)
        del os.environ["ACCELERATE_" + name]
        AcceleratorState._reset_state(True)
"""


def test_what_accelerate_does_is_compared_with_what_the_run_records():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    code = textwrap.dedent(READ_BACK)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        "Accelerate is set to mixed precision 'bf16', but the recipe to 'no'",
        "Accelerate is set to compilation True, but the recipe to False",
        "as recorded",
    ], done.stderr
