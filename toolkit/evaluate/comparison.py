"""`toolkit.evaluate(...)`: measure models from Python, as `toolkit evaluate` does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.base.errors import UsageError
from toolkit.config.schema import DataSource
from toolkit.data.data_sources import Part
from toolkit.evaluate import context, request, reward_models, stage
from toolkit.evaluate.naming import models_by_name
from toolkit.runs import seal
from toolkit.runs.evaluation import ModelComparison
from toolkit.runs.hub import Reference

PathOrText = str | os.PathLike[str]


def evaluate(
    models: PathOrText | Sequence[PathOrText],
    data: PathOrText | DataSource,
    *,
    baseline: PathOrText | None = None,
    judge: PathOrText | None = None,
    part: Part | None = None,
    examples: int | None = None,
    perplexity: Mapping[str, Any] | None = None,
    win_rate: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> ModelComparison:
    """Measure perplexity on text, with a baseline win rates on prompts, and reward models on preferences.

    The numbers are those of `toolkit evaluate --json`. Models are loaded in this process, one after another.

    Args:
        models: runs, checkpoints, model folders or Hub ids.
        data: `storyworld`, a file, a Hub dataset, a sealed corpus run, or a DataSource.
        baseline: the model that the others are compared with.
        judge: who compares the answers: `gold` (the default), a reward model, a file of votes, an endpoint.
        part: the rows of a file or Hub dataset to measure, `held_out`, `train` or `all`; by default all rows,
            but the held-out ones of a file that a model, the judge, or one of their ancestors was trained on.
        examples: maximum number of documents or prompts; a DataSource has its own limits.
        perplexity, win_rate: further settings of these parts of an evaluate recipe, such as
            `{"max_new_tokens": 128}`.
        seed: of sampling and of bootstraps.

    Raises:
        ToolkitError: a model, data, a judge or a setting that cannot be used.
    """
    entries = [models] if isinstance(models, str | os.PathLike) else models
    names = list(dict.fromkeys(os.fspath(model) for model in entries))
    if not names:
        raise UsageError("there is no model", where="models", fix="give at least one")
    source = _source(data, examples)
    start = None if baseline is None else os.fspath(baseline)
    surroundings = context.of_current_folder()
    by_name = models_by_name(list(dict.fromkeys([*([start] if start else []), *names])))
    references = {name: surroundings.model_reference(model) for name, model in by_name.items()}
    if reward_models.are_reward_models(references):
        return _measure_reward_models(references, source, surroundings, part=part, seed=seed)
    settings = {**(win_rate or {}), **({"judge": os.fspath(judge)} if judge is not None else {})}
    recipe = request.build_recipe(
        names, source, baseline=start, perplexity=perplexity, win_rate=settings, seed=seed
    )
    return stage.evaluate(recipe, surroundings, part=part)


def _source(data: PathOrText | DataSource, examples: int | None) -> str | DataSource:
    """Return a corpus run's directory, or a source."""
    if isinstance(data, DataSource):
        if examples is not None:
            raise UsageError("a DataSource has its own limits", where="examples", fix="set them there")
        return data
    name = os.fspath(data)
    return name if seal.is_run(Path(name)) else request.data_source(name, examples=examples)


def _measure_reward_models(
    references: Mapping[str, Reference],
    source: str | DataSource,
    surroundings: context.EvaluationContext,
    *,
    part: Part | None,
    seed: int,
) -> ModelComparison:
    if not isinstance(source, DataSource):
        raise UsageError("is a run, and reward models are measured on preferences", where=source,
                         fix="name preferences, such as storyworld")  # fmt: skip
    return reward_models.measure(references, source, surroundings, part=part, seed=seed)
