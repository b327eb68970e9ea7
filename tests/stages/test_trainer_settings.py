"""Each setting of `trainer:` is carried out, and its state survives an interruption."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

from tests.chat_fixtures import (
    built_trainer,
    load_recipe,
    metrics,
    run_stage,
    write_conversations,
    write_model,
    write_preferences,
)
from tests.stages.test_trainer_runner import KILL_MAIN_WHILE_SAVING
from toolkit.base.errors import RecipeError, ToolkitError
from toolkit.cli.run import run_command
from toolkit.config import trl_checks
from toolkit.execution import machine_checks
from toolkit.execution.check import check_recipes
from toolkit.stages import dpo, reward, sft, trainer_runner

MODULES = {"sft": sft, "reward": reward, "dpo": dpo}
BASE: dict[str, Any] = {"max_steps": 6, "learning_rate": 1e-3}
WARM = {"warmup_steps": 2}
WSD = {"lr_scheduler_type": "warmup_stable_decay"}

# What it is compared with, and the settings that are added: other weights come out.
OTHER_WEIGHTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"learning_rate": 1e-2}),
    ({}, {"max_steps": 5}),
    ({}, WARM),
    ({}, {"warmup_steps": 0.5}),
    ({}, {"lr_scheduler_type": "cosine"}),
    ({"lr_scheduler_type": "cosine"}, {"lr_scheduler_kwargs": {"num_cycles": 2}}),
    ({}, {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 3.0}}),
    ({}, {"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 2}}),
    ({}, {**WSD, "lr_scheduler_kwargs": {"num_decay_steps": 2}}),
    (
        {**WSD, **WARM, "lr_scheduler_kwargs": {"num_decay_steps": 2}},
        {"lr_scheduler_kwargs": {"num_decay_steps": 2, "warmup_type": "1-sqrt", "decay_type": "linear"}},
    ),
    ({}, {"optim": "adafactor"}),
    ({}, {"optim": "sgd"}),
    ({"optim": "sgd"}, {"optim_args": "momentum=0.9,nesterov=true"}),
    ({"optim": "adagrad"}, {"optim_args": "lr_decay=0.5,eps=0.1"}),
    ({"optim": "rmsprop"}, {"optim_args": "alpha=0.5,centered=true"}),
    ({"optim": "sgd"}, {"weight_decay": 0.5}),
    ({}, {"adam_beta1": 0}),
    ({}, {"adam_beta2": 0.5}),
    ({}, {"adam_epsilon": 1e-2}),
    ({}, {"max_grad_norm": 0.01}),
    ({}, {"neftune_noise_alpha": 5.0}),
    ({}, {"train_sampling_strategy": "sequential"}),
    ({}, {"train_sampling_strategy": "group_by_length"}),
    ({}, {"max_length": 24}),
    ({}, {"pad_to_multiple_of": 32}),
]
OTHER_WEIGHTS_OF: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "sft": [
        ({}, {"label_smoothing_factor": 0.1}),
        ({}, {"completion_only_loss": False}),
        ({}, {"loss_type": "dft"}),
    ],
    "reward": [({}, {"disable_dropout": False}), ({}, {"center_rewards_coefficient": 0.5})],
    "dpo": [
        ({}, {"disable_dropout": False}),
        ({}, {"beta": 0.5}),
        ({}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
        ({"loss_type": ["sigmoid", "sft"]}, {"loss_weights": [1.0, 0.5]}),
        *(
            ({}, {"loss_type": loss})
            for loss in trl_checks.choices("loss_type", trl_checks.fields("dpo")["loss_type"])
            if loss not in ("sigmoid", "exo_pair", "robust")
        ),
        ({}, {"loss_type": "exo_pair", "label_smoothing": 0.1}),
        ({}, {"loss_type": "robust", "label_smoothing": 0.1}),
        ({"loss_type": "aot", "label_smoothing": 0.1}, {"label_smoothing": 0.3}),
        ({}, {"f_divergence_type": "forward_kl"}),
        ({}, {"f_divergence_type": "js_divergence"}),
        ({"f_divergence_type": "alpha_divergence"}, {"f_alpha_divergence_coef": 0.9}),
        ({}, {"ld_alpha": 0.5}),
        ({}, {"use_weighting": True}),
        *(
            ({"loss_type": loss}, {"use_weighting": True})
            for loss in ("ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "sigmoid_norm")
        ),
        ({"loss_type": "discopop"}, {"discopop_tau": 0.5}),
        ({}, {"sync_ref_model": True, "ref_model_sync_steps": 2}),
        ({"sync_ref_model": True, "ref_model_sync_steps": 2}, {"ref_model_mixup_alpha": 0.1}),
    ],
}
SAME_WEIGHTS: dict[str, dict[str, Any]] = {
    "activation_checkpointing": {"activation_checkpointing": True},
    "activation_checkpointing_kwargs": {
        "activation_checkpointing": True,
        "activation_checkpointing_kwargs": {"use_reentrant": True},
    },
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "gradient_checkpointing_kwargs": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"preserve_rng_state": True},
    },
    "dataloader_num_workers": {"dataloader_num_workers": 1},
    "dataloader_prefetch_factor": {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 3},
    "dataloader_multiprocessing_context": {
        "dataloader_num_workers": 1,
        "dataloader_multiprocessing_context": "fork",
    },
    "precompute_ref_log_probs": {"precompute_ref_log_probs": True},
    "precompute_ref_batch_size": {"precompute_ref_log_probs": True, "precompute_ref_batch_size": 3},
}
"""Settings of memory and speed; see `test_settings_of_memory_and_speed_reach_their_part`."""
ON_A_GPU = {"activation_offloading", "tf32", "torch_empty_cache_steps", "dataloader_pin_memory"}
COMPILED = {"torch_compile", "torch_compile_backend", "torch_compile_mode"}
ELSEWHERE = {
    "num_train_epochs",  # test_steps_follow_from_epochs_or_max_steps
    "assistant_only_loss",  # what the toolkit does by default
    "router_aux_loss_coef",  # only of mixtures of experts
    "label_smoothing_factor",  # has no effect in reward and dpo, and is refused there
    "optim_target_modules",  # only of optimizers that need a package
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with an untrained model with dropout, conversations and preferences."""
    path = tmp_path_factory.mktemp("settings")
    write_model(path / "base", dropout=0.1)
    write_conversations(path / "conversations.jsonl")
    write_preferences(path / "preferences.jsonl")
    return path


def load(folder: Path, name: str, stage: str, trainer: dict[str, Any], **settings: Any):
    data = "conversations" if stage == "sft" else "preferences"
    content = {
        "stage": stage,
        "model": f"{folder}/base",
        "data": {"name": f"{folder}/{data}.jsonl"},
        "batch_examples": 8,
        "micro_batch_examples": 4,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "trainer": {**BASE, **trainer},
        **settings,
    }
    return load_recipe(folder, f"{stage}-{name}", json.dumps(content))


def weights(path: Path) -> bytes:
    return (path / "model" / "model.safetensors").read_bytes()


def train(folder: Path, name: str, stage: str, trainer: dict[str, Any], **settings: Any) -> Path:
    return run_stage(MODULES[stage], folder, load(folder, name, stage, trainer, **settings))


def interrupted_and_resumed(
    folder: Path, monkeypatch, name: str, stage: str, trainer: dict[str, Any], **settings: Any
) -> Path:
    """Return a run that was interrupted after its first three steps, and then went on."""
    steps = iter([False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr(trainer_runner.signals, "stop_requested", lambda: next(steps))
        with pytest.raises(KeyboardInterrupt):
            train(folder, name, stage, trainer, **settings)
    assert not (folder / "runs" / f"{stage}-{name}" / "model").exists()
    return train(folder, name, stage, trainer, **settings)


EPOCH = {"max_steps": -1, "num_train_epochs": 1}
SYNCED = {"sync_ref_model": True, "ref_model_sync_steps": 2}


def test_resumed_dpo_keeps_the_reference_that_changes(folder, monkeypatch):
    data = {"name": f"{folder}/preferences.jsonl", "held_out": "none"}  # nothing to measure at the end
    whole = train(folder, "whole", "dpo", SYNCED, data=data)
    resumed = interrupted_and_resumed(folder, monkeypatch, "resumed", "dpo", SYNCED, data=data)
    assert weights(resumed) == weights(whole)
    reference = load_file(whole / "checkpoints" / "step-00000006" / dpo.REFERENCE_WEIGHTS)
    base = load_file(folder / "base" / "model.safetensors")
    assert any((reference[name] != base[name]).any() for name in reference.keys() & base.keys())


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"pad_to_multiple_of": 64}, "padded to a multiple of 64"),
        ({"router_aux_loss_coef": 0.1}, "not a mixture of experts"),
        (
            {"max_steps": -1, "num_train_epochs": 1, "warmup_steps": 100},
            "warm-up are longer than the training, which has 6",
        ),
        ({**EPOCH, **SYNCED, "ref_model_sync_steps": 7}, "has no effect"),
    ],
)
def test_settings_that_do_not_fit_model_or_data_are_refused_before_training(
    folder, monkeypatch, trainer, message
):
    monkeypatch.setattr(dpo, "quiet", lambda trainer: pytest.fail("a trainer was built"))
    with pytest.raises(ToolkitError, match=message) as caught:
        train(folder, "unfit", "dpo", trainer)
    assert caught.value.where.startswith("trainer.")


def test_settings_of_memory_and_speed_reach_their_part(folder, monkeypatch):
    trainer = {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 3,
               "dataloader_multiprocessing_context": "fork", "activation_checkpointing": True,
               "activation_checkpointing_kwargs": {"use_reentrant": True}}  # fmt: skip
    built = built_trainer(monkeypatch, sft, folder, load(folder, "parts", "sft", trainer))
    loader = built.get_train_dataloader()
    assert (loader.num_workers, loader.prefetch_factor) == (1, 3)
    assert loader.multiprocessing_context.get_start_method() == "fork"
    assert built.args.gradient_checkpointing
    assert built.args.gradient_checkpointing_kwargs == {"use_reentrant": True}
    precomputed = {"precompute_ref_log_probs": True, "precompute_ref_batch_size": 3}
    built = built_trainer(monkeypatch, dpo, folder, load(folder, "parts", "dpo", precomputed))
    assert {"ref_chosen_logps", "ref_rejected_logps"} <= set(built.train_dataset.column_names)


def test_each_setting_is_carried_out_in_a_test_or_refused():
    for stage in MODULES:
        tried = {key for _, mutation in OTHER_WEIGHTS + OTHER_WEIGHTS_OF[stage] for key in mutation}
        tested = tried | SAME_WEIGHTS.keys() | ON_A_GPU | COMPILED | ELSEWHERE
        assert set(trl_checks.settable(stage)) - tested == set(), stage


def test_settings_of_a_gpu_are_refused_on_a_cpu(folder, monkeypatch):
    values = {"activation_offloading": True, "tf32": True, "torch_empty_cache_steps": 4,
              "dataloader_pin_memory": True}  # fmt: skip
    assert values.keys() == ON_A_GPU
    cases = [("cpu", True, 4), ("auto", False, 4), ("auto", True, 0), ("cuda", False, 0)]
    for device, has_gpu, refused in cases:
        monkeypatch.setattr(machine_checks.hardware, "has_gpu", lambda has_gpu=has_gpu: has_gpu)
        loaded = load(folder, "gpu", "sft", values, device=device)
        assert len(machine_checks.problems(loaded)) == refused
    assert machine_checks.problems(load(folder, "off", "sft", {"dataloader_pin_memory": False})) == []


def test_check_and_run_refuse_settings_of_a_gpu_on_a_cpu_before_anything_is_written(folder):
    recipes = folder / "recipes" / "gpu"
    recipes.mkdir(parents=True)
    text = load(folder, "cpu", "sft", {"tf32": True}).text
    (recipes / "sft.yaml").write_text(text)
    for path in (recipes, recipes / "sft.yaml"):
        report = check_recipes(path)
        assert [problem.key for problem in report.problems] == ["trainer.tf32"]
        assert not report.recipes[0].ok
        with pytest.raises(RecipeError, match="tf32: has an effect only on a GPU"):
            run_command(path, runs_dir=folder / "gpu-runs")
    assert not (folder / "gpu-runs").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # older names of settings, which upstream still reads
@pytest.mark.parametrize("stage", MODULES)
def test_settings_change_the_weights(folder, stage):
    seen: dict[str, bytes] = {}

    def trained(trainer: dict[str, Any]) -> bytes:
        key = json.dumps(trainer, sort_keys=True)
        if key not in seen:
            seen[key] = weights(train(folder, f"other-{len(seen)}", stage, trainer))
        return seen[key]

    for usual, mutation in OTHER_WEIGHTS + OTHER_WEIGHTS_OF[stage]:
        assert trained(usual) != trained({**usual, **mutation}), mutation
    for key, mutation in SAME_WEIGHTS.items():
        if key in trl_checks.settable(stage):
            assert trained({}) == trained(mutation), key


@pytest.mark.slow
@pytest.mark.parametrize("stage", MODULES)
def test_activation_checkpointing_with_adapters_computes_again_and_trains_the_same(
    folder, stage, monkeypatch
):
    forward, passes = GPT2MLP.forward, []

    def counted(module, *args, **options):
        passes.append(module.training)
        return forward(module, *args, **options)

    def trained(name, **trainer):
        passes.clear()
        path = train(folder, name, stage, trainer, lora={"r": 4, "target_modules": "all-linear"})
        return weights(path), sum(passes)

    monkeypatch.setattr(GPT2MLP, "forward", counted)
    plain, once = trained("adapters")
    for name, options in (("again", {}), ("reentrant", {"use_reentrant": True})):
        given = {"activation_checkpointing_kwargs": options} if options else {}
        again, number = trained(f"adapters-{name}", activation_checkpointing=True, **given)
        assert again == plain and number > once, name


STATES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *(("sft", {"optim": optim}, {}) for optim in ("adamw_torch", "adafactor", "adagrad", "rmsprop")),
    ("sft", {"optim": "sgd", "optim_args": "momentum=0.9"}, {}),
    *(("sft", {"lr_scheduler_type": name, **WARM}, {}) for name in ("cosine_with_restarts", "inverse_sqrt")),
    ("sft", {**WSD, **WARM, "lr_scheduler_kwargs": {"num_decay_steps": 3}}, {}),
    ("sft", {"neftune_noise_alpha": 5.0, "train_sampling_strategy": "group_by_length"}, {}),
    ("sft", {"dataloader_num_workers": 1, "activation_checkpointing": True}, {}),
    ("sft", {"label_smoothing_factor": 0.1}, {"lora": {"r": 4, "dropout": 0.1}}),
    ("sft", {"loss_type": "dft", "neftune_noise_alpha": 5.0}, {"lora": {"r": 4, "dropout": 0.1}}),
    ("reward", {"disable_dropout": False, "center_rewards_coefficient": 0.5}, {}),
    ("reward", {"disable_dropout": False}, {"lora": {"r": 4, "dropout": 0.1}}),
    *(
        ("dpo", {"loss_type": loss, **SYNCED}, {})
        for loss in trl_checks.choices("loss_type", trl_checks.fields("dpo")["loss_type"])
        if loss not in ("sft", "exo_pair", "robust")
    ),
    ("dpo", {"loss_type": "exo_pair", "label_smoothing": 0.1, **SYNCED}, {}),
    ("dpo", {"loss_type": "robust", "label_smoothing": 0.1, **SYNCED}, {}),
    ("dpo", {"disable_dropout": False, "use_weighting": True, **SYNCED}, {}),
    ("dpo", {"precompute_ref_log_probs": True, "disable_dropout": False}, {}),
    ("dpo", {"precompute_ref_log_probs": True}, {"lora": {"r": 4, "dropout": 0.1}}),
    ("dpo", {"f_divergence_type": "js_divergence", "ld_alpha": 0.5, **SYNCED}, {"log_every_steps": 4}),
]
"""Stage, settings that keep state from step to step, and settings beside `trainer`."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("stage", "trainer", "settings"), STATES)
def test_interrupted_training_with_state_resumes_bitwise(folder, monkeypatch, stage, trainer, settings):
    name = f"state-{STATES.index((stage, trainer, settings))}"
    whole = train(folder, f"{name}-whole", stage, trainer, **settings)
    resumed = interrupted_and_resumed(folder, monkeypatch, name, stage, trainer, **settings)
    assert weights(resumed) == weights(whole)
    last, expected = (metrics(path)[-1] for path in (resumed, whole))
    assert last == expected


@pytest.mark.slow
def test_reference_that_changes_is_resumed_on_two_processes(tmp_path):
    """Rank 0 writes it into the checkpoint, and every rank reads it."""
    write_model(tmp_path / "base")
    write_preferences(tmp_path / "preferences.jsonl")
    (tmp_path / "program.py").write_text(KILL_MAIN_WHILE_SAVING)
    trainer = {"max_steps": 12, **SYNCED}
    loaded = load(tmp_path, "two", "dpo", trainer, micro_batch_examples=2, checkpoint_every_steps=4)

    def toolkit(runs: str, **variables: str) -> int:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [sys.executable, *launcher, "program.py", "run", str(loaded.path), "--runs-dir", runs]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, timeout=300,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **variables},
        ).returncode  # fmt: skip

    assert toolkit("whole") == 0
    assert toolkit("killed", KILL="1") != 0
    assert [path.name for path in (tmp_path / "killed/dpo-two/checkpoints").glob("step-*")] == [
        "step-00000004"
    ]
    assert toolkit("killed") == 0
    assert weights(tmp_path / "killed/dpo-two") == weights(tmp_path / "whole/dpo-two")
