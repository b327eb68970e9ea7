"""What pydantic found, in plain words: one readable sentence for each mistake, with a suggestion."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel

from toolkit.config.schema import DataSource
from toolkit.config.yaml_source import Key, scalar

# What other programs call it.
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
    "context_length": ("n_positions",),
    "model_name_or_path": ("model",),
    "ppo_epochs": ("epochs",),
    "total_episodes": ("episodes",),
    "path": ("name",),
    "max_length": ("sequence_length",),
    "output_dir": ("run",),
}


def shown(value: Any) -> str:
    """A value as a recipe would spell it, cut at 60 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(shown(item) for item in value) + "]"
    else:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean x?`, or nothing where no known word is close."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:
        close = [name for name in known if name.lower() == word.lower().replace("-", "_")][:1]
    return f"; did you mean {close[0]}?" if close else ""


def listed(words: Iterable[Any]) -> str:
    """`a, b or c`."""
    words = [word if isinstance(word, str) else shown(word) for word in words]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def alternatives(annotation: Any) -> list[Any]:
    """The members of a type: unions opened, `None` and `Annotated` taken off."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return alternatives(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [one for member in typing.get_args(annotation) for one in alternatives(member)]
    return [] if annotation is type(None) else [annotation]


def is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def types_at(model: Any, key: Key) -> list[Any]:
    """The types that the schema allows at `key` of `model`; empty where there is no such key."""
    here = [model]
    for part in key:
        below: list[Any] = []
        for one in here:
            if is_model(one) and part in one.model_fields:
                below += alternatives(one.model_fields[part].annotation)
            elif typing.get_origin(one) is list and isinstance(part, int):
                below += alternatives(typing.get_args(one)[0])
            elif typing.get_origin(one) is dict and isinstance(part, str):
                below += alternatives(typing.get_args(one)[1])
        here = below
    return here


def settings_of(model: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a model, those of nested models included (list entries left out)."""
    keys: list[str] = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        for one in alternatives(info.annotation):
            if is_model(one):
                keys += settings_of(one, f"{prefix}{name}.")
    return keys


def explain(
    model: type[BaseModel], value: Any, errors: list[dict[str, Any]], *, trainer_keys: Iterable[str] = ()
) -> list[tuple[Key, str]]:
    """(key, sentence) of every mistake in `value`; the branches of a union are folded into one.

    Args:
        model: the recipe class that refused it.
        value: the whole recipe as read.
        errors: `ValidationError.errors()`.
        trainer_keys: the upstream trainer's keys, which the schema does not list.
    """
    found: dict[Key, str] = {}
    known = [*settings_of(model), *(f"trainer.{name}" for name in trainer_keys)]
    for error in errors:
        key, branch = _place(model, value, error["loc"])
        if branch is None:
            key, sentence = _pointed(model, key, _sentence(model, key, error, known), error["type"])
            found.setdefault(key, sentence)
        elif not any(_fits(one, value_at(value, key)) for one in types_at(model, key)):
            found.setdefault(key, _wanted(types_at(model, key), value_at(value, key)))
    return list(found.items())


def value_at(value: Any, key: Key) -> Any:
    """The value at `key`, `None` where there is none."""
    for part in key:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value


def _place(model: Any, value: Any, location: tuple[str | int, ...]) -> tuple[Key, Any]:
    """The key of pydantic's location, and the branch of a union there that the value is not meant for."""
    key: Key = ()
    here = [model]
    for part in location:
        if len(here) > 1:  # this part names the branch: "DataSource", "list[...]", "bool"
            here = [_branch(here, str(part))]
            if not _fits(here[0], value_at(value, key)):
                return key, here[0]
            continue
        key = (*key, part)
        here = types_at(here[0], (part,))
    return key, None


def _pointed(model: Any, key: Key, sentence: str, kind: str) -> tuple[Key, str]:
    """A validator's sentence begins with the setting that is wrong: its key, and the rest."""
    word, _, rest = sentence.partition(" ")
    if kind != "value_error":
        return key, sentence
    for one in types_at(model, key):
        for setting in settings_of(one) if is_model(one) else ():
            if word in (setting, setting.rpartition(".")[2]):
                return (*key, *setting.split(".")), rest
    return key, sentence


def _fits(branch: Any, given: Any) -> bool:
    """Whether a branch of a union is the one that was meant: by shape, so scalars fit none."""
    if typing.get_origin(branch) is list:
        return isinstance(given, list)
    return is_model(branch) and isinstance(given, dict)


def _branch(members: list[Any], tag: str) -> Any:
    for one in members:
        name = getattr(one, "__name__", str(one))
        is_list = typing.get_origin(one) is list
        if (is_list and tag.startswith("list")) or (not is_list and tag == name):
            return one
    return members[0]


def _sentence(model: Any, key: Key, error: dict[str, Any], known: list[str]) -> str:
    kind, context, given = error["type"], error.get("ctx", {}), error["input"]
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return _unknown(model, key, known)
    if kind == "value_error":
        return str(context["error"])
    bounds = {
        "greater_than": ("gt", "greater than"),
        "greater_than_equal": ("ge", "at least"),
        "less_than": ("lt", "less than"),
        "less_than_equal": ("le", "at most"),
    }
    if kind in bounds:
        name, words = bounds[kind]
        return f"must be {words} {context[name]:.12g}, not {shown(given)}"
    if kind == "too_short":
        return "must not be empty"
    return _wanted(types_at(model, key), given)


def _unknown(model: Any, key: Key, known: list[str]) -> str:
    name = str(key[-1])
    siblings = [field for one in types_at(model, key[:-1]) if is_model(one) for field in one.model_fields]
    synonyms = [one for one in SYNONYMS.get(name, ()) if one in siblings]
    close = f"; did you mean {synonyms[0]}?" if synonyms else suggestion(name, siblings)
    if not close:
        elsewhere = [path for path in known if path.rpartition(".")[2] == name]
        close = f"; did you mean {elsewhere[0]}?" if elsewhere else f"; known here: {', '.join(siblings)}"
    return f"unknown key{close}"


def _wanted(members: list[Any], given: Any) -> str:
    """`must be <the allowed types>, not <given>`."""
    literals = [item for one in members if typing.get_origin(one) is Literal for item in typing.get_args(one)]
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if literals and all(typing.get_origin(one) is Literal or one is bool for one in members):
        words = [*map(str, literals), *(["true", "false"] if bool in members else [])]
        close = suggestion(given, words) if isinstance(given, str) else ""
        one_of = "one of " if len(words) > 1 else ""
        return f"must be {one_of}{', '.join(words)}, not {shown(given)}{close}"
    parts = [names[one] for one in members if one in names]
    models = [one for one in members if is_model(one) or typing.get_origin(one) is dict]
    parts += [
        "a mapping such as {name: storyworld}" if one is DataSource else "a mapping (key: value)"
        for one in models
    ]
    parts += ["a list" for one in members if typing.get_origin(one) is list]
    return f"must be {listed(parts)}, not {shown(given)}{repair(members, given)}"


def repair(members: list[Any], given: Any) -> str:
    """How to write a value that was nearly right: `1e6` or `1_000` for a whole number, 3 for text."""
    number = int in members or float in members
    if isinstance(given, float) and int in members and given.is_integer():
        return f"; did you mean {int(given)}?"
    if isinstance(given, str) and number:
        digits = given.replace("_", "").replace(",", "")
        if digits != given and digits.isdigit():
            return f"; did you mean {int(digits)}?"
        return "; write it without quotes" if isinstance(scalar(given), (int, float)) else ""
    if isinstance(given, str) and bool in members and given.lower() in ("yes", "on", "no", "off"):
        return f"; did you mean {'true' if given.lower() in ('yes', 'on') else 'false'}?"
    if str in members and isinstance(given, (int, float)) and not isinstance(given, bool):
        return f"; write it in quotes, '{given}'"
    return ""
