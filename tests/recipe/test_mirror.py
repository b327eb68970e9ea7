"""`trainer:` against the installed TRL, from the snapshot and without importing TRL."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.recipe import mirror

PACKAGE = Path(mirror.__file__).parent.parent
LOSSES = ("sigmoid, hinge, aot, aot_unpaired, ipo, exo_pair, nca_pair, robust, bco_pair, sppo_hard, apo_zero, "
          "apo_down, discopop, sft, sigmoid_norm")  # fmt: skip
SCHEDULES = ("linear, cosine, cosine_with_restarts, polynomial, constant, constant_with_warmup, inverse_sqrt, "
             "cosine_with_min_lr, cosine_warmup_with_min_lr, warmup_stable_decay")  # fmt: skip


@pytest.mark.parametrize("stage,trainer,key,what", [
    ("dpo", {"betta": 1}, "betta", "unknown key: not a setting of trl.DPOConfig; did you mean beta?"),
    ("sft", {"beta": 1}, "beta", "unknown key: not a setting of trl.SFTConfig"),
    ("sft", {"warmup_ratio": 0.1}, "warmup_ratio", "unknown key: not a setting of trl.SFTConfig; did you mean "
     "warmup_steps (below 1 it is a share of the training)?"),
    ("sft", {"lr": 0.1}, "lr", "unknown key: not a setting of trl.SFTConfig; did you mean learning_rate?"),
    ("dpo", {"learning_rate": "abc"}, "learning_rate", "must be a number, not 'abc'"),
    ("dpo", {"learning_rate": "5e-5"}, "learning_rate", "must be a number, not '5e-5'; write it without quotes"),
    ("dpo", {"learning_rate": True}, "learning_rate", "must be a number, not true"),
    ("dpo", {"learning_rate": None}, "learning_rate", "must be a number, not null"),
    ("dpo", {"learning_rate": 0}, "learning_rate", "must be greater than 0, not 0"),
    ("dpo", {"beta": -0.1}, "beta", "must be greater than 0, not -0.1"),
    ("sft", {"max_steps": 1.5}, "max_steps", "must be a whole number, not 1.5"),
    ("sft", {"max_steps": 100.0}, "max_steps", "must be a whole number, not 100.0; did you mean 100?"),
    ("sft", {"max_steps": 0}, "max_steps", "must be at least 1 (or -1 for num_train_epochs), not 0"),
    ("sft", {"max_steps": 9, "num_train_epochs": 1}, "num_train_epochs", "has no effect: max_steps decides"),
    ("sft", {"weight_decay": -1}, "weight_decay", "must be at least 0, not -1"),
    ("sft", {"adam_beta1": 1}, "adam_beta1", "must be less than 1, not 1"),
    ("dpo", {"ld_alpha": 1.5}, "ld_alpha", "must be at most 1, not 1.5"),
    ("sft", {"max_length": 0}, "max_length", "must be at least 1, not 0"),
    ("sft", {"max_length": "long"}, "max_length", "must be a whole number or null, not 'long'"),
    ("sft", {"gradient_checkpointing": "no"}, "gradient_checkpointing",
     "must be true or false, not 'no'; did you mean false?"),
    ("dpo", {"loss_type": "ipoo"}, "loss_type", f"must be one of {LOSSES}, not 'ipoo'; did you mean ipo?"),
    ("dpo", {"loss_type": ["sigmoid", "kto"]}, "loss_type", f"must be one of {LOSSES}, not 'kto'"),
    ("dpo", {"loss_type": []}, "loss_type", "must not be empty"),
    ("dpo", {"loss_type": 3}, "loss_type", "must be a list of texts or text, not 3; write it in quotes, '3'"),
    ("sft", {"loss_type": "chunked_nll"}, "loss_type", "must be one of nll, dft, not 'chunked_nll'"),
    ("dpo", {"f_divergence_type": "kl"}, "f_divergence_type",
     "must be one of reverse_kl, forward_kl, js_divergence, alpha_divergence, not 'kl'"),
    ("sft", {"lr_scheduler_type": "cosin"}, "lr_scheduler_type",
     f"must be one of {SCHEDULES}, not 'cosin'; did you mean cosine?"),
    ("sft", {"lr_scheduler_type": "reduce_lr_on_plateau"}, "lr_scheduler_type",
     f"must be one of {SCHEDULES}, not 'reduce_lr_on_plateau'"),
    ("sft", {"lr_scheduler_type": "warmup_stable_decay"}, "lr_scheduler_type",
     "the schedule warmup_stable_decay needs lr_scheduler_kwargs: {num_decay_steps: ...}"),
    ("sft", {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"num_cycles": 1}},
     "lr_scheduler_kwargs", "the schedule cosine_with_min_lr needs lr_scheduler_kwargs: {min_lr_rate: ...}"),
    ("sft", {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycle": 1}},
     "lr_scheduler_kwargs.num_cycle", "unknown key: the schedule cosine takes num_cycles; did you mean num_cycles?"),
    ("sft", {"lr_scheduler_kwargs": "{}"}, "lr_scheduler_kwargs", "must be a mapping (key: value) or null, not '{}'"),
    ("sft", {"optim": "adam"}, "optim",
     "must be one of adamw_torch, adamw_torch_fused, adafactor, sgd, adagrad, rmsprop, not 'adam'"),
    ("sft", {"optim": "adamw_8bit"}, "optim", "'adamw_8bit' needs the package bitsandbytes, which is not installed"),
    ("sft", {"pad_to_multiple_of": "x"}, "pad_to_multiple_of", "must be auto or a whole number, not 'x'"),
    ("sft", {"train_sampling_strategy": "batch_rebalance"}, "train_sampling_strategy",
     "must be one of random, sequential, group_by_length, not 'batch_rebalance'"),
    ("reward", {"label_smoothing_factor": 0.1}, "label_smoothing_factor",
     "has no effect: trl's reward loss does not read it"),
    ("dpo", {"label_smoothing": 0.1}, "label_smoothing",
     "has an effect only with loss_type: robust, exo_pair, aot or aot_unpaired"),
    ("dpo", {"loss_type": "robust", "label_smoothing": 0.5}, "label_smoothing", "must be less than 0.5, not 0.5"),
    ("dpo", {"loss_type": "exo_pair"}, "loss_type", "exo_pair needs label_smoothing above 0, for instance 1e-3"),
    ("dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1]}, "loss_weights",
     "must have one number for each loss_type (2), not 1"),
    ("dpo", {"loss_weights": [1, "a"]}, "loss_weights", "must be a list of numbers or null, not [1, 'a']"),
    ("dpo", {"ref_model_sync_steps": 3}, "ref_model_sync_steps", "has an effect only with sync_ref_model: true"),
    ("dpo", {"sync_ref_model": True, "precompute_ref_log_probs": True}, "sync_ref_model",
     "contradicts precompute_ref_log_probs: the reference would change"),
    ("dpo", {"loss_type": "bco_pair", "f_divergence_type": "forward_kl"}, "f_divergence_type",
     "is not defined for loss_type bco_pair"),
    ("dpo", {"loss_type": "aot", "use_weighting": True}, "use_weighting",
     "is not defined for loss_type aot and aot_unpaired"),
    ("sft", {"torch_compile_mode": "default"}, "torch_compile_mode", "has an effect only with torch_compile: true"),
    ("sft", {"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor",
     "has an effect only with dataloader_num_workers above 0"),
])  # fmt: skip
def test_what_trl_would_refuse_or_ignore(stage, trainer, key, what):
    assert mirror.check(stage, trainer) == [(key, what)]


@pytest.mark.parametrize("key,instead", [
    ("output_dir", "run"), ("seed", "seed"), ("data_seed", "seed"), ("resume_from_checkpoint", "same command"),
    ("push_to_hub", "toolkit publish"), ("hub_token", "toolkit publish"), ("hub_model_id", "toolkit publish"),
    ("per_device_train_batch_size", "micro_batch_examples"), ("gradient_accumulation_steps", "batch_examples"),
    ("per_device_eval_batch_size", "micro_batch_examples"), ("bf16", "precision"), ("fp16", "precision"),
    ("use_cpu", "device"), ("logging_steps", "log_every_steps"), ("save_steps", "checkpoint_every_steps"),
    ("save_total_limit", "checkpoint_every_steps"), ("report_to", "metrics.jsonl"), ("eval_strategy", "held-out"),
    ("dataset_num_proc", "data"), ("deepspeed", "--launch"), ("fsdp", "--launch"), ("packing", "conversation"),
    ("trust_remote_code", "model"), ("model_init_kwargs", "model"), ("truncation_mode", "prompt"),
    ("average_tokens_across_devices", "number of processes"),
])  # fmt: skip
def test_what_the_toolkit_owns_is_refused_with_what_to_write_instead(key, instead):
    [(found, what)] = mirror.check("sft", {key: 1})
    assert found == key and what.startswith("cannot be set here: ") and instead in what


@pytest.mark.parametrize("stage,trainer", [
    ("dpo", {"beta": 1, "learning_rate": 5e-5, "max_steps": 150, "loss_type": "ipo"}),
    ("dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.5], "max_length": None}),
    ("dpo", {"loss_type": "discopop", "discopop_tau": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 8}),
    ("sft", {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}),
    ("sft", {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 10}}),
    ("sft", {"warmup_steps": 0.1, "optim": "sgd", "max_grad_norm": 0, "num_train_epochs": 0.5, "max_steps": -1}),
    ("sft", {"pad_to_multiple_of": 8, "train_sampling_strategy": "group_by_length", "neftune_noise_alpha": 5}),
    ("reward", {"center_rewards_coefficient": 0.01, "max_length": 256, "disable_dropout": False}),
])  # fmt: skip
def test_what_is_right(stage, trainer):
    assert mirror.check(stage, trainer) == []


def test_all_mistakes_at_once():
    found = mirror.check("dpo", {"seed": 1, "betta": 1, "learning_rate": 0, "max_steps": "3"})
    assert [key for key, _ in found] == ["seed", "betta", "learning_rate", "max_steps"]


def test_the_snapshot_is_that_of_the_installed_trl():
    """Also that a version without a snapshot is read from trl itself, with the same answer."""
    from toolkit.recipe import upstream

    described = upstream.describe()
    stored = next((one for one in mirror.read_snapshots() if mirror._matches(one, described)), None)
    assert stored, "write it: python -m toolkit.recipe.mirror"
    assert stored["stages"] == described["stages"] and stored["schedulers"] == described["schedulers"]


def test_another_version_is_read_from_trl_itself(monkeypatch):
    described = {
        **mirror.read_snapshots()[0],
        "stages": {"sft": {"new_key": {"types": ["int"], "default": 3}}},
    }
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0")
    monkeypatch.setitem(sys.modules, "toolkit.recipe.upstream", type(sys)("upstream"))
    sys.modules["toolkit.recipe.upstream"].describe = lambda: described
    mirror._description.cache_clear()
    try:
        assert mirror.check("sft", {"new_key": 4}) == [] and mirror.defaults("sft") == {"new_key": 3}
    finally:
        mirror._description.cache_clear()


def test_defaults_are_upstreams():
    assert mirror.defaults("dpo")["learning_rate"] == 1e-6 and mirror.defaults("sft")["learning_rate"] == 2e-5
    assert mirror.defaults("dpo")["loss_type"] == ["sigmoid"]


def test_no_key_is_both_settable_and_set_by_the_toolkit():
    """What fit.py refuses or sets by itself must be refused here already, before anything is loaded."""
    source = ast.parse((PACKAGE / "fit.py").read_text())
    owned = next(node.value for node in ast.walk(source) if isinstance(node, ast.Assign)
                 and getattr(node.targets[0], "id", "") == "owned")  # fmt: skip
    sets = {
        node.targets[0].id: ast.literal_eval(node.value.args[0])
        for node in source.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("OURS", "WITHOUT_EFFECT")
    }
    late = ({key.value for key in owned.keys} | sets["WITHOUT_EFFECT"]) - sets["OURS"]
    assert len(late) > 15 and late <= mirror.OWNED.keys()
    assert not sets["OURS"] & mirror.OWNED.keys()


def test_nothing_heavy_is_imported_to_check():
    code = (
        "import sys; from toolkit.recipe import mirror; mirror.check('dpo', {'beta': 0.1, 'optim': 'adam'}); "
        "print([name for name in ('torch', 'trl', 'transformers', 'datasets') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
