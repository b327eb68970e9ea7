"""`trainer:` checked against TRL's own configuration classes, by name, type and range, without importing TRL.

Importing DPOConfig takes 4 to 5 seconds, so its fields come from `trl_fields.json`, which
`python -m tools.trl_snapshot` writes for the versions that it names. With another version of TRL the class
itself is read, which is correct but slow. Only the keys that a recipe sets are passed on, so that TRL's
defaults apply to the others.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.base.errors import ProblemKind
from toolkit.config import trl_optimizers, trl_schedules
from toolkit.config.messages import (
    TYPE_NAMES,
    Mistake,
    conflict,
    listed,
    no_effect,
    repair,
    shown,
    suggestion,
)
from toolkit.config.registry import STAGES
from toolkit.config.trl_optimizers import missing_package
from toolkit.config.trl_reserved import OWNED, RENAMED

SNAPSHOT = Path(__file__).with_name("trl_fields.json")

# key: (lowest, is it included, highest, is it included)
RANGES: dict[str, tuple[float | None, bool, float | None, bool]] = {
    **dict.fromkeys(
        ("learning_rate", "beta", "adam_epsilon", "discopop_tau", "neftune_noise_alpha"),
        (0, False, None, False),
    ),
    **dict.fromkeys(
        (
            "weight_decay",
            "warmup_steps",
            "max_grad_norm",
            "center_rewards_coefficient",
            "router_aux_loss_coef",
        ),
        (0, True, None, False),
    ),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "label_smoothing_factor"), (0, True, 1, False)),
    "ld_alpha": (0, True, 1, True),
    "ref_model_mixup_alpha": (0, False, 1, True),
    "num_train_epochs": (0, False, 100_000, True),
    "max_length": (1, True, 10_000_000, True),
    "pad_to_multiple_of": (1, True, 1_000_000, True),
    "dataloader_num_workers": (0, True, 1024, True),
    "dataloader_prefetch_factor": (1, True, 100_000, True),
    **dict.fromkeys(
        (
            "ref_model_sync_steps",
            "precompute_ref_batch_size",
            "torch_empty_cache_steps",
        ),
        (1, True, None, False),
    ),
    "label_smoothing": (0, True, 0.5, False),
}

MOST_STEPS = 100_000_000
"""More steps than any training has; a list of their examples would fill the memory."""

# Values that the class accepts and that fail later, or that cannot work here.
REFUSED_VALUES = {
    "lr_scheduler_type": ("reduce_lr_on_plateau", "greedy"),  # need evaluation during training
    "train_sampling_strategy": ("batch_rebalance",),  # its order depends on the number of processes
}
TEXT_VALUES = {
    "pad_to_multiple_of": ("auto",),
    "torch_compile_backend": ("inductor", "eager", "aot_eager"),
    "torch_compile_mode": ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
}


def check(stage: str, trainer: Mapping[str, Any]) -> list[Mistake]:
    """Return a mistake for every entry of `trainer` that TRL would refuse, ignore, or fail on later.

    Their keys begin below `trainer`.
    """
    described = fields(stage)
    mistakes = [
        mistake for key, value in trainer.items() if (mistake := _entry(stage, key, value, described))
    ]
    wrong = {mistake.key[0] for mistake in mistakes}
    right = {key: value for key, value in trainer.items() if key not in wrong}
    return mistakes + _together(stage, right, set(trainer))


def settable(stage: str) -> list[str]:
    """Return the keys that a recipe may set."""
    return [key for key in fields(stage) if key not in OWNED]


def choices(key: str, described: Mapping[str, Any]) -> list[str]:
    """Return the strings that a key may be; empty where every string is allowed."""
    accepted = TEXT_VALUES.get(key) or described.get("choices", ())
    return [choice for choice in accepted if choice not in REFUSED_VALUES.get(key, ())]


def defaults(stage: str) -> dict[str, Any]:
    """Return the default of every key."""
    return {key: field["default"] for key, field in fields(stage).items()}


def as_declared(stage: str, key: str, value: Any) -> Any:
    """Return a value with the type of its key: 0.0 for `adam_beta1: 0`, because torch accepts no integer.

    `warmup_steps` stays an integer: it is a number of steps, or below 1 a share.
    """
    types = fields(stage).get(key, {}).get("types", ())
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if is_integer and "float" in types and "int" not in types and key != "warmup_steps":
        return float(value)
    return value


def fields(stage: str) -> dict[str, dict[str, Any]]:
    """Return `{key: {types, default, choices?}}` of the configuration class of a stage."""
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
    """Return whether a snapshot is valid: the same TRL, and transformers up to the patch level."""
    minor = [versions["transformers"].split(".")[:2] for versions in (snapshot, installed)]
    return snapshot["trl"] == installed["trl"] and minor[0] == minor[1]


def read_snapshots() -> list[dict[str, Any]]:
    """Return the stored descriptions, newest first, each as `trl_fields.describe()` returns it."""
    snapshots = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else []
    for snapshot in snapshots:
        common = snapshot.pop("common")
        snapshot["stages"] = {stage: {**common, **own} for stage, own in snapshot["stages"].items()}
    return snapshots


def _entry(stage: str, key: str, value: Any, described: Mapping[str, Mapping[str, Any]]) -> Mistake | None:
    """Return what is wrong with one entry by itself."""
    if key in OWNED:
        return Mistake((key,), f"cannot be set here: {OWNED[key]}", ProblemKind.RESERVED)
    if key not in described:
        hint = f"; did you mean {RENAMED[key]}?" if key in RENAMED else suggestion(key, settable(stage))
        sentence = f"unknown key: not a setting of trl.{STAGES[stage].trl_config}{hint}"
        return Mistake((key,), sentence, ProblemKind.UNKNOWN)
    if key == "label_smoothing_factor" and stage != "sft":
        sentence = f"has no effect: trl's {stage} loss does not read it"
        return Mistake((key,), sentence, ProblemKind.NO_EFFECT)
    if wrong := _wrong_type(value, described[key]):
        return Mistake((key,), wrong, ProblemKind.TYPE)
    wrong = _wrong_choice(key, value, described[key]) or _wrong_range(key, value)
    return Mistake((key,), wrong, ProblemKind.VALUE) if wrong else None


_TYPE_NAMES = {
    "bool": TYPE_NAMES[bool],
    "int": TYPE_NAMES[int],
    "float": TYPE_NAMES[float],
    "text": TYPE_NAMES[str],
    "null": "null",
    "mapping": "a mapping (key: value)",
    "list of text": "a list of strings",
    "list of float": "a list of numbers",
}
_TYPES = {"bool": bool, "int": int, "float": float, "text": str}


def _wrong_type(value: Any, described: Mapping[str, Any]) -> str | None:
    names = [name for name in described["types"] if not (name == "text" and "mapping" in described["types"])]
    if any(_fits(value, name) for name in names):
        return None
    hint = repair([_TYPES[name] for name in names if name in _TYPES], value)
    return f"must be {listed(_TYPE_NAMES[name] for name in names)}, not {shown(value)}{hint}"


def _fits(value: Any, name: str) -> bool:
    if name.startswith("list of "):
        return isinstance(value, list) and all(_fits(item, name[8:]) for item in value)
    if name in ("int", "float"):
        allowed = (int, float) if name == "float" else int
        return isinstance(value, allowed) and not isinstance(value, bool)
    return isinstance(value, {"bool": bool, "text": str, "null": type(None), "mapping": dict}[name])


def _wrong_choice(key: str, value: Any, described: Mapping[str, Any]) -> str | None:
    allowed = choices(key, described)
    if isinstance(value, list) and not value:
        return "must not be empty"
    for item in value if isinstance(value, list) else [value]:
        if allowed and isinstance(item, str) and item not in allowed:
            usable = [choice for choice in allowed if key != "optim" or missing_package(choice) is None]
            words = f"one of {', '.join(usable)}" if len(usable) > 1 else f"{usable[0]} or an integer"
            return f"must be {words}, not {shown(item)}{suggestion(item, usable)}"
    if key == "optim" and (package := missing_package(value)):
        return f"{shown(value)} needs the package {package}, which is not installed"
    return None


def _wrong_range(key: str, value: Any) -> str | None:
    if key == "max_steps" and value != -1 and not 1 <= value <= MOST_STEPS:
        bounds = "at least 1 (or -1 for num_train_epochs)" if value < 1 else f"at most {MOST_STEPS}"
        return f"must be {bounds}, not {shown(value)}"
    if key == "warmup_steps" and value > 1 and value != int(value):
        return f"must be an integer, or below 1 as a share of the training, not {shown(value)}"
    if key not in RANGES or not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    low, includes_low, high, includes_high = RANGES[key]
    if low is not None and (value < low or (value == low and not includes_low)):
        return f"must be {'at least' if includes_low else 'greater than'} {low:g}, not {shown(value)}"
    if high is not None and (value > high or (value == high and not includes_high)):
        return f"must be {'at most' if includes_high else 'less than'} {high:g}, not {shown(value)}"
    return None


def _together(stage: str, given: Mapping[str, Any], names: set[str]) -> list[Mistake]:
    """Return mistakes of settings that contradict each other, or that act only together with another.

    Args:
        given: the entries that are right by themselves.
        names: every key of the recipe; if a related setting is invalid itself, this one is not reported.
    """
    mistakes = []
    for key, (partner, values) in _NEEDS.items():
        if given.get(key) is not None and (partner in given or partner not in names):
            actual = given.get(partner)
            if not any(item in values for item in (actual if isinstance(actual, list) else [actual])):
                mistakes.append(no_effect((key,), f"has an effect only with {partner}: {listed(values)}"))
    if given.get("max_steps", -1) > 0 and "num_train_epochs" in given:
        mistakes.append(no_effect(("num_train_epochs",), "has no effect: max_steps decides"))
    for key in _OF_WORKERS:
        if given.get(key) and not given.get("dataloader_num_workers"):
            mistakes.append(no_effect((key,), "has an effect only with dataloader_num_workers above 0"))
    if given.get("torch_compile_mode") and given.get("torch_compile_backend", "inductor") != "inductor":
        sentence = "has an effect only with torch_compile_backend: inductor"
        mistakes.append(no_effect(("torch_compile_mode",), sentence))
    usual, schedule = defaults(stage), given.get("lr_scheduler_type", "linear")
    return [
        *mistakes,
        *trl_optimizers.check(given, default=usual.get("optim", "")),
        *trl_schedules.check(
            given,
            _description()["schedulers"].get(schedule, []),
            learning_rate=given.get("learning_rate", usual.get("learning_rate", math.inf)),
        ),
        *_checkpointing(stage, given),
        *(_losses(given, names) if stage == "dpo" else _answers(given)),
    ]


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
_OF_WORKERS = ("dataloader_prefetch_factor", "dataloader_multiprocessing_context")
_CHECKPOINTING_OPTIONS = ("use_reentrant", "preserve_rng_state")
"""Options of torch.utils.checkpoint that a recipe may set."""


def _checkpointing(stage: str, given: Mapping[str, Any]) -> list[Mistake]:
    """Return the mistakes in activation checkpointing, which has an older name, too."""
    new, old = "activation_checkpointing", "gradient_checkpointing"
    mistakes = [
        conflict((old + end,), f"is the older name of {new}{end}: give one of them")
        for end in ("", "_kwargs")
        if old + end in given and new + end in given
    ]
    for key in (f"{old}_kwargs", f"{new}_kwargs"):
        options = given.get(key)
        if options is None:
            continue
        if not (given.get(new) or given.get(old)):
            mistakes.append(no_effect((key,), f"has an effect only with {key.removesuffix('_kwargs')}: true"))
        allowed = (*_CHECKPOINTING_OPTIONS, "selective") if stage == "sft" else _CHECKPOINTING_OPTIONS
        for name, value in options.items():
            if name not in allowed:
                sentence = f"unknown key: it takes {', '.join(allowed)}{suggestion(name, allowed)}"
                mistakes.append(Mistake((key, name), sentence, ProblemKind.UNKNOWN))
            elif not isinstance(value, bool):
                mistakes.append(
                    Mistake((key, name), f"must be true or false, not {shown(value)}", ProblemKind.TYPE)
                )
        if options.get("selective") and options.get("use_reentrant"):
            mistakes.append(conflict((key, "selective"), "contradicts use_reentrant: true"))
    return mistakes


def _answers(given: Mapping[str, Any]) -> list[Mistake]:
    """Return contradictions about the tokens that are learned, and smoothing that a loss ignores."""
    mistakes = []
    if given.get("assistant_only_loss") and given.get("completion_only_loss") is False:
        sentence = "contradicts assistant_only_loss: true, which learns answers only"
        mistakes.append(conflict(("completion_only_loss",), sentence))
    if given.get("label_smoothing_factor") and given.get("loss_type") == "dft":
        mistakes.append(no_effect(("label_smoothing_factor",), "has no effect with loss_type: dft"))
    return mistakes


_UNWEIGHTED = {"aot", "aot_unpaired", "hinge", "sft"}
"""Losses that trl does not weight (aot), or multiplies in place, which torch refuses (hinge, sft)."""
_OF_COMPARISON = ("beta", "f_divergence_type", "ld_alpha", "sync_ref_model", "precompute_ref_log_probs")


def _losses(given: Mapping[str, Any], names: set[str]) -> list[Mistake]:
    """Return what trl/trainer/dpo_trainer.py refuses after model and data are loaded."""
    losses = given.get("loss_type", ["sigmoid"])
    losses = [losses] if isinstance(losses, str) else losses
    mistakes = []
    weights = given.get("loss_weights")
    if weights is not None and len(weights) != len(losses):
        sentence = f"must have one number for each loss_type ({len(losses)}), not {len(weights)}"
        mistakes.append(conflict(("loss_weights",), sentence))
    with_divergence = {"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"}
    if given.get("f_divergence_type", "reverse_kl") != "reverse_kl" and not set(losses) <= with_divergence:
        sentence = f"is not defined for loss_type {', '.join(set(losses) - with_divergence)}"
        mistakes.append(conflict(("f_divergence_type",), sentence))
    if given.get("use_weighting") and (unweighted := _UNWEIGHTED & set(losses)):
        sentence = f"trl cannot weight loss_type {', '.join(sorted(unweighted))}"
        mistakes.append(conflict(("use_weighting",), sentence))
    for loss, example in (("exo_pair", "1e-3"), ("robust", "0.1; without it, it is sigmoid")):
        is_known = "label_smoothing" in given or "label_smoothing" not in names
        if loss in losses and not given.get("label_smoothing") and is_known:
            sentence = f"{loss} needs label_smoothing above 0, for instance {example}"
            mistakes.append(conflict(("loss_type",), sentence))
    if weights is not None and not any(weights):
        mistakes.append(conflict(("loss_weights",), "must not all be 0, which learns nothing"))
    if set(losses) == {"sft"}:
        mistakes += [
            no_effect((key,), "has no effect with loss_type: sft, which does not compare with the reference")
            for key in _OF_COMPARISON
            if given.get(key) not in (None, False, "reverse_kl")
        ]
    if given.get("sync_ref_model") and given.get("precompute_ref_log_probs"):
        sentence = "contradicts precompute_ref_log_probs: the reference would change"
        mistakes.append(conflict(("sync_ref_model",), sentence))
    return mistakes
