"""The recipe of an evaluation of some models on some data: what is measured depends on what the data hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from toolkit.base.errors import UsageError
from toolkit.config import data_formats
from toolkit.config.schema import DataSource, EvaluateRecipe
from toolkit.config.schema.evaluate import EVALUATED_EXAMPLES
from toolkit.data import files, hub, tables
from toolkit.data.chat.formats import RowFormat
from toolkit.data.data_sources import as_sources
from toolkit.runs import seal


def build_recipe(
    models: Sequence[str],
    data: str | DataSource,
    *,
    baseline: str | None = None,
    perplexity: Mapping[str, object] | None = None,
    win_rate: Mapping[str, object] | None = None,
    **settings: object,
) -> EvaluateRecipe:
    """Return a recipe that measures perplexity on text, and with a baseline the win rate on prompts.

    Args:
        data: a sealed corpus run, or a source.
        baseline: the model that the others are compared with; it is measured first.
        perplexity, win_rate: settings of these measurements, without data and baseline.
        settings: further settings of the recipe, such as `seed` and `precision`.

    Raises:
        UsageError: data of neither kind, prompts without a baseline, or a setting out of its range.
    """
    measured = dict.fromkeys([*([baseline] if baseline else []), *models])
    recipe: dict[str, object] = {"stage": "evaluate", "models": list(measured), **settings}
    scoring = {**(perplexity or {}), "baseline": baseline}
    if isinstance(data, str) and seal.is_run(Path(data)):
        recipe["perplexity"] = {**scoring, "tokens": data}
    else:
        source = data if isinstance(data, DataSource) else data_source(data)
        has_text, has_prompts = contents(source)
        if has_text:
            recipe["perplexity"] = {**scoring, "data": source}
        if has_prompts and baseline:
            recipe["data"] = _with_default_config(source, "prompts")
            recipe["win_rate"] = {**(win_rate or {}), "baseline": baseline}
        elif not has_text:
            raise UsageError(
                "holds prompts, whose answers are compared with those of a baseline",
                where=source.name,
                fix="give a baseline",
            )
    try:
        return EvaluateRecipe.model_validate(recipe)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, row['loc']))}: {row['msg']}" for row in error.errors()]
        raise UsageError("; ".join(lines), fix="give other values") from None


def data_source(
    name: str, *, config: str | None = None, split: str | None = None, field: str | None = None,
    examples: int | None = None, world: str | None = None,
) -> DataSource:  # fmt: skip
    """Return the source that a name stands for, with at most `examples` examples of what is measured.

    Args:
        examples: by default `EVALUATED_EXAMPLES` of the storyworld and of a Hub dataset, and a whole file.
        world: of the storyworld; without effect on other data.
    """
    is_storyworld = name == files.STORYWORLD
    limit = examples or (None if files.is_local(name) else EVALUATED_EXAMPLES)
    return DataSource(
        name=name,
        world=world if is_storyworld else None,
        config=config,
        split=split,
        field=field,
        examples=None if is_storyworld else limit,
        held_out_examples=limit if is_storyworld else None,
    )


def _with_default_config(source: DataSource, config: str) -> DataSource:
    if source.name != files.STORYWORLD or source.config is not None:
        return source
    return source.model_copy(update={"config": config})


def contents(source: DataSource) -> tuple[bool, bool]:
    """Return whether a source holds text, and whether it holds prompts, by its first row.

    Raises:
        UsageError: neither.
    """
    if source.name == files.STORYWORLD:
        return source.config in (None, "stories"), source.config != "stories"
    as_sources(source)
    paths = files.resolve(source)
    if paths and data_formats.suffix_of(paths[0].name) == data_formats.TEXT:
        return True, False
    row, value = _first_row(source, paths)
    if value is not None:
        is_text = isinstance(value, str) or (
            isinstance(value, list) and all(isinstance(item, str) for item in value)
        )
        return is_text, not is_text
    has_text = row.get("text") is not None
    has_prompts = RowFormat(source).holds_prompt(row, location=source.name)
    if has_text or has_prompts:
        return has_text, has_prompts
    raise UsageError(
        f"neither text nor conversations: the columns are {', '.join(row)}",
        where=source.name,
        fix="name the column that holds the text",
    )


def _first_row(source: DataSource, paths: Sequence[Path] | None) -> tuple[Mapping[str, object], object]:
    """Return the first row, and the first value of the column `field` that is not null (None without it)."""
    rows = (
        hub.rows(source, streaming=True) if paths is None else tables.rows(paths[0], encoding=source.encoding)
    )
    row: Mapping[str, object] = {}
    for location, row in rows:
        value = tables.value_of(row, source.field, location=location) if source.field is not None else None
        if value is not None or source.field is None:
            return row, value
    return row, None
