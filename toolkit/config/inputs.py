"""What a recipe names: data sources, runs and models, and files. Nothing is read here.

A key of these settings is a path as in `("win_rate", "judge_data")`; a single data source has the key of its
setting, `("data",)`, whether it is written as a mapping or as a list of one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from toolkit.base.errors import DataError
from toolkit.config import data_formats
from toolkit.config.judge_kinds import kind
from toolkit.config.registry import PRODUCTS
from toolkit.config.schema import (
    AnnotatorSettings,
    DataSource,
    HeldOut,
    RewardSettings,
    SftRecipe,
    WinRateSettings,
)
from toolkit.config.schema.base import STORYWORLD
from toolkit.config.yaml_source import Key

ModelType = TypeVar("ModelType", bound=BaseModel)

STORYWORLD_SETTINGS = ("world", "flawed_share", "complying_share", "temperature")
"""Settings of a data source that only the storyworld has."""
CHAT_TEMPLATES = ("auto", "chatml", "toolkit")
DATA_SETTINGS = frozenset({"data", "judge_data"})
"""The settings that hold data sources."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?")
"""`name` or `owner/name`, with an optional `@revision`."""
_GLOB = re.compile(r"[*?\[]")
# A file name ends in a suffix that begins with a letter: `owner/corpus-v1.5` is a Hub name.
_FILE_SUFFIX = re.compile(r"\.[A-Za-z]\w{1,7}$")


def is_local(name: str, *, kind: Literal["data", "model"] = "data") -> bool:
    """Return whether a name means something on this machine rather than on the Hugging Face Hub.

    A name is local if it exists (a link that leads nowhere, too), begins with `.`, `/`, `~` or `runs/`,
    contains a backslash, has two or more slashes before an `@revision`, or contains a glob pattern.

    Args:
        kind: `data` also treats a name with a file suffix (`a/b.csv`) as local, and `storyworld` as not.
    """
    if kind == "data" and name == STORYWORLD:
        return False
    if name.startswith((".", "/", "~")) or "\\" in name or _GLOB.search(name) or os.path.lexists(name):
        return True
    if name.partition("@")[0].count("/") > 1:
        return True
    if kind == "model" or name.startswith("runs/"):
        return name.startswith("runs/")
    return data_formats.is_votes(name) or ("@" not in name and bool(_FILE_SUFFIX.search(name)))


def data_sources(recipe: BaseModel) -> Iterator[tuple[Key, DataSource]]:
    """Yield every data source of a recipe with its key, those of nested settings included."""
    for key, value in _settings(recipe, ()):
        if isinstance(value, DataSource):
            yield key, value


def has_separate_held_out(source: DataSource) -> bool:
    """Return whether the held-out rows of a source are those of another file, dataset or split."""
    held_out = source.held_out
    return isinstance(held_out, HeldOut) and (held_out.name is not None or held_out.split is not None)


def separate_held_out(source: DataSource) -> DataSource:
    """Return the other file, dataset or split that holds the held-out rows, to be read as the source is."""
    assert isinstance(source.held_out, HeldOut)
    split, name = source.held_out.split, source.held_out.name
    if name is None:
        return source.model_copy(update={"held_out": None, "split": split})
    suffix, is_file = data_formats.suffix_of(name), is_local(name)
    return source.model_copy(
        update={
            "held_out": None,
            "name": name,
            "split": "all",
            "config": None,
            # Settings without effect on the other file are no mistake of the user.
            "encoding": source.encoding if is_file and suffix not in data_formats.NOT_TEXT else None,
            "separator": source.separator if is_file and suffix not in data_formats.TABLES else None,
        }
    )


def references(recipe: BaseModel) -> Iterator[tuple[Key, str]]:
    """Yield every run or model that a recipe names, such as `("model",), "runs/tiny/sft"`.

    A data source `runs/...` is a run of preferences.

    `gold`, an endpoint and a file of votes are judges, but neither runs nor models.
    """
    for key, value in _settings(recipe, ()):
        setting = setting_of(key)
        if isinstance(value, DataSource) and value.name.startswith("runs/"):
            yield key, value.name
        elif isinstance(value, str) and setting in PRODUCTS:
            is_judge = setting in ("judge", "reward_model")
            if not is_judge or kind(value) == "model":
                yield key, value


def world_of(sources: Iterable[DataSource]) -> str | None:
    """Return the world of the storyworld that all sources are of; None for other data and several worlds."""
    worlds = {source.world or "large" if source.name == STORYWORLD else None for source in sources}
    return worlds.pop() if len(worlds) == 1 else None


def with_sources(settings: ModelType, replace: Callable[[DataSource], DataSource]) -> ModelType:
    """Return a copy of settings in which every data source is replaced."""
    return settings.model_copy(
        update={name: _replaced(getattr(settings, name), replace) for name in type(settings).model_fields}
    )


def _replaced(value: Any, replace: Callable[[DataSource], DataSource]) -> Any:
    if isinstance(value, DataSource):
        return replace(value)
    if isinstance(value, BaseModel):
        return with_sources(value, replace)
    return [_replaced(item, replace) for item in value] if isinstance(value, list) else value


def files(recipe: BaseModel) -> Iterator[tuple[Key, Path]]:
    """Yield every file besides the data that the result depends on: reward functions and votes.

    Raises:
        DataError: there is no such file.
    """
    for key, value in _settings(recipe, (), models=True):
        if isinstance(value, RewardSettings) and value.function is not None:
            yield (*key, "function"), function_file(value.function)
        elif isinstance(value, SftRecipe) and value.chat_template not in CHAT_TEMPLATES:
            if not Path(value.chat_template).is_file():
                raise DataError(
                    "there is no such file with a chat template", where=value.chat_template,
                    fix=f"give one of {', '.join(CHAT_TEMPLATES)}, or the path of a Jinja file",
                )  # fmt: skip
            yield (*key, "chat_template"), Path(value.chat_template)
        elif isinstance(value, WinRateSettings | AnnotatorSettings) and kind(value.judge) == "votes":
            if not data_formats.pinned(Path(value.judge))[0].is_file():
                raise DataError(
                    "there is no such file of votes", where=value.judge, fix=f"check {key_text(key)}.judge"
                )
            yield (*key, "judge"), Path(value.judge)


def function_file(reference: str) -> Path:
    """Return the file of a reward function `FILE.py:NAME`.

    Raises:
        DataError: there is no such file, or it is not a Python file.
    """
    name = reference.rpartition(":")[0]
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        raise DataError(f"there is no file {name!r}", where="rewards.function", fix="write FILE.py:NAME")
    return path


def setting_of(key: Key) -> str:
    """Return the name of the setting at a key: `models` for `("models", 0)`."""
    return next(part for part in reversed(key) if isinstance(part, str))


def key_text(key: Key) -> str:
    """Return a key as manifests write it: `models[0]`, `win_rate.judge_data`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def canonical_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which a list of one data source is that source: both forms mean the same."""
    canonical: dict[str, Any] = {}
    for name, value in settings.items():
        if name in DATA_SETTINGS and isinstance(value, list) and len(value) == 1:
            value = value[0]
        canonical[name] = canonical_settings(value) if isinstance(value, dict) else value
    return canonical


def canonical_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return {key of a data source: anything} with `data` for the only entry of a list, `data[0]`."""
    canonical = {}
    for key, value in values.items():
        setting = key.removesuffix("[0]")
        is_only = setting != key and f"{setting}[1]" not in values
        canonical[setting if is_only and setting.rpartition(".")[2] in DATA_SETTINGS else key] = value
    return canonical


def _settings(value: Any, key: Key, *, models: bool = False) -> Iterator[tuple[Key, Any]]:
    """Yield every value of nested settings with its key; a data source is one value.

    Args:
        models: yield nested settings, too, before what they hold.
    """
    if isinstance(value, BaseModel) and not isinstance(value, DataSource):
        if models:
            yield key, value
        for name in type(value).model_fields:
            yield from _settings(getattr(value, name), (*key, name), models=models)
    elif isinstance(value, list | tuple):
        is_single = bool(key) and key[-1] in DATA_SETTINGS and len(value) == 1
        for index, item in enumerate(value):
            yield from _settings(item, key if is_single else (*key, index), models=models)
    else:
        yield key, value
