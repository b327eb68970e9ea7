"""`trainer:` checked against TRL's own configuration classes, by name, type and range, without importing TRL.

Importing DPOConfig takes 4 to 5 seconds, so its fields come from `trl_fields.json`, written for the versions
named in it by `python -m tools.trl_snapshot`. With another version of TRL the class itself is asked:
right, and slow. Only the keys that a recipe sets are passed on: upstream defaults stay upstream's.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.config.messages import listed, repair, shown, suggestion
from toolkit.config.trl_reserved import OWNED, RENAMED

CONFIGS = {"sft": "SFTConfig", "reward": "RewardConfig", "dpo": "DPOConfig"}
SNAPSHOT = Path(__file__).with_name("trl_fields.json")

# key: (lowest, is it allowed itself, highest, is it allowed itself)
RANGES: dict[str, tuple[float | None, bool, float | None, bool]] = {
    **dict.fromkeys(
        ("learning_rate", "num_train_epochs", "beta", "adam_epsilon", "discopop_tau", "neftune_noise_alpha"),
        (0, False, None, False),
    ),
    **dict.fromkeys(
        (
            "weight_decay",
            "warmup_steps",
            "max_grad_norm",
            "dataloader_num_workers",
            "center_rewards_coefficient",
            "router_aux_loss_coef",
        ),
        (0, True, None, False),
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), (0, True, 1, False)),
    **dict.fromkeys(("ld_alpha", "ref_model_mixup_alpha"), (0, True, 1, True)),
    **dict.fromkeys(
        (
            "max_length",
            "ref_model_sync_steps",
            "precompute_ref_batch_size",
            "pad_to_multiple_of",
            "torch_empty_cache_steps",
            "dataloader_prefetch_factor",
        ),
        (1, True, None, False),
    ),
    "label_smoothing": (0, True, 0.5, False),
}

# Values that the class accepts and that fail later, or that cannot work here.
REFUSED_VALUES = {
    "lr_scheduler_type": ("reduce_lr_on_plateau", "greedy"),  # need evaluation during training
    "train_sampling_strategy": ("batch_rebalance",),  # its order depends on the number of processes
}
TEXT_VALUES = {"pad_to_multiple_of": ("auto",)}
PACKAGES = {
    **dict.fromkeys(("bnb", "paged", "adamw_8bit", "lion", "ademamix"), "bitsandbytes"),
    "galore": "galore_torch",
    "apollo": "apollo_torch",
    "lomo": "lomo_optim",
    "grokadamw": "grokadamw",
    "schedule_free": "schedulefree",
    "stable_adamw": "optimi",
    "torch_4bit": "torchao",
    "torch_8bit": "torchao",
    "anyprecision": "torchdistx",
    "xla": "torch_xla",
    "npu": "torch_npu",
}
"""Part of an optimizer's name -> the package that it needs (transformers/trainer_optimizer.py)."""


def check(stage: str, trainer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, sentence) for every entry of `trainer` that TRL would refuse, ignore, or fail on later."""
    known = fields(stage)
    found = [(key, what) for key, value in trainer.items() if (what := _wrong(stage, key, value, known))]
    wrong = {key for key, _ in found}
    right = {key: value for key, value in trainer.items() if key not in wrong}
    return found + _together(right, set(trainer))


def settable(stage: str) -> list[str]:
    """The keys that a recipe may set."""
    return [key for key in fields(stage) if key not in OWNED]


def choices(key: str, described: Mapping[str, Any]) -> list[str]:
    """The words that a key may be; empty where any text will do."""
    known = TEXT_VALUES.get(key) or described.get("choices", ())
    return [one for one in known if one not in REFUSED_VALUES.get(key, ())]


def defaults(stage: str) -> dict[str, Any]:
    """The value of every key where a recipe does not set it."""
    return {key: described["default"] for key, described in fields(stage).items()}


def fields(stage: str) -> dict[str, dict[str, Any]]:
    """`{key: {types, default, choices?}}` of the configuration class of a stage."""
    return _description()["stages"][stage]


@functools.cache
def _description() -> dict[str, Any]:
    try:
        installed = {name: importlib.metadata.version(name) for name in ("trl", "transformers")}
    except importlib.metadata.PackageNotFoundError:
        installed = {}
    snapshots = read_snapshots()
    for snapshot in snapshots:
        if not installed or matches(snapshot, installed):
            return snapshot
    from toolkit.config.trl_fields import describe

    return describe()


def matches(snapshot: Mapping[str, str], installed: Mapping[str, str]) -> bool:
    """Say whether a snapshot holds: TRL's version exactly, transformers' but for the patch level."""
    minor = [one["transformers"].split(".")[:2] for one in (snapshot, installed)]
    return snapshot["trl"] == installed["trl"] and minor[0] == minor[1]


def read_snapshots() -> list[dict[str, Any]]:
    """The stored descriptions, newest first, each as `upstream.describe()` gives it."""
    stored = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else []
    for one in stored:
        common = one.pop("common")
        one["stages"] = {stage: {**common, **own} for stage, own in one["stages"].items()}
    return stored


def _wrong(stage: str, key: str, value: Any, known: Mapping[str, Mapping[str, Any]]) -> str | None:
    if key in OWNED:
        return f"cannot be set here: {OWNED[key]}"
    if key not in known:
        close = f"; did you mean {RENAMED[key]}?" if key in RENAMED else suggestion(key, settable(stage))
        return f"unknown key: not a setting of trl.{CONFIGS[stage]}{close}"
    if key == "label_smoothing_factor" and stage != "sft":
        return f"has no effect: trl's {stage} loss does not read it"
    return _wrong_type(value, known[key]) or _wrong_choice(key, value, known[key]) or _wrong_range(key, value)


def _wrong_type(value: Any, described: Mapping[str, Any]) -> str | None:
    kinds = [kind for kind in described["types"] if not (kind == "text" and "mapping" in described["types"])]
    if any(_fits(value, kind) for kind in kinds):
        return None
    words = {
        "bool": "true or false",
        "int": "a whole number",
        "float": "a number",
        "text": "text",
        "null": "null",
        "mapping": "a mapping (key: value)",
    }
    words |= {"list of text": "a list of texts", "list of float": "a list of numbers"}
    plain = {"bool": bool, "int": int, "float": float, "text": str}
    hint = repair([plain[kind] for kind in kinds if kind in plain], value)
    return f"must be {listed(words[kind] for kind in kinds)}, not {shown(value)}{hint}"


def _fits(value: Any, kind: str) -> bool:
    if kind.startswith("list of "):
        return isinstance(value, list) and all(_fits(item, kind[8:]) for item in value)
    if kind in ("int", "float"):
        allowed = (int, float) if kind == "float" else int
        return isinstance(value, allowed) and not isinstance(value, bool)
    return isinstance(value, {"bool": bool, "text": str, "null": type(None), "mapping": dict}[kind])


def _wrong_choice(key: str, value: Any, described: Mapping[str, Any]) -> str | None:
    allowed = choices(key, described)
    if isinstance(value, list) and not value:
        return "must not be empty"
    for item in value if isinstance(value, list) else [value]:
        if allowed and isinstance(item, str) and item not in allowed:
            usable = [one for one in allowed if key != "optim" or _package_missing(one) is None]
            words = f"one of {', '.join(usable)}" if len(usable) > 1 else f"{usable[0]} or a whole number"
            return f"must be {words}, not {shown(item)}{suggestion(item, usable)}"
    if key == "optim" and (package := _package_missing(value)):
        return f"{shown(value)} needs the package {package}, which is not installed"
    return None


def _package_missing(optimizer: str) -> str | None:
    for part, package in PACKAGES.items():
        if part in optimizer:
            return None if importlib.util.find_spec(package) else package
    return None


def _wrong_range(key: str, value: Any) -> str | None:
    if key == "max_steps" and value != -1 and value < 1:
        return f"must be at least 1 (or -1 for num_train_epochs), not {shown(value)}"
    if key not in RANGES or not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    low, low_itself, high, high_itself = RANGES[key]
    if low is not None and (value < low or (value == low and not low_itself)):
        return f"must be {'at least' if low_itself else 'greater than'} {low:g}, not {shown(value)}"
    if high is not None and (value > high or (value == high and not high_itself)):
        return f"must be {'at most' if high_itself else 'less than'} {high:g}, not {shown(value)}"
    return None


def _together(given: Mapping[str, Any], names: set[str]) -> list[tuple[str, str]]:
    """Settings that contradict each other, or that act only together with another one.

    Args:
        given: the entries that are right by themselves.
        names: every key of the recipe; where one of them is wrong by itself its partner is left alone.
    """
    found = []
    for key, (partner, values) in _NEEDS.items():
        if key in given and given[key] is not None and (partner in given or partner not in names):
            actual = given.get(partner)
            if not any(one in values for one in (actual if isinstance(actual, list) else [actual])):
                found.append((key, f"has an effect only with {partner}: {listed(values)}"))
    if given.get("max_steps", -1) > 0 and "num_train_epochs" in given:
        found.append(("num_train_epochs", "has no effect: max_steps decides"))
    if given.get("dataloader_prefetch_factor") and not given.get("dataloader_num_workers"):
        found.append(("dataloader_prefetch_factor", "has an effect only with dataloader_num_workers above 0"))
    return found + _schedule(given) + _losses(given)


_NEEDS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "ref_model_mixup_alpha": ("sync_ref_model", (True,)),
    "ref_model_sync_steps": ("sync_ref_model", (True,)),
    "precompute_ref_batch_size": ("precompute_ref_log_probs", (True,)),
    "f_alpha_divergence_coef": ("f_divergence_type", ("alpha_divergence",)),
    "discopop_tau": ("loss_type", ("discopop",)),
    "label_smoothing": ("loss_type", ("robust", "exo_pair", "aot", "aot_unpaired")),
    "torch_compile_backend": ("torch_compile", (True,)),
    "torch_compile_mode": ("torch_compile", (True,)),
}


def _schedule(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    kind, options = given.get("lr_scheduler_type", "linear"), given.get("lr_scheduler_kwargs") or {}
    allowed = _description()["schedulers"].get(kind, [])
    where = "lr_scheduler_kwargs" if options else "lr_scheduler_type"
    takes = f"unknown key: the schedule {kind} takes {', '.join(allowed) or 'none'}"
    found = [
        (f"lr_scheduler_kwargs.{key}", takes + suggestion(key, allowed))
        for key in options
        if key not in allowed
    ]
    if kind == "warmup_stable_decay" and "num_decay_steps" not in options:
        found.append((where, f"the schedule {kind} needs lr_scheduler_kwargs: {{num_decay_steps: ...}}"))
    if kind.endswith("min_lr") and not {"min_lr", "min_lr_rate"} & set(options):
        found.append((where, f"the schedule {kind} needs lr_scheduler_kwargs: {{min_lr_rate: ...}}"))
    return found


def _losses(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Raised by trl/trainer/dpo_trainer.py, after model and data are loaded."""
    losses = given.get("loss_type", ["sigmoid"])
    losses = [losses] if isinstance(losses, str) else losses
    found = []
    weights = given.get("loss_weights")
    if weights is not None and len(weights) != len(losses):
        what = f"must have one number for each loss_type ({len(losses)}), not {len(weights)}"
        found.append(("loss_weights", what))
    shaped = {"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"}
    if given.get("f_divergence_type", "reverse_kl") != "reverse_kl" and not set(losses) <= shaped:
        found.append(("f_divergence_type", f"is not defined for loss_type {', '.join(set(losses) - shaped)}"))
    if given.get("use_weighting") and {"aot", "aot_unpaired"} & set(losses):
        found.append(("use_weighting", "is not defined for loss_type aot and aot_unpaired"))
    if "exo_pair" in losses and not given.get("label_smoothing"):
        found.append(("loss_type", "exo_pair needs label_smoothing above 0, for instance 1e-3"))
    if given.get("sync_ref_model") and given.get("precompute_ref_log_probs"):
        found.append(("sync_ref_model", "contradicts precompute_ref_log_probs: the reference would change"))
    return found
