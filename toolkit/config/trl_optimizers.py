"""Optimizers of transformers: the packages that they need, and the settings that each of them reads.

The source is transformers/trainer_optimizer.py, which ignores what an optimizer does not read.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from typing import Any

from toolkit.base.errors import ProblemKind
from toolkit.config.messages import Mistake, conflict, no_effect, shown, suggestion

_PACKAGES = {
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
"""Part of an optimizer's name -> the package that it needs."""
_BOOLEANS = {"true": True, "false": False}
_FLAGS = ("nesterov", "centered")
_ARGUMENTS = {
    "sgd": ("momentum", "dampening", "nesterov"),
    "adagrad": ("lr_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "centered"),
    "galore": ("rank", "update_proj_gap", "scale", "proj_type"),
    "apollo": ("rank", "update_proj_gap", "scale", "proj_type", "proj", "scale_type"),
    "ademamix": ("beta1", "beta2", "beta3", "alpha", "eps", "t_alpha", "t_beta3"),
    "anyprecision": (
        "use_kahan_summation", "momentum_dtype", "variance_dtype", "compensation_buffer_dtype",
    ),
    "grokadamw": ("alpha_init", "lamb", "gamma", "grokking_signal_decay_rate", "gradient_clipping"),
    "torch_4bit": ("block_size", "bf16_stochastic_round"),
    "torch_8bit": ("block_size", "bf16_stochastic_round"),
    "schedule_free": ("weight_lr_power", "r"),
    "stable_adamw": ("max_lr", "kahan_sum", "decouple_lr"),
}  # fmt: skip
"""An optimizer's name, or part of it where it needs a package -> the keys of `optim_args`."""
_AT_LEAST_0: tuple[str, Callable[[float], bool]] = (
    "a number of at least 0",
    lambda value: 0 <= value < math.inf,
)
_BOUNDS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "alpha": ("a number from 0 to below 1", lambda value: 0 <= value < 1),
    "eps": ("a number above 0", lambda value: 0 < value < math.inf),
}
"""Key of `optim_args` -> its bounds in words, and whether a value is within them."""
_WITH_TARGETS = ("galore", "apollo")
_ADAM_SETTINGS = ("adam_beta1", "adam_beta2", "adam_epsilon")


def missing_package(optimizer: str) -> str | None:
    """Return the package that an optimizer needs and that is not installed, None if nothing is missing."""
    for part, package in _PACKAGES.items():
        if part in optimizer:
            return None if importlib.util.find_spec(package) else package
    return None


def check(given: Mapping[str, Any], *, default: str) -> list[Mistake]:
    """Return a mistake for each setting that the optimizer does not read, or reads and refuses.

    Args:
        given: the entries of `trainer` that are right by themselves.
        default: the optimizer without `optim`.
    """
    name = given.get("optim", default)
    mistakes = [
        no_effect((key,), f"has no effect with optim: {name}")
        for key in _ADAM_SETTINGS
        if key in given and not _reads(name, key)
    ]
    targets = given.get("optim_target_modules")
    needs_targets = any(part in name for part in _WITH_TARGETS)
    if targets is not None and not needs_targets:
        sentence = "has an effect only with the optimizers galore_... and apollo_..."
        mistakes.append(no_effect(("optim_target_modules",), sentence))
    elif needs_targets and not targets:
        sentence = f"{name} needs optim_target_modules, such as all-linear"
        mistakes.append(Mistake(("optim",), sentence, ProblemKind.MISSING))
    if given.get("optim_args") is not None:
        mistakes += _arguments(name, given["optim_args"])
    return mistakes


def _reads(optimizer: str, key: str) -> bool:
    """Return whether an optimizer reads a setting of Adam."""
    if "galore" in optimizer or optimizer == "grokadamw":
        return False
    if "lion" in optimizer:
        return key != "adam_epsilon"
    return any(part in optimizer for part in ("adamw", "radam", "ademamix"))


def _arguments(optimizer: str, text: str) -> list[Mistake]:
    """Return the mistakes in `optim_args`, which is `key=value,key=value`."""
    key = ("optim_args",)
    part = next((part for part in _ARGUMENTS if part in optimizer), None)
    if part is None:
        return [no_effect(key, f"has no effect: {optimizer} takes no arguments")]
    pairs = [pair.strip().partition("=") for pair in text.split(",")]
    if not all(name and value for name, _, value in pairs):
        return [Mistake(key, f"must be key=value,key=value, not {shown(text)}", ProblemKind.VALUE)]
    mistakes, allowed = [], _ARGUMENTS[part]
    for name, _, value in pairs:
        if name == "weight_decay":
            mistakes.append(no_effect(key, "weight_decay has no effect here; set trainer.weight_decay"))
        elif name not in allowed:
            sentence = f"{name} is unknown: {optimizer} takes {', '.join(allowed)}{suggestion(name, allowed)}"
            mistakes.append(Mistake(key, sentence, ProblemKind.UNKNOWN))
        elif missing_package(optimizer) is None and part == optimizer and not _fits(name, value):
            kind = "true or false" if name in _FLAGS else _BOUNDS.get(name, _AT_LEAST_0)[0]
            mistakes.append(Mistake(key, f"{name} must be {kind}, not {value}", ProblemKind.VALUE))
    values = {name: value.lower() for name, _, value in pairs}
    if len(values) < len(pairs):
        mistakes.append(Mistake(key, "has a key twice", ProblemKind.VALUE))
    return mistakes or _momentum(values)


def _momentum(values: Mapping[str, str]) -> list[Mistake]:
    """Return the mistakes of valid arguments of sgd that need a momentum."""
    momentum, dampening = float(values.get("momentum", 0)), float(values.get("dampening", 0))
    if _BOOLEANS[values.get("nesterov", "false")] and (not momentum or dampening):
        return [conflict(("optim_args",), "nesterov needs a momentum above 0 and no dampening")]
    if dampening and not momentum:
        return [no_effect(("optim_args",), "dampening has an effect only with momentum")]
    return []


def _fits(name: str, value: str) -> bool:
    if name in _FLAGS:
        return value.lower() in _BOOLEANS
    try:
        return _BOUNDS.get(name, _AT_LEAST_0)[1](float(value))
    except ValueError:
        return False
