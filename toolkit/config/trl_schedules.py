"""Learning-rate schedules of transformers: their options, and lengths that do not fit the training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.base.errors import ProblemKind
from toolkit.config.messages import Mistake, conflict, listed, no_effect, shown, suggestion

OPTIONS = "lr_scheduler_kwargs"
_SHAPES = ("linear", "cosine", "1-sqrt")
_CHOICES = {"warmup_type": _SHAPES, "decay_type": _SHAPES}
_INTEGERS = {"num_decay_steps": 1, "num_stable_steps": 0, "timescale": 1}
"""Option -> the smallest value."""
_NUMBERS = {
    "num_cycles": math.inf,
    "power": math.inf,
    "lr_end": math.inf,
    "min_lr": math.inf,
    "min_lr_rate": 1,
    "min_lr_ratio": 1,
    "warmup_lr_rate": 1,
}
"""Option -> the largest value; the smallest is 0."""
_WARMUP_OPTIONS = ("warmup_type", "warmup_lr_rate")


def check(given: Mapping[str, Any], allowed: Sequence[str], *, learning_rate: float) -> list[Mistake]:
    """Return the mistakes in a schedule and its options.

    Args:
        given: the entries of `trainer`.
        allowed: the options that the schedule takes.
        learning_rate: the peak of the schedule.
    """
    name, options = given.get("lr_scheduler_type", "linear"), given.get(OPTIONS) or {}
    mistakes = [*_missing(name, options), *_without_effect(name, given, options)]
    for key, value in options.items():
        if key not in allowed:
            sentence = f"unknown key: the schedule {name} takes {', '.join(allowed) or 'none'}"
            mistakes.append(Mistake((OPTIONS, key), sentence + suggestion(key, allowed), ProblemKind.UNKNOWN))
        elif wrong := _wrong_value(key, value):
            mistakes.append(Mistake((OPTIONS, key), wrong, ProblemKind.VALUE))
        elif key in ("lr_end", "min_lr") and value >= learning_rate:
            sentence = f"must be less than the learning rate {learning_rate:g}, not {shown(value)}"
            mistakes.append(conflict((OPTIONS, key), sentence))
    if {"min_lr", "min_lr_rate"} <= set(options):
        mistakes.append(conflict((OPTIONS, "min_lr"), "contradicts min_lr_rate: give one of them"))
    return mistakes


def too_long(given: Mapping[str, Any], *, steps: int) -> list[Mistake]:
    """Return a mistake for each setting of `trainer` that counts more steps than the training has."""
    mistakes = []
    warmup, options = given.get("warmup_steps", 0), given.get(OPTIONS) or {}
    if warmup > max(1, steps):
        sentence = f"{warmup:g} steps of warm-up are longer than the training, which has {steps:,}"
        mistakes.append(conflict(("warmup_steps",), sentence))
    parts = [options.get(key, 0) for key in ("num_stable_steps", "num_decay_steps")]
    warmup_steps = math.ceil(steps * warmup) if warmup < 1 else warmup
    if not mistakes and any(parts) and warmup_steps + sum(parts) > steps:
        total = warmup_steps + sum(parts)
        sentence = f"warm-up, stable rate and decay have {total:g} steps, and the training has {steps:,}"
        mistakes.append(conflict((OPTIONS, "num_decay_steps"), sentence))
    every = given.get("ref_model_sync_steps", 512)
    if given.get("sync_ref_model") and every > steps:
        sentence = f"has no effect: the reference changes every {every:,} steps; the training has {steps:,}"
        key = "ref_model_sync_steps" if "ref_model_sync_steps" in given else "sync_ref_model"
        mistakes.append(no_effect((key,), sentence))
    return mistakes


def _missing(name: str, options: Mapping[str, Any]) -> list[Mistake]:
    """Return the mistake of a schedule without an option that it needs."""
    where = (OPTIONS if options else "lr_scheduler_type",)
    needs = ""
    if name == "warmup_stable_decay" and "num_decay_steps" not in options:
        needs = "num_decay_steps"
    if name.endswith("min_lr") and not {"min_lr", "min_lr_rate"} & set(options):
        needs = "min_lr_rate"
    sentence = f"the schedule {name} needs {OPTIONS}: {{{needs}: ...}}"
    return [Mistake(where, sentence, ProblemKind.MISSING)] if needs else []


def _without_effect(name: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> list[Mistake]:
    mistakes = []
    warmup = given.get("warmup_steps", 0)
    if warmup and name == "constant":
        sentence = "has no effect with lr_scheduler_type: constant; write constant_with_warmup"
        mistakes.append(no_effect(("warmup_steps",), sentence))
    for key in _WARMUP_OPTIONS:
        if key in options and not warmup:
            mistakes.append(no_effect((OPTIONS, key), "has an effect only with warmup_steps above 0"))
    if "num_cycles" in options and options.get("decay_type", "cosine") != "cosine":
        mistakes.append(no_effect((OPTIONS, "num_cycles"), "has an effect only with decay_type: cosine"))
    return mistakes


def _wrong_value(key: str, value: Any) -> str | None:
    if key in _CHOICES:
        allowed = _CHOICES[key]
        return None if value in allowed else f"must be {listed(allowed)}, not {shown(value)}"
    if key in _INTEGERS:
        low = _INTEGERS[key]
        if isinstance(value, int) and not isinstance(value, bool) and value >= low:
            return None
        return f"must be an integer of at least {low}, not {shown(value)}"
    if key not in _NUMBERS:
        return None
    high = _NUMBERS[key]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and (value > 0 if key == "num_cycles" else 0 <= value <= high):
        return None
    bounds = "above 0" if key == "num_cycles" else "of at least 0" if high == math.inf else "from 0 to 1"
    return f"must be a number {bounds}, not {shown(value)}"
