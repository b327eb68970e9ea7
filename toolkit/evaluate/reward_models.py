"""Measuring reward models on held-out preferences, for `toolkit evaluate`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

import torch
from transformers.utils.logging import disable_progress_bar

from toolkit.base.errors import UsageError
from toolkit.config.schema import DataSource
from toolkit.data import files
from toolkit.data.chat import sources
from toolkit.data.data_sources import Part
from toolkit.evaluate import trained_on
from toolkit.evaluate.context import EvaluationContext
from toolkit.models.loading import Dtype, is_classifier, load_reward_model
from toolkit.models.tokenizer_loading import load_tokenizer
from toolkit.runs import hub
from toolkit.runs.evaluation import ModelComparison, ModelEvaluation
from toolkit.runs.hub import Reference
from toolkit.runtime import devices
from toolkit.stages import reward_quality


def are_reward_models(references: Mapping[str, Reference]) -> bool:
    """Return whether the models are reward models, according to their configurations.

    Raises:
        ToolkitError: a configuration that cannot be loaded.
        UsageError: reward models and language models are mixed.
    """
    has_score_head = {name: is_classifier(reference) for name, reference in references.items()}
    if any(has_score_head.values()) and not all(has_score_head.values()):
        language = ", ".join(name for name, has_head in has_score_head.items() if not has_head)
        reward = ", ".join(name for name, has_head in has_score_head.items() if has_head)
        raise UsageError(
            f"{reward} is a reward model and {language} a language model: no metric applies to both",
            where="models", fix="evaluate the reward model separately, or use it as the judge",
        )  # fmt: skip
    return any(has_score_head.values())


def measure(
    references: Mapping[str, Reference],
    source: DataSource,
    surroundings: EvaluationContext,
    *,
    part: Part | None = None,
    seed: int,
    dtype: Dtype = torch.float32,
) -> ModelComparison:
    """Return the measurements of each reward model on the preferences of a source, by the model's name.

    Args:
        part: of the source; by default all rows, or those that no training of the models read.
        dtype: of the weights.

    Raises:
        UsageError: the part cannot be computed.
        DataError: no preferences, or none that fits in the context of a model.
    """
    if source.name == files.STORYWORLD and source.config is None:
        source = source.model_copy(update={"config": "preferences"})
    disable_progress_bar()  # of loading weights
    measured_part = trained_on.select(
        source, references.values(), part=part, is_text=False, keeps_field=source.field is not None
    )
    surroundings = replace(surroundings, measured_part=measured_part, models=tuple(references.values()))
    device = devices.select("auto")
    tokenizers = [load_tokenizer(reference) for reference in references.values()]
    read = functools.partial(sources.preferences, tokenizers=tokenizers)
    rows = surroundings.read_rows(read, measured_part.source, unit="pairs", seed=seed)
    measurements = {}
    for name, reference in references.items():
        model, tokenizer = load_reward_model(reference, device=device, dtype=dtype)
        pairs = reward_quality.fitting_pairs(model, tokenizer, rows, where=f"{name} on {source.name}")
        metrics = reward_quality.measure(
            model, pairs, pad_id=tokenizer.pad_token_id, seed=seed, shown_as=f"{name}: held-out pairs"
        )
        measurements[name] = ModelEvaluation.combined(
            metrics, left_out=pairs.lengths.left_out, seed=seed, hub_commit=hub.commit_of(reference)
        )
    return surroundings.complete(ModelComparison(models=measurements))
