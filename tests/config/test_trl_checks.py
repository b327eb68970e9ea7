"""`trainer:` settings are checked against the installed TRL without importing it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from toolkit.base.errors import ProblemKind
from toolkit.config import trl_checks
from toolkit.config.messages import Mistake
from toolkit.config.yaml_source import dotted, parse
from toolkit.runtime.devices import trainer_arguments

PACKAGE = Path(trl_checks.__file__).parent.parent


def read_cases():
    text = Path(__file__).with_name("bad_trainers.txt").read_text()
    for block in text.strip().split("\n\n")[1:]:
        head, _, expected = block.partition("\n  ")
        stage, _, trainer = head.partition(" ")
        yield pytest.param(stage, parse(trainer, "x").value, expected, id=f"{stage} {trainer}"[:60])


def outline(mistake: Mistake) -> str:
    """Return key and kind of an error, and the suggestion of its message."""
    suggested = re.search(r"did you mean (.+?)\?$", mistake.what)
    return f"{dotted(mistake.key)}: {mistake.kind}" + (f" -> {suggested[1]}" if suggested else "")


@pytest.mark.parametrize("stage,trainer,expected", list(read_cases()))
def test_invalid_or_ignored_trl_settings_are_refused(stage, trainer, expected):
    assert [outline(mistake) for mistake in trl_checks.check(stage, trainer)] == [expected]


@pytest.mark.parametrize("stage,trainer,message", [
    ("sft", {"beta": 1}, "unknown key: not a setting of trl.SFTConfig"),
    ("dpo", {"learning_rate": "5e-5"}, "must be a number, not '5e-5'; write it without quotes"),
    ("sft", {"max_length": "long"}, "must be an integer or null, not 'long'"),
    ("dpo", {"loss_type": "exo_pair"}, "exo_pair needs label_smoothing above 0, for instance 1e-3"),
    ("sft", {"seed": 1}, "cannot be set here: set seed at the top of the recipe"),
])  # fmt: skip
def test_golden_messages(stage, trainer, message):
    assert [mistake.what for mistake in trl_checks.check(stage, trainer)] == [message]


@pytest.mark.parametrize("key,instead", [
    ("output_dir", "run"), ("seed", "seed"), ("data_seed", "seed"), ("resume_from_checkpoint",
     "same command"),
    ("push_to_hub", "toolkit publish"), ("hub_token", "toolkit publish"), ("hub_model_id", "toolkit publish"),
    ("per_device_train_batch_size", "micro_batch_examples"), ("gradient_accumulation_steps",
     "batch_examples"),
    ("per_device_eval_batch_size", "micro_batch_examples"), ("bf16", "precision"), ("fp16", "precision"),
    ("use_cpu", "device"), ("logging_steps", "log_every_steps"), ("save_steps", "checkpoint_every_steps"),
    ("save_total_limit", "checkpoint_every_steps"), ("report_to", "metrics.jsonl"), ("eval_strategy",
     "held-out"),
    ("dataset_num_proc", "data"), ("deepspeed", "--launch"), ("fsdp", "--launch"), ("packing",
     "conversation"),
    ("trust_remote_code", "model"), ("model_init_kwargs", "model"), ("truncation_mode", "prompt"),
    ("average_tokens_across_devices", "number of processes"),
])  # fmt: skip
def test_reserved_settings_are_refused_with_an_alternative(key, instead):
    [mistake] = trl_checks.check("sft", {key: 1})
    assert mistake.key == (key,) and mistake.kind == ProblemKind.RESERVED and instead in mistake.what


@pytest.mark.parametrize("stage,trainer", [
    ("dpo", {"beta": 1, "learning_rate": 5e-5, "max_steps": 150, "loss_type": "ipo"}),
    ("dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.5], "max_length": None}),
    ("dpo", {"loss_type": "discopop", "discopop_tau": 0.1, "sync_ref_model": True,
     "ref_model_sync_steps": 8}),
    ("sft", {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}),
    ("sft", {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 10}}),
    ("sft", {"warmup_steps": 0.1, "optim": "sgd", "max_grad_norm": 0, "num_train_epochs": 0.5,
     "max_steps": -1}),
    ("sft", {"pad_to_multiple_of": 8, "train_sampling_strategy": "group_by_length",
     "neftune_noise_alpha": 5}),
    ("reward", {"center_rewards_coefficient": 0.01, "max_length": 256, "disable_dropout": False}),
])  # fmt: skip
def test_valid_trainer_settings_pass(stage, trainer):
    assert trl_checks.check(stage, trainer) == []


def test_all_errors_are_reported_together():
    mistakes = trl_checks.check("dpo", {"seed": 1, "betta": 1, "learning_rate": 0, "max_steps": "3"})
    assert [mistake.key for mistake in mistakes] == [
        ("seed",), ("betta",), ("learning_rate",), ("max_steps",)
    ]  # fmt: skip


def test_snapshot_matches_the_installed_trl():
    """Reading the fields from an imported TRL gives the same result as the snapshot."""
    from toolkit.config import trl_fields

    described = trl_fields.describe()
    stored = next(
        (snapshot for snapshot in trl_checks.read_snapshots() if trl_checks.matches(snapshot, described)),
        None,
    )
    assert stored, "write it: python -m tools.trl_snapshot"
    assert stored["stages"] == described["stages"] and stored["schedulers"] == described["schedulers"]


def test_other_trl_versions_are_introspected(monkeypatch):
    described = {
        **trl_checks.read_snapshots()[0],
        "stages": {"sft": {"new_key": {"types": ["int"], "default": 3}}},
    }
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0")
    monkeypatch.setitem(sys.modules, "toolkit.config.trl_fields", type(sys)("upstream"))
    sys.modules["toolkit.config.trl_fields"].describe = lambda: described
    trl_checks._description.cache_clear()
    try:
        assert trl_checks.check("sft", {"new_key": 4}) == [] and trl_checks.defaults("sft") == {"new_key": 3}
    finally:
        trl_checks._description.cache_clear()


def test_defaults_match_trl():
    assert (
        trl_checks.defaults("dpo")["learning_rate"] == 1e-6
        and trl_checks.defaults("sft")["learning_rate"] == 2e-5
    )
    assert trl_checks.defaults("dpo")["loss_type"] == ["sigmoid"]


def test_reserved_and_settable_keys_are_disjoint():
    """Keys that trainer_runner.py refuses or sets must be refused by the recipe check."""
    source = ast.parse((PACKAGE / "stages/trainer_runner.py").read_text())
    owned = next(node.value for node in ast.walk(source) if isinstance(node, ast.Assign)
                 and getattr(node.targets[0], "id", "") == "owned")  # fmt: skip
    sets = {
        node.targets[0].id: ast.literal_eval(node.value.args[0])
        for node in source.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("OURS", "WITHOUT_EFFECT")
    }
    named = {key.value for key in owned.keys if key is not None}
    spread = set(trainer_arguments(torch.device("cpu"), bf16=False))
    late = (named | spread | sets["WITHOUT_EFFECT"]) - sets["OURS"]
    assert len(late) > 15 and late <= trl_checks.OWNED.keys()
    assert not sets["OURS"] & trl_checks.OWNED.keys()


def test_check_imports_no_large_library():
    code = (
        "import sys; from toolkit.config import trl_checks as checks; "
        "checks.check('dpo', {'beta': 0.1, 'optim': 'adam'}); "
        "print([name for name in ('torch', 'trl', 'transformers', 'datasets') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
