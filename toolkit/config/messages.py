"""Validation errors of pydantic as one readable sentence each, with a suggestion."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel

from toolkit.base.errors import ProblemKind
from toolkit.config.schema import DataSource
from toolkit.config.yaml_source import Key, scalar


class Mistake(NamedTuple):
    """One mistake in the settings of a recipe."""

    key: Key
    what: str
    """One sentence, without the key."""
    kind: ProblemKind


def no_effect(key: Key, sentence: str) -> Mistake:
    """Return the mistake of a setting that would change nothing."""
    return Mistake(key, sentence, ProblemKind.NO_EFFECT)


def conflict(key: Key, sentence: str) -> Mistake:
    """Return the mistake of a setting that contradicts another."""
    return Mistake(key, sentence, ProblemKind.CONFLICT)


# Names in other programs -> ours.
SYNONYMS = {
    "beta": ("kl_coefficient",),
    "kl_coef": ("kl_coefficient",),
    "lr": ("learning_rate",),
    "batch_size": ("batch_examples", "batch_tokens", "rollout_examples"),
    "dataset": ("data",),
    "datasets": ("data",),
    "max_steps": ("train_tokens", "episodes"),
    "bf16": ("precision",),
    "fp16": ("precision",),
    "rank": ("r",),
    "lora_alpha": ("alpha",),
    "num_layers": ("n_layer",),
    "hidden_size": ("n_embd",),
    "num_heads": ("n_head",),
    "num_hidden_layers": ("n_layer",),
    "num_attention_heads": ("n_head",),
    "num_key_value_heads": ("n_kv_head",),
    "intermediate_size": ("n_inner",),
    "context_length": ("n_positions",),
    "model_name_or_path": ("model",),
    "ppo_epochs": ("epochs",),
    "total_episodes": ("episodes",),
    "path": ("name",),
    "max_length": ("sequence_length",),
    "output_dir": ("run",),
}


def shown(value: Any) -> str:
    """Return a value as a recipe would spell it, cut at 60 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(shown(item) for item in value) + "]"
    else:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Return `; did you mean x?`, or nothing where no choice is close."""
    choices = list(choices)
    matches = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if not matches:
        matches = [name for name in choices if name.lower() == word.lower().replace("-", "_")][:1]
    return f"; did you mean {matches[0]}?" if matches else ""


def listed(words: Iterable[Any]) -> str:
    """Return `a, b or c`."""
    words = [word if isinstance(word, str) else shown(word) for word in words]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def alternatives(annotation: Any) -> list[Any]:
    """Return the members of a type: unions opened, `None` and `Annotated` removed."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return alternatives(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [option for member in typing.get_args(annotation) for option in alternatives(member)]
    return [] if annotation is type(None) else [annotation]


def is_model(annotation: Any) -> bool:
    """Return whether a type is a class of settings."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def types_at(model: Any, key: Key) -> list[Any]:
    """Return the types that the schema allows at `key` of `model`; empty where there is no such key."""
    parents = [model]
    for part in key:
        children: list[Any] = []
        for parent in parents:
            if is_model(parent) and part in parent.model_fields:
                children += alternatives(parent.model_fields[part].annotation)
            elif typing.get_origin(parent) is list and isinstance(part, int):
                children += alternatives(typing.get_args(parent)[0])
            elif typing.get_origin(parent) is dict and isinstance(part, str):
                children += alternatives(typing.get_args(parent)[1])
        parents = children
    return parents


def settings_of(model: Any, prefix: str = "") -> list[str]:
    """Return every dotted key of a model, those of nested models included (list entries left out)."""
    keys: list[str] = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        for option in alternatives(info.annotation):
            if is_model(option):
                keys += settings_of(option, f"{prefix}{name}.")
    return keys


def explain(
    model: type[BaseModel],
    value: Any,
    errors: Sequence[Mapping[str, Any]],
    *,
    trainer_keys: Iterable[str] = (),
) -> list[Mistake]:
    """Return every mistake in `value`, one for all branches of a union.

    Args:
        model: the recipe class that refused it.
        value: the whole recipe as read.
        errors: `ValidationError.errors()`.
        trainer_keys: the upstream trainer's keys, which the schema does not list.
    """
    mistakes: dict[Key, Mistake] = {}
    all_keys = [*settings_of(model), *(f"trainer.{name}" for name in trainer_keys)]
    for error in errors:
        key, branch = _locate(model, value, error["loc"])
        if branch is None:
            mistake = _mistake(model, key, error, all_keys)
            mistakes.setdefault(mistake.key, mistake)
        elif not any(_fits(option, value_at(value, key)) for option in types_at(model, key)):
            mistakes.setdefault(key, _wrong_type(types_at(model, key), key, value_at(value, key)))
    return list(mistakes.values())


def value_at(value: Any, key: Key) -> Any:
    """Return the value at `key`, `None` where there is none."""
    for part in key:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value


def _locate(model: Any, value: Any, location: tuple[str | int, ...]) -> tuple[Key, Any]:
    """Return the key of pydantic's location, and the branch of a union there that the value does not fit."""
    key: Key = ()
    options = [model]
    for part in location:
        if len(options) > 1:  # this part names the branch: "DataSource", "list[...]", "bool"
            options = [_branch(options, str(part))]
            if not _fits(options[0], value_at(value, key)):
                return key, options[0]
            continue
        key = (*key, part)
        options = types_at(options[0], (part,))
    return key, None


def _fits(branch: Any, value: Any) -> bool:
    """Return whether a branch of a union was meant, judged by the shape of the value: a scalar fits none."""
    if typing.get_origin(branch) is list:
        return isinstance(value, list)
    return is_model(branch) and isinstance(value, dict)


def _branch(members: list[Any], tag: str) -> Any:
    for member in members:
        origin, name = typing.get_origin(member), getattr(member, "__name__", str(member))
        if origin in (list, Literal):
            if tag.startswith(f"{name.lower()}["):
                return member
        elif tag == name or (tag.startswith("function-") and tag.rstrip("]").endswith(f" {name}")):
            return member
    return members[0]


_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _mistake(model: Any, key: Key, error: Mapping[str, Any], all_keys: list[str]) -> Mistake:
    error_type, context, value = error["type"], error.get("ctx", {}), error["input"]
    if error_type == "missing":
        return Mistake(key, "is required", ProblemKind.MISSING)
    if error_type == "extra_forbidden":
        return Mistake(key, _unknown(model, key, all_keys), ProblemKind.UNKNOWN)
    if error_type == "value_error":
        return _of_validator(model, key, str(context["error"]))
    if error_type in _BOUNDS:
        name, words = _BOUNDS[error_type]
        is_positive = isinstance(value, int) and (error_type, context[name]) == ("greater_than", 0)
        is_positive = is_positive and int in types_at(model, key)
        bound = "a positive integer" if is_positive else f"{words} {context[name]:.12g}"
        return Mistake(key, f"must be {bound}, not {shown(value)}", ProblemKind.VALUE)
    if error_type == "too_short":
        return Mistake(key, "must not be empty", ProblemKind.VALUE)
    return _wrong_type(types_at(model, key), key, value)


def _of_validator(model: Any, key: Key, sentence: str) -> Mistake:
    """Return the mistake of a validator, whose sentence begins with the setting that is wrong."""
    word, _, rest = sentence.partition(" ")
    for option in types_at(model, key):
        for setting in settings_of(option) if is_model(option) else ():
            if word in (setting, setting.rpartition(".")[2]):
                return Mistake((*key, *setting.split(".")), rest, ProblemKind.CONFLICT)
    return Mistake(key, sentence, ProblemKind.CONFLICT)


def _unknown(model: Any, key: Key, all_keys: list[str]) -> str:
    name = str(key[-1])
    siblings = [
        field for option in types_at(model, key[:-1]) if is_model(option) for field in option.model_fields
    ]
    synonyms = [synonym for synonym in SYNONYMS.get(name, ()) if synonym in siblings]
    hint = f"; did you mean {synonyms[0]}?" if synonyms else suggestion(name, siblings)
    if not hint:
        elsewhere = [path for path in all_keys if path.rpartition(".")[2] == name]
        hint = (
            f"; did you mean {elsewhere[0]}?" if elsewhere else f"; the keys here are {', '.join(siblings)}"
        )
    return f"unknown key{hint}"


TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
"""Types as messages call them."""


def _wrong_type(members: list[Any], key: Key, value: Any) -> Mistake:
    """Return `must be <the allowed types>, not <value>`."""
    literals = [
        item for member in members if typing.get_origin(member) is Literal for item in typing.get_args(member)
    ]
    if literals and all(typing.get_origin(member) is Literal or member is bool for member in members):
        words = [*map(str, literals), *(["true", "false"] if bool in members else [])]
        hint = suggestion(value, words) if isinstance(value, str) else ""
        one_of = "one of " if len(words) > 1 else ""
        sentence = f"must be {one_of}{', '.join(words)}, not {shown(value)}{hint}"
        return Mistake(key, sentence, ProblemKind.VALUE if isinstance(value, str) else ProblemKind.TYPE)
    parts = [*map(str, literals), *(TYPE_NAMES[member] for member in members if member in TYPE_NAMES)]
    parts += [
        "a mapping such as {name: storyworld}" if member is DataSource else "a mapping (key: value)"
        for member in members
        if is_model(member) or typing.get_origin(member) is dict
    ]
    parts += ["a list" for member in members if typing.get_origin(member) is list]
    return Mistake(
        key, f"must be {listed(parts)}, not {shown(value)}{repair(members, value)}", ProblemKind.TYPE
    )


def repair(members: list[Any], value: Any) -> str:
    """Return how to write a value that was nearly right: `1e6` or `1_000` for an integer, 3 for a string."""
    number = int in members or float in members
    if isinstance(value, float) and int in members and value.is_integer():
        return f"; did you mean {int(value)}?"
    if isinstance(value, str) and number:
        digits = value.replace("_", "").replace(",", "")
        if digits != value and digits.isdigit():
            return f"; did you mean {int(digits)}?"
        return "; write it without quotes" if isinstance(scalar(value), (int, float)) else ""
    if isinstance(value, str) and bool in members and value.lower() in ("yes", "on", "no", "off"):
        return f"; did you mean {'true' if value.lower() in ('yes', 'on') else 'false'}?"
    if str in members and isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"; write it in quotes, '{value}'"
    return ""
